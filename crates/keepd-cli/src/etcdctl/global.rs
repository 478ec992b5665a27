//! The options every command takes, their environment, and what a session is made from.
//!
//! Each option may also come from `ETCDCTL_` and its name in capitals. An option given both ways
//! is a conflict that ends the command; a variable no option answers to gets a warning, which
//! includes `ETCDCTL_API`, as it does with etcdctl. A value in the environment that cannot be
//! read is ignored.
//!
//! One difference is meant: `ETCDCTL_COMMAND_TIMEOUT` works for every command.

use std::collections::BTreeSet;
use std::env;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keepd_env::Env;
use keepd_tls::{ClientTls, ClientTlsOptions};

use crate::engine::answer::{Format, Style};
use crate::engine::command::{Call, Flag, Kind};
use crate::engine::exit::{BAD_ARGUMENTS, Exit, bad_arguments, failed};
use crate::engine::json::Object;
use crate::engine::{log, plain_os_error};

/// The options every command takes.
pub(crate) static FLAGS: [Flag; 21] = [
    Flag {
        name: "endpoints",
        short: None,
        kind: Kind::List,
        default: "127.0.0.1:2379",
        usage: "gRPC endpoints",
    },
    Flag::bool("debug", "enable client-side debug logging"),
    Flag::text(
        "write-out",
        "simple",
        "set the output format (fields, json, protobuf, simple, table)",
    )
    .or('w'),
    Flag::bool("hex", "print byte strings as hex encoded strings"),
    Flag::duration("dial-timeout", "2s", "dial timeout for client connections"),
    Flag::duration(
        "command-timeout",
        "5s",
        "timeout for short running command (excluding dial timeout)",
    ),
    Flag::duration("keepalive-time", "2s", "keepalive time for client connections"),
    Flag::duration("keepalive-timeout", "6s", "keepalive timeout for client connections"),
    Flag::int(
        "max-request-bytes",
        "client-side request send limit in bytes \
         (if 0, it defaults to 2.0 MiB (2 * 1024 * 1024).)",
    ),
    Flag::int(
        "max-recv-bytes",
        "client-side response receive limit in bytes (if 0, it defaults to \"math.MaxInt32\")",
    ),
    Flag::bool("insecure-transport", "disable transport security for client connections")
        .unless_given("true"),
    Flag::bool("insecure-discovery", "accept insecure SRV records describing cluster endpoints")
        .unless_given("true"),
    Flag::bool(
        "insecure-skip-tls-verify",
        "skip server certificate verification \
         (CAUTION: this option should be enabled only for testing purposes)",
    ),
    Flag::text("cert", "", "identify secure client using this TLS certificate file"),
    Flag::text("key", "", "identify secure client using this TLS key file"),
    Flag::text(
        "cacert",
        "",
        "verify certificates of TLS-enabled secure servers using this CA bundle",
    ),
    Flag::text(
        "auth-jwt-token",
        "",
        "JWT token used for authentication \
         (if this option is used, --user and --password should not be set)",
    ),
    Flag::text(
        "user",
        "",
        "username[:password] for authentication (prompt if password is not supplied)",
    ),
    Flag::text(
        "password",
        "",
        "password for authentication \
         (if this option is used, --user option shouldn't include password)",
    ),
    Flag::text(
        "discovery-srv",
        "",
        "domain name to query for SRV records describing cluster endpoints",
    )
    .or('d'),
    Flag::text("discovery-srv-name", "", "service name to query when using DNS discovery"),
];

/// The client's user name and password.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Identity {
    /// A user whose password is exchanged for a token.
    User {
        /// The user's name.
        name: String,
        /// The user's password.
        password: String,
    },
    /// A token made elsewhere.
    Token(String),
}

/// The options that connections to the cluster are made from.
#[derive(Clone)]
pub(crate) struct Options {
    /// The members' addresses as given.
    pub(crate) endpoints: Vec<String>,
    /// Timeout of one attempt to connect.
    pub(crate) dial_timeout: Duration,
    /// Timeout of a short command.
    pub(crate) command_timeout: Duration,
    /// Interval at which an idle connection with open streams is pinged.
    pub(crate) keepalive_time: Duration,
    /// Timeout of the answer to a ping.
    pub(crate) keepalive_timeout: Duration,
    /// The largest request, in bytes.
    pub(crate) request_bytes_max: usize,
    /// The largest response, in bytes.
    pub(crate) response_bytes_max: usize,
    /// TLS for endpoints that leave it open, where any of its options was given.
    pub(crate) tls: Option<Arc<ClientTls>>,
    /// The user name and password, if given.
    pub(crate) identity: Option<Identity>,
    /// The format of answers.
    pub(crate) style: Style,
}

impl Options {
    /// Reads the options of a call and of the environment.
    pub(crate) fn read(call: &mut Call<'_>) -> Result<Self, Exit> {
        read_environment(call)?;
        if !call.string("discovery-srv").is_empty() {
            return Err(failed("--discovery-srv is not supported, use --endpoints"));
        }
        let format = call.string("write-out").to_owned();
        let options = Self {
            endpoints: call.list("endpoints").iter().map(|text| text.trim().to_owned()).collect(),
            dial_timeout: call.duration("dial-timeout"),
            command_timeout: call.duration("command-timeout"),
            keepalive_time: call.duration("keepalive-time"),
            keepalive_timeout: call.duration("keepalive-timeout"),
            request_bytes_max: limit(call.int("max-request-bytes"), REQUEST_BYTES_MAX),
            response_bytes_max: limit(call.int("max-recv-bytes"), RESPONSE_BYTES_MAX),
            tls: None,
            identity: identity(call)?,
            style: Style {
                format: Format::parse(&format)?,
                hex: call.flag("hex"),
                values_only: false,
            },
        };
        Ok(Self { tls: tls(call)?, ..options })
    }

