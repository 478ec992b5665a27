//! The configuration file: YAML or JSON, read as etcd reads it.
//!
//! Keys are flag names except for the nested groups below; their case does not matter and unknown
//! ones are ignored, as in etcd, but for those that begin like the encryption's or the backups': a
//! typo must not serve plain, or take no backups. Values have the types of etcd's structure: durations are whole
//! nanoseconds, URL lists one string with commas, some lists YAML lists. Errors have the words of
//! Go's JSON decoder, because that is what operators of etcd search for.

use std::fs;

use keepd_gotext::quote;
use serde_json::{Map, Value};
use serde_saphyr::DuplicateKeyPolicy;

use super::settings::Settings;
use super::table::{self, Flag, Kind};
use super::{FlagsExit, Notice};

/// The reason why a file is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FileError {
    /// Logged as a failed verification.
    Verification(String),
    /// Printed as it is.
    Plain(String),
}

impl FileError {
    /// The end of the process: exit code 1 either way.
    pub(super) fn into_exit(self, notices: Vec<Notice>) -> FlagsExit {
        match self {
            Self::Verification(error) => FlagsExit::verification(error, notices),
            Self::Plain(error) => {
                FlagsExit { code: 1, stderr: format!("{error}\n"), notices, ..FlagsExit::default() }
            }
        }
    }
}

/// Reads a file.
pub(super) fn read(path: &str) -> Result<Settings, FileError> {
    let bytes =
        fs::read(path).map_err(|error| FileError::Verification(open_error(path, &error)))?;
    parse(&bytes)
}

/// Go's words for the usual reasons.
fn open_error(path: &str, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => format!("open {path}: no such file or directory"),
        std::io::ErrorKind::PermissionDenied => format!("open {path}: permission denied"),
        _ => format!("open {path}: {error}"),
    }
}

/// Reads the file's content.
pub(super) fn parse(bytes: &[u8]) -> Result<Settings, FileError> {
    let converting = |reason: String| {
        FileError::Verification(format!("error converting YAML to JSON: yaml: {reason}"))
    };
    let text = std::str::from_utf8(bytes).map_err(|error| converting(error.to_string()))?;
    let root = if text.trim().is_empty() {
        Value::Null
    } else {
        // As in etcd the last of two equal keys counts.
        let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::LastWins };
        serde_saphyr::from_str_with_options(text, options)
            .map_err(|error| converting(first_line(&error.to_string())))?
    };
    let root = match root {
        Value::Null => Map::new(),
        Value::Object(root) => root,
        other => return Err(mistyped("", &other, "embed.configYAML")),
    };
    let mut settings = Settings::from_file();
    for (key, value) in &root {
        let key = key.to_ascii_lowercase();
        refuse_stray(&key, table::by_argument(&key).is_some())?;
        match (key.as_str(), value) {
            (_, Value::Null) => {}
            ("client-transport-security", Value::Object(group)) => {
                group_settings(&mut settings, group, client_key, &key)?;
            }
            ("peer-transport-security", Value::Object(group)) => {
                group_settings(&mut settings, group, peer_key, &key)?;
            }
            ("socket-options", Value::Object(group)) => {
                group_settings(&mut settings, group, socket_key, &key)?;
            }
            ("discovery-config", Value::Object(group)) => discovery(&mut settings, group)?,
            ("client-transport-security" | "peer-transport-security", other) => {
                return Err(mistyped(&key, other, "embed.securityConfig"));
            }
            ("socket-options", other) => {
                return Err(mistyped(&key, other, "transport.SocketOpts"));
            }
            ("discovery-config", other) => {
                return Err(mistyped(&key, other, "v3discovery.DiscoveryConfig"));
            }
            (name, value) => top_level(&mut settings, name, value)?,
        }
    }
    let is_discovered = settings.is_set("discovery-srv") || settings.is_set("discovery-endpoints");
    if is_discovered && !settings.is_set("initial-cluster") {
        set(&mut settings, table::by_name("initial-cluster"), "")?;
    }
    Ok(settings)
}

