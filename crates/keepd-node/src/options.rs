//! Settings of a member.

use std::path::PathBuf;
use std::time::Duration;

use keepd_machine::levels;
use keepd_member::InitialCluster;
use keepd_types::limits;

use crate::bootstrap::Bootstrap;

/// etcd's interval between two commits of its backend.
pub const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// Entries between two releases of the log: etcd's between two snapshots.
const SNAPSHOT_COUNT: u64 = 10_000;
/// etcd's number of entries that a leader keeps in memory for members that lag.
const CATCH_UP_ENTRIES: usize = 5000;
/// etcd's longest time in which entries should be applied.
const APPLY_EXPECTED: Duration = Duration::from_millis(100);
/// Enough for a member that was away for minutes under load.
const LOG_HELD_BYTES: u64 = 256 * 1024 * 1024;

/// Enough for an hour without the place that the log is shipped to.
const SHIPPED_LOG_BYTES: u64 = 1024 * 1024 * 1024;

/// Bytes that a member keeps in reserve for the day when the disk is full: enough for thousands of
/// deletions and the rewrite of a whole segment.
pub const BALLAST_BYTES: u64 = 64 * 1024 * 1024;

/// A member's settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data directory.
    pub data_dir: PathBuf,
    /// The member's name.
    pub name: String,
    /// URLs at which clients reach it.
    pub client_urls: Vec<String>,
    /// The way in which it comes to be if there is no data directory.
    pub bootstrap: Bootstrap,
    /// One Raft tick.
    pub heartbeat_interval: Duration,
    /// Time without a leader before an election.
    pub election_timeout: Duration,
    /// Ask before disturbing a working leader.
    pub pre_vote: bool,
    /// Time for which a member that starts waits for what other voters know of it; by default three
    /// election timeouts.
    pub rejoin_patience: Option<Duration>,
    /// Go on alone with what there is, whoever else was in the cluster; for an existing directory.
    pub force_new_cluster: bool,
    /// Learners that the cluster may have.
    pub learners_max: usize,
    /// The newest feature level that the member reads and announces; less than this version reads only
    /// in tests.
    pub feature_level: u32,
    /// Refuse changes of the cluster that would lose its quorum.
    pub strict_reconfig_check: bool,
    /// Live bytes beyond which writes are refused; `None` is no limit.
    pub quota_bytes: Option<i64>,
    /// The largest command.
    pub request_bytes_max: usize,
    /// Interval between progress notifications to idle watchers.
    pub progress_notify_interval: Duration,
    /// Longest time until applied records become durable in the store.
    pub flush_interval: Duration,
    /// Applied entries after which the log on the disk is let go: what is before stays in the store.
    pub snapshot_count: u64,
    /// Applied entries that are kept in memory for members that lack some; older ones are read from the
    /// log on the disk.
    pub catch_up_entries: usize,
    /// Shorten the wait for the first election after a start, once others are reached.
    pub hastens_first_election: bool,
    /// Time in which a batch of entries should be applied; one that takes longer is logged.
    pub apply_expected: Duration,
    /// BOUND: bytes of log that are kept for members that lack entries; one that lacks more gets the
    /// state.
    pub log_held_bytes: u64,
    /// Places that the log is shipped into: it is held for each from the start.
    pub log_holds: usize,
    /// BOUND: bytes of log that are kept until they are shipped; beyond that there is a gap.
    pub shipped_log_bytes: u64,
    /// The size of the ballast at most.
    pub ballast_bytes: u64,
}

impl Options {
    /// etcd's defaults for a member of one.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            name: "default".to_owned(),
            client_urls: vec!["http://localhost:2379".to_owned()],
            bootstrap: Bootstrap::New(InitialCluster::alone(
                "default",
                "http://localhost:2380",
                "etcd-cluster",
            )),
            heartbeat_interval: limits::HEARTBEAT_INTERVAL,
            election_timeout: limits::ELECTION_TIMEOUT,
            pre_vote: true,
            rejoin_patience: None,
            force_new_cluster: false,
            learners_max: 1,
            feature_level: levels::NEWEST,
            strict_reconfig_check: true,
            quota_bytes: Some(limits::QUOTA_BYTES_DEFAULT),
            request_bytes_max: limits::REQUEST_BYTES_MAX,
            progress_notify_interval: Duration::from_secs(600),
            flush_interval: FLUSH_INTERVAL,
            snapshot_count: SNAPSHOT_COUNT,
            catch_up_entries: CATCH_UP_ENTRIES,
            hastens_first_election: true,
            apply_expected: APPLY_EXPECTED,
            log_held_bytes: LOG_HELD_BYTES,
            log_holds: 0,
            shipped_log_bytes: SHIPPED_LOG_BYTES,
            ballast_bytes: BALLAST_BYTES,
        }
    }

    /// Longest time that a request may wait: five seconds and two elections, as etcd has it.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout
    }

    /// Time for which a member that starts takes no part unless all other voters have said what they
    /// know of it (rule 9.23).
    #[must_use]
    pub fn rejoin_patience(&self) -> Duration {
        self.rejoin_patience.unwrap_or(3 * self.election_timeout)
    }

    /// The shortest lease: three half elections, in whole seconds.
    #[must_use]
    pub fn lease_ttl_min(&self) -> i64 {
        let heartbeat_ms = self.heartbeat_interval.as_millis().max(1);
        let ticks = self.election_timeout.as_millis() / heartbeat_ms;
        let ms = (3 * ticks / 2) * heartbeat_ms;
        i64::try_from(ms.div_ceil(1000)).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_give_etcds_limits() {
        let options = Options::new(PathBuf::from("x"));
        assert_eq!(options.lease_ttl_min(), 2);
        assert_eq!(options.request_timeout(), Duration::from_secs(7));
    }
}