    /// The same options for one endpoint only.
    pub(crate) fn only(&self, endpoint: &str) -> Self {
        Self { endpoints: vec![endpoint.to_owned()], ..self.clone() }
    }
}

/// gRPC clients of etcd send no more than this unless told.
const REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;
const RESPONSE_BYTES_MAX: usize = 0x7fff_ffff;

fn limit(given: i64, default: usize) -> usize {
    usize::try_from(given).ok().filter(|bytes| *bytes > 0).unwrap_or(default)
}

fn variable_of(flag: &str) -> String {
    format!("ETCDCTL_{}", flag.replace('-', "_").to_uppercase())
}

fn read_environment(call: &mut Call<'_>) -> Result<(), Exit> {
    let flags: Vec<&'static Flag> = call.inherited().collect();
    let given: BTreeSet<&str> =
        flags.iter().map(|flag| flag.name).filter(|name| call.is_given(name)).collect();
    let mut answered = BTreeSet::new();
    for flag in flags {
        let variable = variable_of(flag.name);
        let value = env::var(&variable).unwrap_or_default();
        if value.is_empty() || given.contains(flag.name) {
            continue;
        }
        answered.insert(variable);
        // A value that cannot be read is ignored, as etcdctl ignores it.
        let _unreadable = call.set(flag, &value);
    }
    if call.command().name() == "watch" {
        answered.extend(["ETCDCTL_WATCH_KEY".to_owned(), "ETCDCTL_WATCH_RANGE_END".to_owned()]);
    }
    for (name, value) in env::vars_os() {
        let name = name.to_string_lossy();
        if answered.contains(name.as_ref()) {
            continue;
        }
        if given.iter().any(|flag| variable_of(flag) == name) {
            log::write(
                "fatal",
                "",
                "conflicting environment variable is shadowed by corresponding command-line flag \
                 (either unset environment variable or disable flag))",
                &Object::new().text("environment-variable", &name),
            );
            return Err(Exit::silent(1));
        }
        if name.starts_with("ETCDCTL_") {
            let pair = format!("{name}={}", value.to_string_lossy());
            let fields = Object::new().text("environment-variable", &pair);
            log::write("warn", "", "unrecognized environment variable", &fields);
        }
    }
    Ok(())
}

fn identity(call: &Call<'_>) -> Result<Option<Identity>, Exit> {
    let (user, password) = (call.string("user"), call.string("password"));
    let token = call.string("auth-jwt-token");
    if !token.is_empty() {
        return Ok(Some(Identity::Token(token.to_owned())));
    }
    if user.is_empty() {
        return Ok(None);
    }
    let (name, password) = match (password, user.split_once(':')) {
        ("", Some((name, password))) => (name.to_owned(), password.to_owned()),
        ("", None) => (user.to_owned(), ask("Password: ")?),
        _ => (user.to_owned(), password.to_owned()),
    };
    Ok(Some(Identity::User { name, password }))
}

/// Asks for a secret at the terminal, without showing what is typed.
pub(crate) fn ask(prompt: &str) -> Result<String, Exit> {
    let terminal = console::Term::stdout();
    terminal.write_str(prompt).map_err(failed)?;
    terminal.read_secure_line().map_err(failed)
}

fn tls(call: &Call<'_>) -> Result<Option<Arc<ClientTls>>, Exit> {
    let mut files = ["cert", "key", "cacert"].map(|name| (name, call.string(name)));
    for (name, path) in files {
        if path.is_empty() && call.is_given(name) {
            return Err(bad_arguments(format_args!("empty string is passed to --{name} option")));
        }
    }
    let skips_verification = call.flag("insecure-skip-tls-verify");
    let any_file = files.iter().any(|(_, path)| !path.is_empty());
    if !any_file && call.flag("insecure-transport") && !skips_verification {
        return Ok(None);
    }
    let [(_, cert), (_, key), (_, cacert)] = files;
    if cert.is_empty() != key.is_empty() {
        return Err(bad_arguments(format_args!(
            "KeyFile and CertFile must both be present[key: {key}, cert: {cert}]"
        )));
    }
    // etcdctl reads the CA bundle first and stops at the first file it cannot open.
    files.rotate_right(1);
    for (_, path) in files.iter().filter(|(_, path)| !path.is_empty()) {
        File::open(path).map_err(|error| {
            bad_arguments(format_args!("open {path}: {}", plain_os_error(&error)))
        })?;
    }
    let given = |path: &str| (!path.is_empty()).then(|| PathBuf::from(path));
    client_tls(ClientTlsOptions {
        trusted_ca_file: given(cacert),
        cert_and_key_files: given(cert).zip(given(key)),
        dangerously_skip_verification: skips_verification,
        ..tls_defaults()
    })
    .map(Some)
}

fn tls_defaults() -> ClientTlsOptions {
    ClientTlsOptions { alpn: vec![b"h2".to_vec()], ..ClientTlsOptions::default() }
}

fn client_tls(options: ClientTlsOptions) -> Result<Arc<ClientTls>, Exit> {
    ClientTls::new(options, &Env::real()).map(Arc::new).map_err(unusable)
}

/// Ends a command whose TLS options or files cannot be used.
pub(crate) fn unusable(error: keepd_tls::Error) -> Exit {
    Exit::new(BAD_ARGUMENTS, error)
}

/// TLS for an `https://` endpoint when no option of TLS was given.
pub(crate) fn default_tls() -> Result<Arc<ClientTls>, keepd_tls::Error> {
    ClientTls::new(tls_defaults(), &Env::real()).map(Arc::new)
}