/// `line 1 column 7: reason`, without the picture that follows.
fn first_line(error: &str) -> String {
    error.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// A setting of encryption or backups that is mistyped, or indented into a group, must not be ignored.
fn refuse_stray(key: &str, is_known: bool) -> Result<(), FileError> {
    if !is_known && key.starts_with("backup") {
        return Err(FileError::Verification(format!(
            "unknown key {key:?} in the configuration file: the keys of backups are the flags that \
             begin with --backup-, at the top level; see --help"
        )));
    }
    if is_known || !key.starts_with("encryption") {
        return Ok(());
    }
    Err(FileError::Verification(format!(
        "unknown key {key:?} in the configuration file: the keys of encryption are \
         encryption-provider-config, encryption-provider-config-automatic-reload and \
         encryption-trust-plain-data, at the top level"
    )))
}

/// Flags that the file does not know by their name.
fn is_flag_only(name: &str) -> bool {
    matches!(
        name,
        "config-file"
            | "version"
            | "discovery-fallback"
            | "raft-read-timeout"
            | "raft-write-timeout"
            | "client-crl-file"
            | "peer-crl-file"
            | "socket-reuse-port"
            | "socket-reuse-address"
    ) || name.starts_with("experimental-")
        || client_keys().chain(peer_keys()).any(|(_, flag)| flag == name)
        || (name.starts_with("discovery-") && !name.starts_with("discovery-srv"))
}

fn top_level(settings: &mut Settings, key: &str, value: &Value) -> Result<(), FileError> {
    match table::by_argument(key).filter(|flag| !is_flag_only(flag.name)) {
        Some(flag) => typed(settings, flag, value, key),
        None => Ok(()),
    }
}

fn client_keys() -> impl Iterator<Item = (&'static str, &'static str)> {
    [
        ("cert-file", "cert-file"),
        ("key-file", "key-file"),
        ("client-cert-file", "client-cert-file"),
        ("client-key-file", "client-key-file"),
        ("client-cert-auth", "client-cert-auth"),
        ("trusted-ca-file", "trusted-ca-file"),
        ("auto-tls", "auto-tls"),
        ("allowed-hostname", "client-cert-allowed-hostname"),
        ("allowed-cn", ALLOWED_CN),
    ]
    .into_iter()
}

/// etcd has client common names in the file only; here they are kept under a hidden name.
pub(super) const ALLOWED_CN: &str = "client-cert-allowed-cn";

fn peer_keys() -> impl Iterator<Item = (&'static str, &'static str)> {
    [
        ("cert-file", "peer-cert-file"),
        ("key-file", "peer-key-file"),
        ("client-cert-file", "peer-client-cert-file"),
        ("client-key-file", "peer-client-key-file"),
        ("client-cert-auth", "peer-client-cert-auth"),
        ("trusted-ca-file", "peer-trusted-ca-file"),
        ("auto-tls", "peer-auto-tls"),
        ("allowed-hostname", "peer-cert-allowed-hostname"),
        ("allowed-cn", "peer-cert-allowed-cn"),
        ("skip-client-san-verification", "peer-skip-client-san-verification"),
    ]
    .into_iter()
}

fn client_key(key: &str) -> Option<&'static str> {
    client_keys().find(|(known, _)| *known == key).map(|(_, flag)| flag)
}

fn peer_key(key: &str) -> Option<&'static str> {
    peer_keys().find(|(known, _)| *known == key).map(|(_, flag)| flag)
}

fn socket_key(key: &str) -> Option<&'static str> {
    match key {
        "reuse-port" => Some("socket-reuse-port"),
        "reuse-address" => Some("socket-reuse-address"),
        _ => None,
    }
}

fn group_settings(
    settings: &mut Settings,
    group: &Map<String, Value>,
    flag_of: impl Fn(&str) -> Option<&'static str>,
    name: &str,
) -> Result<(), FileError> {
    for (key, value) in group {
        let flag = flag_of(&key.to_ascii_lowercase());
        refuse_stray(&key.to_ascii_lowercase(), flag.is_some())?;
        if let Some(flag) = flag {
            typed(settings, table::by_name(flag), value, &format!("{name}.{key}"))?;
        }
    }
    Ok(())
}

/// Keys of the discovery service's client, and the groups they are in.
const DISCOVERY_KEYS: [(&str, &str, &str); 14] = [
    ("", "endpoints", "discovery-endpoints"),
    ("", "dial-timeout", "discovery-dial-timeout"),
    ("", "request-timeout", "discovery-request-timeout"),
    ("", "keepalive-time", "discovery-keepalive-time"),
    ("", "keepalive-timeout", "discovery-keepalive-timeout"),
    ("secure", "cert", "discovery-cert"),
    ("secure", "key", "discovery-key"),
    ("secure", "cacert", "discovery-cacert"),
    ("secure", "server-name", "discovery-server-name"),
    ("secure", "insecure-transport", "discovery-insecure-transport"),
    ("secure", "insecure-skip-tls-verify", "discovery-insecure-skip-tls-verify"),
    ("auth", "username", "discovery-user"),
    ("auth", "password", "discovery-password"),
    ("auth", "token", "discovery-auth-token"),
];

/// The token stands in the group itself, everything else in its `client`, or as well in the group.
fn discovery(settings: &mut Settings, group: &Map<String, Value>) -> Result<(), FileError> {
    let mut set = |flag: &str, value: Option<&Value>| match value {
        Some(value) => {
            typed(settings, table::by_name(flag), value, &format!("discovery-config.{flag}"))
        }
        None => Ok(()),
    };
    set("discovery-token", group.get("token"))?;
    let client = group.get("client").and_then(Value::as_object);
    for place in [Some(group), client].into_iter().flatten() {
        for (inner, key, flag) in DISCOVERY_KEYS {
            let inner = match inner {
                "" => Some(place),
                inner => place.get(inner).and_then(Value::as_object),
            };
            set(flag, inner.and_then(|inner| inner.get(key)))?;
        }
    }
    Ok(())
}

