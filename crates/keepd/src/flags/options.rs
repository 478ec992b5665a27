//! The settings of a server, as plain data.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keepd_gotext::{GoDuration, parse_int};
use keepd_server::{AccessControl, AutoCompaction, CorruptionChecks};
use keepd_tls::{CipherSuiteName, TlsOptions, TlsVersion};

use super::backup::BackupOptions;
use super::config_file::ALLOWED_CN;
use super::discovery::Discovery;
use super::settings::Settings;
use super::urls::{self, Url};

/// A year of `--self-signed-cert-validity`.
const DAYS_OF_YEAR: u64 = 365;

/// The kind of a start: a new cluster, or an existing one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClusterState {
    /// A new one.
    New,
    /// Joining a running one.
    Existing,
}

/// The lowest level logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LogLevel {
    /// Everything.
    Debug,
    /// The normal course.
    Info,
    /// Events that should not happen.
    Warn,
    /// Events that a person must look at; also `panic`, `dpanic` and `fatal`.
    Error,
}

/// The log's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Console,
}

/// The log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogOptions {
    /// `default` (standard error), `stderr`, `stdout`, `systemd/journal` or files.
    pub(crate) outputs: Vec<String>,
    /// The lowest level that is logged.
    pub(crate) level: LogLevel,
    /// The format of a line.
    pub(crate) format: LogFormat,
}

/// Certificate files of the client or the peer side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TransportSecurity {
    /// PEM chain.
    pub(crate) cert_file: Option<PathBuf>,
    /// PEM key.
    pub(crate) key_file: Option<PathBuf>,
    /// Whether every client must have a certificate.
    pub(crate) client_cert_auth: bool,
    /// PEM bundle.
    pub(crate) trusted_ca_file: Option<PathBuf>,
    /// Revoked certificates.
    pub(crate) crl_file: Option<PathBuf>,
    /// Common names that are admitted.
    pub(crate) allowed_cns: Vec<String>,
    /// Host names that are admitted.
    pub(crate) allowed_hostnames: Vec<String>,
    /// PEM chain to show to other members; the other one if there is none.
    pub(crate) client_cert_file: Option<PathBuf>,
    /// Its PEM key.
    pub(crate) client_key_file: Option<PathBuf>,
    /// Whether a member's address need not be in its certificate.
    pub(crate) skip_client_san_verification: bool,
    /// Whether a certificate is made if none is given.
    pub(crate) auto_tls: bool,
    /// Whether the certificate was made so: then the others' are not verified either.
    pub(crate) is_self_signed: bool,
}

impl TransportSecurity {
    /// Whether nothing is set, as for plain text.
    #[must_use]
    pub(crate) const fn is_empty(&self) -> bool {
        self.cert_file.is_none() && self.key_file.is_none()
    }

    /// Uses the files of a member that joined by invitation, unless others are named.
    fn use_joined(&mut self, dir: &Path) {
        if !self.is_empty() {
            return;
        }
        self.cert_file = Some(dir.join("member.crt"));
        self.key_file = Some(dir.join("member.key"));
        self.trusted_ca_file.get_or_insert_with(|| dir.join("ca.crt"));
        self.client_cert_auth = true;
    }

    /// Whether a listener can have TLS.
    #[must_use]
    pub(crate) const fn has_certificate(&self) -> bool {
        (self.cert_file.is_some() && self.key_file.is_some()) || (self.auto_tls && self.is_empty())
    }
}

