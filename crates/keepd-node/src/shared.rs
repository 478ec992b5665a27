//! The state that the parts of a member share with one another and with the tasks that serve clients.

mod corruption;
pub(crate) mod incoming;
mod leadership;
mod log_holds;
mod mailboxes;
pub(crate) mod network;
mod progress;
mod shutdown;
mod space;
pub(crate) mod unapplied;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use keepd_crypto::Encryption;
use keepd_env::{Env, IoError};
use keepd_machine::command::{ALARM_NOSPACE, Alarm};
use keepd_machine::{ClusterFacts, Command, Envelope, Origin, levels};
use keepd_member::{Identity, Layout};
use keepd_mvcc::{Applied, HashKv, Views};
use keepd_types::Term;
use keepd_wal::WalReader;
use parking_lot::Mutex;
use tokio::sync::watch;

use self::corruption::Corruption;
use self::incoming::Incoming;
use self::log_holds::LogHolds;
use self::mailboxes::Mailboxes;
use self::network::Network;
use self::progress::Progress;
pub use self::shutdown::HaltReason;
use self::shutdown::Shutdown;
use self::space::DiskSpace;
use crate::admission::ProposalBudget;
use crate::ballast::{Asks, Ballast};
use crate::encryption::state::EncryptionState;
use crate::error::Error;
use crate::install::Installer;
use crate::messages::{Proposal, RaftEvent, WalEvent};
use crate::metrics::Metrics;
use crate::options::Options;

/// Hashes of past compactions kept for comparison between members, as many as etcd keeps.
const COMPACTION_HASHES_MAX: usize = 10;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) options: Options,
    pub(crate) identity: Identity,
    /// Tells the proposals of this start from those of others; see [`Origin`].
    boot: u64,
    /// Proposals of this start.
    proposals: AtomicU64,
    pub(crate) views: Views,
    pub(crate) mailboxes: Mailboxes,
    pub(crate) network: Network,
    /// Puts the state of another member in the place of this one's.
    pub(crate) installer: Installer,
    pub(crate) incoming: Incoming,
    pub(crate) log_holds: LogHolds,
    /// The durable log, as it is shipped; none before the member is put together.
    pub(crate) log_for_shipping: Mutex<Option<WalReader>>,
    /// Bytes of large requests on their way through the log.
    pub(crate) budget: ProposalBudget,
    pub(crate) progress: Progress,
    pub(crate) space: DiskSpace,
    pub(crate) alarms: ArcSwap<Vec<Alarm>>,
    pub(crate) corruption: Corruption,
    /// Facts about the cluster, as of the applied index.
    pub(crate) facts: ArcSwap<ClusterFacts>,
    /// The hub missed applied changes because its queue was full, and must catch up.
    pub(crate) hub_missed: AtomicBool,
    pub(crate) metrics: Metrics,
    pub(crate) encryption: Arc<Encryption>,
    pub(crate) encryption_state: EncryptionState,
    /// The hashes of the newest compactions, ascending by revision.
    compaction_hashes: Mutex<Vec<HashKv>>,
    pub(crate) shutdown: Shutdown,
}

impl Shared {
    pub(crate) fn new(
        env: Env,
        options: Options,
        identity: Identity,
        views: Views,
        encryption: Arc<Encryption>,
        ballast: Ballast,
    ) -> Arc<Self> {
        let boot = env.random.next_u64();
        let log_holds = LogHolds::new(options.log_holds);
        let member_dir = Layout::new(&options.data_dir).member;
        let installer = Installer::new(env.clone(), member_dir, encryption.files());
        Arc::new(Self {
            boot,
            proposals: AtomicU64::new(0),
            env,
            network: Network::new(options.feature_level),
            options,
            identity,
            views,
            mailboxes: Mailboxes::new(),
            installer,
            incoming: Incoming::default(),
            log_holds,
            log_for_shipping: Mutex::default(),
            budget: ProposalBudget::default(),
            progress: Progress::default(),
            space: DiskSpace::new(ballast),
            alarms: ArcSwap::default(),
            corruption: Corruption::default(),
            facts: ArcSwap::default(),
            hub_missed: AtomicBool::new(false),
            metrics: Metrics::default(),
            encryption,
            encryption_state: EncryptionState::default(),
            compaction_hashes: Mutex::default(),
            shutdown: Shutdown::default(),
        })
    }

    /// Stops the member: nothing is acknowledged from here on.
    pub(crate) fn halt(&self, reason: impl fmt::Display) {
        let reason = HaltReason(reason.to_string());
        self.end(&reason, |error| {
            tracing::error!(error, "stopping: this member can no longer keep its promises");
        });
    }

    /// Stops the member, which was removed from its cluster.
    pub(crate) fn leave(&self) {
        self.end(&HaltReason::removed(), |error| {
            tracing::warn!(error, "server error");
            tracing::warn!("data-dir used by this member must be removed");
        });
    }

    /// Ends the member, for the first reason that there is, which is told.
    fn end(&self, reason: &HaltReason, tell: impl FnOnce(&str)) {
        if self.shutdown.halt(reason.clone()) {
            tell(&reason.0);
            self.progress.leadership.end();
            self.close();
        }
    }

