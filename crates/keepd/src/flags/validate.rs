//! etcd's checks of the settings, in its order and with its texts, and keepd's own.

use keepd_gotext::{GoDuration, parse_bool, quote};
use keepd_tls::TlsVersion;

use super::options::{ServerOptions, TransportSecurity};
use super::settings::Settings;
use super::table::{Kind, Support};
use super::urls::{self, Url};
use super::{Level, Notice};

/// The error that is followed by a second warning.
pub(super) const ADVERTISE_UNSET: &str =
    "--advertise-client-urls is required when --listen-client-urls is set explicitly";

/// Warnings about flags that etcd will drop.
pub(super) fn deprecations(settings: &Settings) -> Vec<Notice> {
    let deprecated = [
        (
            "max-snapshots",
            "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8.",
        ),
        (
            "v2-deprecation",
            "--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value \
             is enforced, ignoring user input.",
        ),
    ];
    let given = deprecated.into_iter().filter(|(flag, _)| settings.is_set(flag));
    given.map(|(_, message)| Notice::new(Level::Warn, message)).collect()
}

/// Refuses flags that keepd cannot honour, and adds a notice for those without effect.
pub(super) fn support(settings: &Settings, notices: &mut Vec<Notice>) -> Result<(), String> {
    let fallback = settings.text("discovery-fallback");
    if fallback == "proxy" {
        return Err("v2 proxy is deprecated, and --discovery-fallback can't be configured as \
                    \"proxy\""
            .to_owned());
    }
    for (flag, value) in settings.given() {
        let is_default = match flag.kind {
            Kind::Bool => parse_bool(value) == parse_bool(flag.default),
            Kind::Duration => value.parse::<GoDuration>() == flag.default.parse(),
            // Left empty by a unit file whose variable is unset.
            Kind::Text | Kind::List | Kind::Repeated if value.is_empty() => true,
            _ => value == flag.default,
        };
        match flag.support {
            _ if is_default => {}
            Support::Full => {}
            Support::AcceptedNoEffect(reason) => {
                let notice = Notice::new(Level::Info, "this flag has no effect in keepd");
                let notice = notice.with("flag", flag.name).with("value", value);
                notices.push(notice.with("reason", reason));
            }
            Support::Refused(reason) => {
                return Err(format!("--{} is not available in keepd: {reason}", flag.name));
            }
        }
    }
    Ok(())
}

/// The checks of etcd's `Config.Validate`.
pub(super) fn settings(settings: &Settings, notices: &mut Vec<Notice>) -> Result<(), String> {
    logging(settings)?;
    for name in ["listen-peer-urls", "listen-client-urls", "listen-metrics-urls"] {
        urls::check_bind(&settings.urls(name))?;
    }
    let peers = settings.urls("initial-advertise-peer-urls");
    urls::check_host(&peers).map_err(|error| {
        let peers = quote(urls::joined(&peers));
        format!("--initial-advertise-peer-urls {peers} must be \"host:port\" ({error})")
    })?;
    let clients = settings.urls("advertise-client-urls");
    urls::check_host(&clients).map_err(|error| {
        let clients = quote(urls::joined(&clients));
        format!(
            "--advertise-client-urls {clients} must be in the format \"host:port\", \
             \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" ({error})"
        )
    })?;
    discovery(settings)?;
    timing(settings)?;
    if settings.advertise_is_missing() {
        return Err(ADVERTISE_UNSET.to_owned());
    }
    match settings.text("auto-compaction-mode") {
        "periodic" | "revision" => {}
        "" => return Err("undefined auto-compaction-mode".to_owned()),
        other => return Err(format!("unknown auto-compaction-mode {}", quote(other))),
    }
    features(settings, notices)?;
    super::backup::BackupOptions::read(settings)?;
    if settings.text("name") == "default" {
        let message = "it isn't recommended to use default name, please set a value for --name. \
                       Note that etcd might run into issue when multiple members have the same \
                       default name";
        notices.push(Notice::new(Level::Warn, message).with("name", "default"));
    }
    tls(settings)
}

fn logging(settings: &Settings) -> Result<(), String> {
    match settings.text("logger") {
        "zap" => {}
        "capnslog" => return Err("--logger=capnslog is removed in v3.5".to_owned()),
        other => return Err(format!("unknown logger option {}", quote(other))),
    }
    let outputs = settings.list("log-outputs");
    if outputs.is_empty() {
        return Err("open sink \"\": open : no such file or directory".to_owned());
    }
    if outputs.len() > 1 && outputs.iter().any(|output| output == "default") {
        return Err("multi logoutput for \"default\" is not supported yet".to_owned());
    }
    match settings.text("log-format") {
        "json" | "console" | "" => Ok(()),
        other => Err(format!("unknown log format: {other}, supported values json, console")),
    }
}

fn discovery(settings: &Settings) -> Result<(), String> {
    let endpoints = settings.text("discovery-endpoints");
    let ways = [
        settings.is_set("initial-cluster") && !settings.text("initial-cluster").is_empty(),
        !settings.text("discovery-srv").is_empty(),
        !endpoints.is_empty(),
    ];
    if ways.into_iter().filter(|is_given| *is_given).count() > 1 {
        return Err("multiple discovery or bootstrap flags are set. Choose one of \
                    \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\""
            .to_owned());
    }
    if settings.text("discovery-token").is_empty() != endpoints.is_empty() {
        return Err("both --discovery-token and --discovery-endpoints must be set".to_owned());
    }
    if !endpoints.is_empty() && endpoints.split(',').any(|endpoint| endpoint.trim().is_empty()) {
        return Err("--discovery-endpoints must not contain empty endpoints".to_owned());
    }
    Ok(())
}