/// A validated server configuration.
#[derive(Clone, Debug)]
pub(crate) struct ServerOptions {
    /// The member's name.
    pub(crate) name: String,
    /// The data directory.
    pub(crate) data_dir: PathBuf,
    /// One Raft tick.
    pub(crate) heartbeat_interval: Duration,
    /// Time without a leader before an election.
    pub(crate) election_timeout: Duration,
    /// Whether a pre-vote precedes an election.
    pub(crate) pre_vote: bool,
    /// Listeners for members.
    pub(crate) listen_peer_urls: Vec<Url>,
    /// Listeners for clients.
    pub(crate) listen_client_urls: Vec<Url>,
    /// Listeners for metrics and health.
    pub(crate) listen_metrics_urls: Vec<Url>,
    /// The URLs at which members reach this one.
    pub(crate) initial_advertise_peer_urls: Vec<Url>,
    /// The URLs at which clients reach this one.
    pub(crate) advertise_client_urls: Vec<Url>,
    /// Names and URLs of all members at the start.
    pub(crate) initial_cluster: Vec<(String, String)>,
    /// The DNS domain that lists the members; empty if they are named.
    pub(crate) discovery_srv: String,
    /// Suffix of the names of its services.
    pub(crate) discovery_srv_name: String,
    /// The service at which the members find each other; `initial_cluster` is this one alone then.
    pub(crate) discovery: Option<Discovery>,
    /// The token of an invitation, or `@` and a file with it.
    pub(crate) join: Option<String>,
    /// New or joining.
    pub(crate) initial_cluster_state: ClusterState,
    /// The cluster token, from which the ids are computed.
    pub(crate) initial_cluster_token: String,
    /// Drop all other members and go on alone.
    pub(crate) force_new_cluster: bool,
    /// Learners that the cluster may have.
    pub(crate) learners_max: usize,
    /// Applied entries between two releases of the log.
    pub(crate) snapshot_count: u64,
    /// Applied entries kept in memory for members that lag.
    pub(crate) catch_up_entries: usize,
    /// Shorten the wait for the first election once others are reached.
    pub(crate) hastens_first_election: bool,
    /// Longest time until applied records are flushed to the store.
    pub(crate) flush_interval: Duration,
    /// Time in which a batch of entries should be applied.
    pub(crate) apply_expected: Duration,
    /// Time in which a request should be answered; one that takes longer is logged.
    pub(crate) request_expected: Duration,
    /// Whether the metrics have the times of RPCs.
    pub(crate) has_extensive_metrics: bool,
    /// Names, stages and states of the feature gates.
    pub(crate) feature_gates: Vec<(&'static str, &'static str, bool)>,
    /// The local address of connections to other members: `SetMemberLocalAddr`.
    pub(crate) local_peer_address: Option<IpAddr>,
    /// Whether changes of the cluster that would lose its quorum are refused.
    pub(crate) strict_reconfig_check: bool,
    /// Bytes of live data allowed; `None` is no limit.
    pub(crate) quota_backend_bytes: Option<i64>,
    /// Operations in one transaction.
    pub(crate) max_txn_ops: usize,
    /// Bytes of one request.
    pub(crate) max_request_bytes: usize,
    /// HTTP/2 streams of one connection.
    pub(crate) max_concurrent_streams: u32,
    /// Interval at which a silent client is pinged; `None` is never.
    pub(crate) grpc_keepalive_interval: Option<Duration>,
    /// Timeout of its answer.
    pub(crate) grpc_keepalive_timeout: Duration,
    /// SO_REUSEPORT.
    pub(crate) socket_reuse_port: bool,
    /// `--unsafe-no-fsync`.
    pub(crate) unsafe_no_fsync: bool,
    /// The automatic compaction.
    pub(crate) auto_compaction: AutoCompaction,
    /// The comparisons with other members.
    pub(crate) corruption_checks: CorruptionChecks,
    /// Compare with other members before serving.
    pub(crate) initial_corruption_check: bool,
    /// Certificates towards clients.
    pub(crate) client_security: TransportSecurity,
    /// Certificates between members.
    pub(crate) peer_security: TransportSecurity,
    /// Days that a certificate is valid which the member makes for itself.
    pub(crate) self_signed_cert_days: u64,
    /// Lowest TLS version.
    pub(crate) tls_min_version: TlsVersion,
    /// Highest TLS version.
    pub(crate) tls_max_version: Option<TlsVersion>,
    /// TLS 1.2 suites; empty is all good ones.
    pub(crate) cipher_suites: Vec<CipherSuiteName>,
    /// The log.
    pub(crate) log: LogOptions,
    /// Interval of progress notifications to idle watchers.
    pub(crate) watch_progress_notify_interval: Duration,
    /// The hosts and origins that the HTTP endpoints answer.
    pub(crate) access: AccessControl,
    /// EncryptionConfiguration file.
    pub(crate) encryption_provider_config: Option<PathBuf>,
    /// Whether it is reloaded when it changes.
    pub(crate) encryption_provider_config_automatic_reload: bool,
    /// Whether plain data in the data directory is trusted.
    pub(crate) encryption_trust_plain_data: bool,
    /// The backups that the server takes by itself.
    pub(crate) backups: BackupOptions,
}