/// Whether etcd's structure has a YAML list for a flag, not a string with commas.
fn is_yaml_list(flag: &Flag) -> bool {
    matches!(
        flag.name,
        "log-outputs"
            | "cipher-suites"
            | "client-cert-allowed-hostname"
            | ALLOWED_CN
            | "peer-cert-allowed-cn"
            | "peer-cert-allowed-hostname"
            | "discovery-endpoints"
    )
}

/// Sets a flag from a value of the type etcd's structure has.
fn typed(settings: &mut Settings, flag: &Flag, value: &Value, key: &str) -> Result<(), FileError> {
    let go_type = match flag.kind {
        Kind::Bool => "bool",
        Kind::Uint if matches!(flag.name, "snapshot-count" | "snapshot-catchup-entries") => {
            "uint64"
        }
        Kind::Uint => "uint",
        Kind::Uint32 => "uint32",
        Kind::Int if flag.name == "quota-backend-bytes" => "int64",
        Kind::Int => "int",
        Kind::Duration => "time.Duration",
        _ if is_yaml_list(flag) => "[]string",
        Kind::Repeated if value.is_array() => "[]string",
        _ => "string",
    };
    let text = match (value, go_type) {
        (Value::Null, _) => return Ok(()),
        (Value::Bool(value), "bool") => value.to_string(),
        (Value::Number(number), "uint" | "uint64") if number.is_u64() => number.to_string(),
        (Value::Number(number), "uint32")
            if number.as_u64().is_some_and(|number| u32::try_from(number).is_ok()) =>
        {
            number.to_string()
        }
        (Value::Number(number), "int" | "int64") if number.is_i64() => number.to_string(),
        (Value::Number(number), "time.Duration") if number.is_i64() => format!("{number}ns"),
        (Value::String(text), "string") => text.clone(),
        (Value::Array(items), "[]string") => {
            let items: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
            items.ok_or_else(|| mistyped(key, value, go_type))?.join(",")
        }
        _ => return Err(mistyped(key, value, go_type)),
    };
    // An empty string in the file leaves most defaults alone, as Go's zero value does for lists
    // of URLs; only the cluster may be emptied on purpose.
    let keeps_default = matches!(flag.kind, Kind::Urls | Kind::UrlsOrStar | Kind::Gates)
        || matches!(flag.name, "host-whitelist" | "initial-cluster-state");
    if text.is_empty() && keeps_default {
        return Ok(());
    }
    set(settings, flag, &text)
}

fn set(settings: &mut Settings, flag: &Flag, text: &str) -> Result<(), FileError> {
    settings.set(flag, text).map_err(|error| match flag.kind {
        // etcd names the wrong list for the client URLs to advertise.
        Kind::Urls if flag.name == "advertise-client-urls" => {
            FileError::Plain(format!("unexpected error setting up advertise-peer-urls: {error}"))
        }
        Kind::Urls => {
            FileError::Plain(format!("unexpected error setting up {}: {error}", flag.name))
        }
        Kind::OneOf(_) if flag.name == "initial-cluster-state" => {
            FileError::Verification(format!("unexpected clusterState {}", quote(text)))
        }
        Kind::Gates => FileError::Verification(error),
        _ => FileError::Verification(format!(
            "invalid value {} for {}: {error}",
            quote(text),
            flag.name
        )),
    })
}

fn mistyped(key: &str, value: &Value, go_type: &str) -> FileError {
    let kind = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        // Go shows a number only where a number of another kind is wanted.
        Value::Number(_) if matches!(go_type, "string" | "[]string" | "bool") => {
            "number".to_owned()
        }
        Value::Number(number) => format!("number {number}"),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    };
    let place = if key.is_empty() {
        "value".to_owned()
    } else {
        format!("struct field {}.{key}", structure(key))
    };
    FileError::Verification(format!(
        "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {kind} into Go \
         {place} of type {go_type}"
    ))
}

/// The part of Go's structure that a key belongs to.
fn structure(key: &str) -> &'static str {
    let own = [
        "listen-peer-urls",
        "listen-client-urls",
        "listen-client-http-urls",
        "initial-advertise-peer-urls",
        "advertise-client-urls",
        "cors",
        "host-whitelist",
        "client-transport-security",
        "peer-transport-security",
        "feature-gates",
    ];
    if key.contains("-transport-security.") {
        "securityConfig.configJSON"
    } else if own.contains(&key) {
        "configYAML.configJSON"
    } else {
        "configYAML.Config"
    }
}