fn timing(settings: &Settings) -> Result<(), String> {
    const ELECTION_MS_MAX: u64 = 50_000;
    let (tick, election) = (settings.uint("heartbeat-interval"), settings.uint("election-timeout"));
    if tick == 0 {
        return Err("--heartbeat-interval must be >0 (set to 0ms)".to_owned());
    }
    if election == 0 {
        return Err("--election-timeout must be >0 (set to 0ms)".to_owned());
    }
    if tick.saturating_mul(5) > election {
        return Err(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as \
             --heartbeat-interval[{tick}ms]"
        ));
    }
    if election > ELECTION_MS_MAX {
        return Err(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than \
             {ELECTION_MS_MAX}ms"
        ));
    }
    Ok(())
}

fn features(settings: &Settings, notices: &mut Vec<Notice>) -> Result<(), String> {
    const RATE_MAX: i64 = 1_000_000;
    if settings.is_true("enable-distributed-tracing") {
        let rate = settings.int("distributed-tracing-sampling-rate");
        let problem = match rate {
            ..0 => "must be positive",
            RATE_MAX.. if rate > RATE_MAX => "must be less than 1000000",
            _ => "",
        };
        if !problem.is_empty() {
            return Err(format!(
                "distributed tracing configurition is not valid: (tracing sampling rate {problem})"
            ));
        }
    }
    let gates = settings.gates();
    for (gate, reason) in gates.without_effect() {
        let notice = Notice::new(Level::Info, "this feature gate has no effect in keepd");
        notices.push(notice.with("gate", gate).with("reason", reason));
    }
    let (checkpoint, persist) =
        (gates.is_enabled("LeaseCheckpoint"), gates.is_enabled("LeaseCheckpointPersist"));
    if checkpoint && !persist {
        let message = "Detected that checkpointing is enabled without persistence. Consider \
                       enabling feature gate LeaseCheckpointPersist";
        notices.push(Notice::new(Level::Warn, message));
    }
    if persist && !checkpoint {
        return Err("enabling feature gate LeaseCheckpointPersist requires enabling feature gate \
                    LeaseCheckpoint"
            .to_owned());
    }
    let check_time = settings.go_duration("compact-hash-check-time");
    if check_time.nanos <= 0 {
        return Err(format!("--compact-hash-check-time must be >0 (set to {check_time})"));
    }
    Ok(())
}

fn tls(settings: &Settings) -> Result<(), String> {
    let version = |name: &str| -> Result<Option<TlsVersion>, String> {
        match settings.text(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|error: keepd_tls::Error| error.to_string()),
        }
    };
    let (min, max) = (version("tls-min-version")?, version("tls-max-version")?);
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        return Err(format!("min version ({min}) is greater than max version ({max})"));
    }
    if min == Some(TlsVersion::Tls13) && !settings.list("cipher-suites").is_empty() {
        return Err("cipher suites cannot be configured when only TLS1.3 is enabled".to_owned());
    }
    Ok(())
}

impl Settings {
    /// Flags and environment only: listening elsewhere without saying what to advertise.
    fn advertise_is_missing(&self) -> bool {
        !self.is_from_file()
            && self.is_set("listen-client-urls")
            && !self.is_set("advertise-client-urls")
    }
}

/// Checks that etcd makes while starting, as far as they need the settings alone.
pub(super) fn start(options: &ServerOptions, notices: &mut Vec<Notice>) -> Result<(), String> {
    listeners(options, notices)
}

fn listeners(options: &ServerOptions, notices: &mut Vec<Notice>) -> Result<(), String> {
    let makes_one = |it: &TransportSecurity| it.auto_tls && it.is_empty();
    let securities = [&options.client_security, &options.peer_security];
    if securities.into_iter().any(makes_one) && options.self_signed_cert_days == 0 {
        return Err("selfSignedCertValidity is invalid,it should be greater than 0".to_owned());
    }
    let has_certificate = options.client_security.has_certificate();
    for url in &options.listen_client_urls {
        if url.is_tls() && !has_certificate {
            return Err(format!(
                "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} \
                 with HTTPS scheme"
            ));
        }
        if !url.is_tls() && !options.client_security.is_empty() {
            let message = "scheme is http or unix while key and cert files are present; ignoring \
                           key and cert files";
            notices.push(Notice::new(Level::Warn, message).with("client-url", url.as_str()));
        }
    }
    for url in options.listen_peer_urls.iter().filter(|url| url.is_tls()) {
        if !options.peer_security.has_certificate() {
            let address = url.address();
            return Err(format!(
                "cannot listen on TLS for {address}: KeyFile and CertFile are not presented"
            ));
        }
    }
    if options.listen_metrics_urls.iter().any(Url::is_tls) && !has_certificate {
        return Err("client TLS key/cert (--cert-file, --key-file) must be provided for metrics \
                    secure url"
            .to_owned());
    }
    Ok(())
}