impl ServerOptions {
    /// Builds the options from checked settings; the error is one of etcd's start.
    pub(super) fn build(settings: &Settings) -> Result<Self, String> {
        let suites = settings.list("cipher-suites");
        let suites =
            suites.iter().map(|name| name.parse()).collect::<Result<Vec<_>, keepd_tls::Error>>();
        let name = settings.text("name").to_owned();
        let data_dir = match settings.text("data-dir") {
            "" => PathBuf::from(format!("{name}.etcd")),
            dir => PathBuf::from(dir),
        };
        let peer_urls = settings.urls("initial-advertise-peer-urls");
        let join = Some(settings.text("join").to_owned()).filter(|token| !token.is_empty());
        let [client_security, peer_security] = securities(settings, join.is_some(), &data_dir);
        Ok(Self {
            data_dir,
            heartbeat_interval: settings.millis("heartbeat-interval"),
            election_timeout: settings.millis("election-timeout"),
            pre_vote: settings.is_true("pre-vote"),
            listen_peer_urls: settings.urls("listen-peer-urls"),
            listen_client_urls: settings.urls("listen-client-urls"),
            listen_metrics_urls: settings.urls("listen-metrics-urls"),
            advertise_client_urls: settings.urls("advertise-client-urls"),
            initial_cluster: initial_cluster(settings, &name, &peer_urls)?,
            initial_advertise_peer_urls: peer_urls,
            discovery_srv: settings.text("discovery-srv").to_owned(),
            discovery_srv_name: settings.text("discovery-srv-name").to_owned(),
            discovery: Discovery::read(settings)?,
            join,
            initial_cluster_state: match settings.text("initial-cluster-state") {
                "existing" => ClusterState::Existing,
                _ => ClusterState::New,
            },
            initial_cluster_token: cluster_token(settings).to_owned(),
            force_new_cluster: settings.is_true("force-new-cluster"),
            learners_max: usize::try_from(settings.int("max-learners")).unwrap_or(0),
            snapshot_count: snapshot_count(settings.uint("snapshot-count")),
            catch_up_entries: catch_up_entries(settings.uint("snapshot-catchup-entries")),
            hastens_first_election: settings.is_true("initial-election-tick-advance"),
            flush_interval: flush_interval(settings),
            apply_expected: settings.duration("warning-apply-duration"),
            request_expected: settings.duration("warning-unary-request-duration"),
            has_extensive_metrics: settings.text("metrics") == "extensive",
            feature_gates: settings.gates().all().collect(),
            local_peer_address: local_peer_address(settings),
            strict_reconfig_check: settings.is_true("strict-reconfig-check"),
            quota_backend_bytes: quota(settings.int("quota-backend-bytes")),
            max_txn_ops: size(settings.uint("max-txn-ops")),
            max_request_bytes: size(settings.uint("max-request-bytes")),
            max_concurrent_streams: streams(settings.uint("max-concurrent-streams")),
            grpc_keepalive_interval: nonzero(settings, "grpc-keepalive-interval"),
            grpc_keepalive_timeout: settings.duration("grpc-keepalive-timeout"),
            socket_reuse_port: settings.is_true("socket-reuse-port"),
            unsafe_no_fsync: settings.is_true("unsafe-no-fsync"),
            auto_compaction: auto_compaction(settings)?,
            corruption_checks: corruption_checks(settings),
            initial_corruption_check: settings.gates().is_enabled("InitialCorruptCheck"),
            client_security,
            peer_security,
            self_signed_cert_days: days(settings.uint("self-signed-cert-validity")),
            tls_min_version: tls_version(settings, "tls-min-version").unwrap_or(TlsVersion::Tls12),
            tls_max_version: tls_version(settings, "tls-max-version"),
            cipher_suites: suites.map_err(|error| error.to_string())?,
            log: log_options(settings),
            access: access(settings),
            watch_progress_notify_interval: progress_interval(settings),
            encryption_provider_config: path(settings, "encryption-provider-config"),
            encryption_provider_config_automatic_reload: settings
                .is_true("encryption-provider-config-automatic-reload"),
            encryption_trust_plain_data: settings.is_true("encryption-trust-plain-data"),
            backups: BackupOptions::read(settings)?,
            name,
        })
    }