    pub(crate) fn is_halted(&self) -> bool {
        self.shutdown.is_halted()
    }

    pub(crate) fn halted(&self) -> watch::Receiver<Option<HaltReason>> {
        self.shutdown.halted()
    }

    pub(crate) fn close(&self) {
        self.mailboxes.close();
        self.budget.close();
        self.network.disconnect();
    }

    /// An origin that no other proposal has.
    pub(crate) fn next_origin(&self) -> Origin {
        let sequence = self.proposals.fetch_add(1, Ordering::Relaxed);
        Origin { member: self.identity.member, boot: self.boot, sequence }
    }

    /// Tells this start of the member from others.
    pub(crate) const fn boot(&self) -> u64 {
        self.boot
    }

    /// Whether a proposal is one of this start.
    pub(crate) fn is_own(&self, origin: Origin) -> bool {
        origin.member == self.identity.member && origin.boot == self.boot
    }

    /// A proposal's envelope. Every command that enters the log while the member runs gets it here.
    ///
    /// # Errors
    /// `FeatureLevel`, which is told: other members could not read the command.
    pub(crate) fn envelope(
        &self,
        command: Command,
        decided_in: Option<Term>,
    ) -> Result<(Origin, Envelope), Error> {
        let needed = command.level();
        if needed > levels::FIRST && !self.may_write(needed) {
            let level = self.facts.load().feature_level;
            tracing::error!(
                needed,
                level,
                "a command was held back that not every member can read: this is a defect of keepd"
            );
            return Err(Error::FeatureLevel { needed, level });
        }
        let origin = self.next_origin();
        Ok((origin, Envelope { origin: Some(origin), decided_in, command }))
    }

    /// Proposes a command of the member's own, for which nobody waits; `decided_in` is the term that
    /// this member led in when it decided it.
    pub(crate) fn propose_own(&self, command: Command, decided_in: Option<Term>, now: Duration) {
        // Nobody waits for the refusal, and it is told.
        let Ok((origin, envelope)) = self.envelope(command, decided_in) else { return };
        let command = (origin, &envelope.command);
        let proposal = Proposal::new(command, envelope.encode(), None, now, None);
        self.mailboxes.raft.push(RaftEvent::Propose(proposal));
    }

    /// Lets the log go up to an entry that is durable in the store.
    pub(crate) fn release_log(&self, durable: Applied, is_short: bool) {
        let Applied { index, term } = durable;
        self.mailboxes.wal.push(WalEvent::Release { index, term, is_short });
        self.mailboxes.raft.push_quietly(RaftEvent::LogReleased(index));
    }

    /// Whether every member of the cluster reads what this feature level brought: asked before it is
    /// written.
    pub(crate) fn may_write(&self, level: u32) -> bool {
        self.facts.load().feature_level >= level
    }

    /// This member's NOSPACE alarm.
    pub(crate) fn nospace(&self) -> Alarm {
        Alarm { member: self.identity.member, kind: ALARM_NOSPACE }
    }

    /// Whether the file system has space for a request that adds so many bytes; a `true` takes it.
    pub(crate) fn admits(&self, cost: u64) -> bool {
        self.raising_nospace(|space| space.admits(cost))
    }

    /// Looks how much of the file system is free; refuses whatever grows if that is too little.
    pub(crate) fn measure_space(&self) {
        self.raising_nospace(DiskSpace::measure);
    }

    /// Releases space of the ballast and refuses whatever grows; whether there was some.
    pub(crate) fn release_ballast(&self, reason: &dyn fmt::Display, asks: Asks) -> bool {
        self.raising_nospace(|space| space.ballast.release(reason, asks))
    }

    /// Serves a call that found no space or no descriptor, on the thread of that call; whether to make
    /// it again.
    pub(crate) fn wait_for_space(&self, error: &IoError, asks: Asks) -> bool {
        let is_released = error.is_out_of_space() && self.release_ballast(error, asks);
        is_released || (self.space.ballast.wait(error) && !self.is_halted())
    }

    /// Raises the alarm at once if space became short.
    fn raising_nospace<T>(&self, look: impl FnOnce(&DiskSpace) -> T) -> T {
        let was_short = self.space.ballast.is_short();
        let found = look(&self.space);
        if !was_short && self.space.ballast.is_short() {
            let alarm = Command::AlarmActivate(self.nospace());
            self.propose_own(alarm, None, self.env.clock.monotonic());
        }
        found
    }

    pub(crate) fn keep_compaction_hash(&self, hash: HashKv) {
        if hash.revision == 0 {
            // etcd keeps it and then answers every HashKV(0) with it.
            return;
        }
        let mut hashes = self.compaction_hashes.lock();
        hashes.push(hash);
        hashes.sort_unstable_by_key(|hash| hash.revision);
        if hashes.len() > COMPACTION_HASHES_MAX {
            hashes.remove(0);
        }
    }

    /// The hashes of the newest compactions, ascending by revision.
    pub(crate) fn compaction_hashes(&self) -> Vec<HashKv> {
        self.compaction_hashes.lock().clone()
    }

    pub(crate) fn compaction_hash(&self, revision: i64) -> Option<HashKv> {
        self.compaction_hashes.lock().iter().find(|hash| hash.revision == revision).copied()
    }
}
