//! The flags of the discovery service.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use super::settings::Settings;
use super::table;

/// Flags whose values are secrets: not for the log.
pub(super) const SECRETS: [&str; 3] = ["discovery-password", "discovery-auth-token", "join"];

/// The service at which the first members of a cluster find each other, and the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Discovery {
    /// Its endpoints.
    pub(crate) endpoints: Vec<String>,
    /// The cluster's name there.
    pub(crate) token: String,
    /// BOUND: time for one attempt to connect.
    pub(crate) dial_timeout: Duration,
    /// BOUND: time for one request.
    pub(crate) request_timeout: Duration,
    /// Interval of pings.
    pub(crate) keepalive_time: Duration,
    /// BOUND: time for the answer to one.
    pub(crate) keepalive_timeout: Duration,
    /// The TLS of endpoints without a scheme, and of those with https.
    pub(crate) tls: DiscoveryTls,
    /// The user who asks.
    pub(crate) identity: Option<DiscoveryIdentity>,
}

/// The TLS towards the service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DiscoveryTls {
    /// No TLS, unless files or the endpoint ask for it.
    pub(crate) is_insecure: bool,
    /// Any server is accepted.
    pub(crate) skips_verification: bool,
    /// PEM chain and key to show.
    pub(crate) cert_and_key_files: Option<(PathBuf, PathBuf)>,
    /// PEM bundle.
    pub(crate) trusted_ca_file: Option<PathBuf>,
    /// The name that the server's certificate must have, instead of the endpoint's.
    pub(crate) server_name: Option<String>,
}

/// A user of the service.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum DiscoveryIdentity {
    /// Name and password, to be exchanged for a token.
    User(String, Zeroizing<String>),
    /// A token made elsewhere.
    Token(Zeroizing<String>),
}

impl fmt::Debug for DiscoveryIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name, _) => f.debug_tuple("User").field(name).finish_non_exhaustive(),
            Self::Token(_) => f.debug_tuple("Token").finish_non_exhaustive(),
        }
    }
}

impl Discovery {
    /// The service that the flags name, if any.
    pub(super) fn read(settings: &Settings) -> Result<Option<Self>, String> {
        let endpoints = settings.list("discovery-endpoints");
        if endpoints.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            endpoints,
            token: settings.text("discovery-token").to_owned(),
            dial_timeout: timeout(settings, "discovery-dial-timeout"),
            request_timeout: timeout(settings, "discovery-request-timeout"),
            keepalive_time: timeout(settings, "discovery-keepalive-time"),
            keepalive_timeout: timeout(settings, "discovery-keepalive-timeout"),
            tls: tls(settings)?,
            identity: identity(settings),
        }))
    }
}

/// A duration; none at all is the default, since nothing could be asked within it.
fn timeout(settings: &Settings, name: &str) -> Duration {
    let given = settings.duration(name);
    if given.is_zero() { Settings::default().duration(name) } else { given }
}

fn text(settings: &Settings, name: &str) -> Option<String> {
    Some(settings.text(name)).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn tls(settings: &Settings) -> Result<DiscoveryTls, String> {
    let path = |name| text(settings, name).map(PathBuf::from);
    let (cert, key) = (path("discovery-cert"), path("discovery-key"));
    if cert.is_some() != key.is_some() {
        let shown = |path: Option<PathBuf>| path.unwrap_or_default().display().to_string();
        return Err(format!(
            "KeyFile and CertFile must both be present[key: {}, cert: {}]",
            shown(key),
            shown(cert)
        ));
    }
    Ok(DiscoveryTls {
        is_insecure: settings.is_true("discovery-insecure-transport"),
        skips_verification: settings.is_true("discovery-insecure-skip-tls-verify"),
        cert_and_key_files: cert.zip(key),
        trusted_ca_file: path("discovery-cacert"),
        server_name: text(settings, "discovery-server-name"),
    })
}

/// The user; the password may stand behind the name, as the help of both programs says.
fn identity(settings: &Settings) -> Option<DiscoveryIdentity> {
    if let Some(token) = text(settings, "discovery-auth-token") {
        return Some(DiscoveryIdentity::Token(Zeroizing::new(token)));
    }
    let user = text(settings, "discovery-user")?;
    let (name, password) = match (text(settings, "discovery-password"), user.split_once(':')) {
        (None, Some((name, password))) => (name.to_owned(), password.to_owned()),
        (password, _) => (user, password.unwrap_or_default()),
    };
    Some(DiscoveryIdentity::User(name, Zeroizing::new(password)))
}

/// The value of a flag for the log.
pub(super) fn shown<'a>(flag: &table::Flag, value: &'a str) -> &'a str {
    let is_secret = SECRETS.contains(&flag.name) || (flag.name == "discovery-user" && value.contains(':'))
            // Refused in a moment, and the log should not have it meanwhile.
            || (flag.name == "backup-to" && value.contains('@'));
    if is_secret { "(hidden)" } else { value }
}