    /// The TLS of the client listeners, if they have a certificate.
    #[must_use]
    pub(crate) fn client_tls(&self) -> Option<TlsOptions> {
        self.tls(&self.client_security)
    }

    /// The TLS of the peer listeners, if they have a certificate.
    #[must_use]
    pub(crate) fn peer_tls(&self) -> Option<TlsOptions> {
        self.tls(&self.peer_security)
    }

    fn tls(&self, security: &TransportSecurity) -> Option<TlsOptions> {
        Some(TlsOptions {
            cert_file: security.cert_file.clone()?,
            key_file: security.key_file.clone()?,
            trusted_ca_file: security.trusted_ca_file.clone(),
            client_cert_auth: security.client_cert_auth,
            crl_file: security.crl_file.clone(),
            allowed_cns: security.allowed_cns.clone(),
            allowed_hostnames: security.allowed_hostnames.clone(),
            min_version: Some(self.tls_min_version),
            max_version: self.tls_max_version,
            cipher_suites: self.cipher_suites.clone(),
        })
    }
}

/// The directory of what a member gets that joins by invitation: beside its data, for a copy of the data
/// must not hold keys.
pub(crate) fn join_dir(data_dir: &Path) -> PathBuf {
    let mut dir = data_dir.as_os_str().to_owned();
    dir.push(".join");
    dir.into()
}

fn log_options(settings: &Settings) -> LogOptions {
    LogOptions {
        outputs: settings.list("log-outputs"),
        level: log_level(settings).expect("checked before"),
        format: match settings.text("log-format") {
            "console" => LogFormat::Console,
            _ => LogFormat::Json,
        },
    }
}

fn access(settings: &Settings) -> AccessControl {
    AccessControl {
        origins: settings.urls("cors").iter().map(ToString::to_string).collect(),
        hosts: settings.list("host-whitelist").into_iter().collect(),
        own_hosts: own_hosts(settings),
    }
}

/// Host names that clients reach the member under.
fn own_hosts(settings: &Settings) -> BTreeSet<String> {
    let urls = ["listen-client-urls", "advertise-client-urls"].map(|name| settings.urls(name));
    urls.iter()
        .flatten()
        .map(Url::host)
        .filter(|host| !host.is_empty())
        .map(str::to_owned)
        .collect()
}

fn path(settings: &Settings, name: &str) -> Option<PathBuf> {
    Some(settings.text(name)).filter(|text| !text.is_empty()).map(PathBuf::from)
}

/// The certificates towards clients and between members.
fn securities(settings: &Settings, is_joined: bool, data_dir: &Path) -> [TransportSecurity; 2] {
    let mut securities = [client_security(settings), peer_security(settings)];
    if is_joined {
        let dir = join_dir(data_dir);
        securities.iter_mut().for_each(|security| security.use_joined(&dir));
    }
    securities
}

fn client_security(settings: &Settings) -> TransportSecurity {
    TransportSecurity {
        cert_file: path(settings, "cert-file"),
        key_file: path(settings, "key-file"),
        client_cert_auth: settings.is_true("client-cert-auth"),
        trusted_ca_file: path(settings, "trusted-ca-file"),
        crl_file: path(settings, "client-crl-file"),
        allowed_cns: settings.list(ALLOWED_CN),
        allowed_hostnames: settings.list("client-cert-allowed-hostname"),
        auto_tls: settings.is_true("auto-tls"),
        ..TransportSecurity::default()
    }
}

fn peer_security(settings: &Settings) -> TransportSecurity {
    TransportSecurity {
        cert_file: path(settings, "peer-cert-file"),
        key_file: path(settings, "peer-key-file"),
        client_cert_auth: settings.is_true("peer-client-cert-auth"),
        trusted_ca_file: path(settings, "peer-trusted-ca-file"),
        crl_file: path(settings, "peer-crl-file"),
        allowed_cns: settings.list("peer-cert-allowed-cn"),
        allowed_hostnames: settings.list("peer-cert-allowed-hostname"),
        client_cert_file: path(settings, "peer-client-cert-file"),
        client_key_file: path(settings, "peer-client-key-file"),
        skip_client_san_verification: settings.is_true("peer-skip-client-san-verification"),
        auto_tls: settings.is_true("peer-auto-tls"),
        is_self_signed: false,
    }
}

/// A TLS version; validation has checked the text.
fn tls_version(settings: &Settings, name: &str) -> Option<TlsVersion> {
    settings.text(name).parse().ok()
}

fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// 0 is the default, as in etcd.
const fn snapshot_count(entries: u64) -> u64 {
    const DEFAULT: u64 = 10_000;
    if entries == 0 { DEFAULT } else { entries }
}

const fn days(years: u64) -> u64 {
    years.saturating_mul(DAYS_OF_YEAR)
}

fn streams(count: u64) -> u32 {
    u32::try_from(count).expect("checked when set")
}

/// A duration of which 0 means none.
fn nonzero(settings: &Settings, name: &str) -> Option<Duration> {
    Some(settings.duration(name)).filter(|duration| !duration.is_zero())
}

/// 0 is the default, as in etcd.
fn flush_interval(settings: &Settings) -> Duration {
    nonzero(settings, "backend-batch-interval").unwrap_or(keepd_node::FLUSH_INTERVAL)
}

/// 0 is the default, as in etcd.
fn catch_up_entries(entries: u64) -> usize {
    const DEFAULT: u64 = 5000;
    size(if entries == 0 { DEFAULT } else { entries })
}

/// The first advertised peer address that others could have: with the gate `SetMemberLocalAddr`, as in
/// etcd.
fn local_peer_address(settings: &Settings) -> Option<IpAddr> {
    if !settings.gates().is_enabled("SetMemberLocalAddr") {
        return None;
    }
    let urls = settings.urls("initial-advertise-peer-urls");
    let host = |url: &Url| url.host().trim_matches(['[', ']']).parse::<IpAddr>().ok();
    let mut addresses = urls.iter().filter_map(host);
    addresses.find(|address| !address.is_loopback() && !address.is_unspecified())
}

fn quota(bytes: i64) -> Option<i64> {
    const DEFAULT: i64 = 2 << 30;
    match bytes {
        0 => Some(DEFAULT),
        1.. => Some(bytes),
        _ => None,
    }
}

/// The old spelling counts if the new one is not given; below 100 ms is raised, 0 is the default.
fn progress_interval(settings: &Settings) -> Duration {
    const DEFAULT: Duration = Duration::from_secs(600);
    const MIN: Duration = Duration::from_millis(100);
    let new = settings.duration("watch-progress-notify-interval");
    let old = settings.duration("experimental-watch-progress-notify-interval");
    let given = if settings.is_set("watch-progress-notify-interval") { new } else { old };
    if given.is_zero() { DEFAULT } else { given.max(MIN) }
}

/// The log level, or the text if it names none.
pub(super) fn log_level(settings: &Settings) -> Result<LogLevel, String> {
    // zap takes a level in any case.
    match settings.text("log-level").to_ascii_lowercase().as_str() {
        "debug" => Ok(LogLevel::Debug),
        "info" | "" => Ok(LogLevel::Info),
        "warn" | "warning" => Ok(LogLevel::Warn),
        "error" | "dpanic" | "panic" | "fatal" => Ok(LogLevel::Error),
        _ => Err(settings.text("log-level").to_owned()),
    }
}

/// A whole number counts hours or revisions; anything else is a duration, whose nanoseconds count
/// revisions in revision mode, as in etcd.
fn corruption_checks(settings: &Settings) -> CorruptionChecks {
    let has_gate = settings.gates().is_enabled("CompactHashCheck");
    let interval = |name| Some(settings.duration(name)).filter(|interval| !interval.is_zero());
    CorruptionChecks {
        everything: interval("corrupt-check-time"),
        compacted: interval("compact-hash-check-time").filter(|_| has_gate),
    }
}

fn auto_compaction(settings: &Settings) -> Result<AutoCompaction, String> {
    const HOUR_NANOS: i64 = 3_600_000_000_000;
    let text = settings.text("auto-compaction-retention");
    let is_revision = settings.text("auto-compaction-mode") == "revision";
    let value = match parse_int(text, 10) {
        Ok(count) if count >= 0 && is_revision => count,
        Ok(hours) if hours >= 0 => hours.saturating_mul(HOUR_NANOS),
        _ if text.is_empty() => 0,
        _ => {
            text.parse::<GoDuration>()
                .map_err(|error| format!("error parsing CompactionRetention: {error}"))?
                .nanos
        }
    };
    let Some(value) = u64::try_from(value).ok().filter(|value| *value > 0) else {
        return Ok(AutoCompaction::Off);
    };
    Ok(if is_revision {
        AutoCompaction::Revision(i64::try_from(value).unwrap_or(i64::MAX))
    } else {
        AutoCompaction::Periodic(Duration::from_nanos(value))
    })
}

/// The token of the cluster: that of the discovery service, if there is one.
fn cluster_token(settings: &Settings) -> &str {
    let is_discovered = !settings.text("discovery-endpoints").is_empty();
    settings.text(if is_discovered { "discovery-token" } else { "initial-cluster-token" })
}

/// The members at the start: if only the name is given, this one alone under its own URLs.
fn initial_cluster(
    settings: &Settings,
    name: &str,
    peer_urls: &[Url],
) -> Result<Vec<(String, String)>, String> {
    let text = settings.text("initial-cluster");
    if !settings.text("discovery-endpoints").is_empty() {
        return Ok(peer_urls.iter().map(|url| (name.to_owned(), url.to_string())).collect());
    }
    let is_discovered =
        ["discovery-srv", "discovery-srv-name"].iter().any(|name| !settings.text(name).is_empty());
    if is_discovered && !settings.is_set("initial-cluster") {
        return Ok(Vec::new());
    }
    if text == super::table::by_name("initial-cluster").default && name != "default" {
        let name = if name.is_empty() { "default" } else { name };
        return Ok(peer_urls.iter().map(|url| (name.to_owned(), url.to_string())).collect());
    }
    let mut members = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let (member, url) = item.split_once('=').unwrap_or((item, ""));
        let url = urls::parse_url(url)
            .map_err(|error| format!("error setting up initial cluster: {error}"))?;
        members.push((member.to_owned(), url.to_string()));
    }
    Ok(members)
}
