//! The server's command line, environment and configuration file, as etcd 3.7.1 reads them.
//!
//! [`parse`] turns arguments and environment into validated [`ServerOptions`], or into output and an
//! exit code. Everything it knows of a flag is in one table ([`table`]): parsing, environment names,
//! the configuration file, `--help` and missing support all come from there. It opens nothing but the
//! configuration file, checks whether the data directory is empty, and does not log: notices for the
//! log are returned, since the options configure the logger.
//!
//! Flags of etcd that keepd cannot honour are refused where leaving them out silently would cost
//! security or durability, and otherwise accepted with a notice.

mod backup;
mod cluster;
mod config_file;
mod discovery;
mod gates;
mod go;
mod help;
mod options;
mod settings;
pub(crate) mod table;
mod urls;
mod validate;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;

use keepd_gotext::quote;

pub(crate) use backup::{BackupOptions, ShipOptions};
pub(crate) use discovery::{Discovery, DiscoveryIdentity, DiscoveryTls};
pub(crate) use options::{
    ClusterState, LogFormat, LogLevel, LogOptions, ServerOptions, TransportSecurity, join_dir,
};
pub(crate) use urls::{Url, parse_url};

use settings::Settings;

/// Severity of a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Worth knowing.
    Info,
    /// Probably not meant.
    Warn,
    /// The process ends.
    Fatal,
}

/// A line for the log: etcd's message and fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    /// The severity.
    pub(crate) level: Level,
    /// The message.
    pub(crate) message: String,
    /// Named values.
    pub(crate) fields: Vec<(&'static str, String)>,
}

impl Notice {
    fn new(level: Level, message: impl Into<String>) -> Self {
        Self { level, message: message.into(), fields: Vec::new() }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((name, value.into()));
        self
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        self.fields.iter().try_for_each(|(name, value)| write!(f, " {name}={value:?}"))
    }
}

/// A command line with which the server runs.
#[derive(Clone, Debug)]
pub(crate) struct Parsed {
    /// The options to run with.
    pub(crate) options: ServerOptions,
    /// Notices for the log, once it is set up.
    pub(crate) notices: Vec<Notice>,
}

/// A command line with which it does not: output, notices and exit code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FlagsExit {
    /// The exit code.
    pub(crate) code: u8,
    /// Text for standard output.
    pub(crate) stdout: String,
    /// Text for standard error, after the log.
    pub(crate) stderr: String,
    /// Notices for the log.
    pub(crate) notices: Vec<Notice>,
}

impl FlagsExit {
    /// A bad command line: the error and the usage on standard error, exit code 2.
    fn usage(error: &str) -> Self {
        let stderr = format!("{error}\n{}\n", help::USAGE);
        Self { code: 2, stderr, ..Self::default() }
    }

    /// Bad settings: a warning in the log, exit code 1.
    fn verification(error: impl Into<String>, mut notices: Vec<Notice>) -> Self {
        let error = error.into();
        let is_unset = error == validate::ADVERTISE_UNSET;
        notices.push(Notice::new(Level::Warn, "failed to verify flags").with("error", &error));
        if is_unset {
            let message = "advertise client URLs are not set";
            notices.push(Notice::new(Level::Warn, message).with("error", error));
        }
        Self { code: 1, notices, ..Self::default() }
    }

    /// The server cannot be set up: etcd's fatal `discovery failed`, exit code 1.
    fn bootstrap(error: impl Into<String>, mut notices: Vec<Notice>) -> Self {
        notices.push(Notice::new(Level::Fatal, "discovery failed").with("error", error));
        Self { code: 1, notices, ..Self::default() }
    }
}

/// Parses the arguments after the program's name, and the environment.
///
/// # Errors
/// Output, log lines and exit code; also for `--help` and `--version`.
pub(crate) fn parse(
    args: &[String],
    environment: &[(String, String)],
) -> Result<Parsed, FlagsExit> {
    let mut settings = Settings::default();
    let rest = match go::parse_arguments(args, &mut settings) {
        Ok(rest) => rest,
        Err(go::ArgumentError::Help) => {
            let stderr = format!("{}\n", help::USAGE);
            return Err(FlagsExit { stdout: help::flags(), stderr, ..FlagsExit::default() });
        }
        Err(go::ArgumentError::Bad(error)) => return Err(FlagsExit::usage(&error)),
    };
    if let Some(stray) = rest.first() {
        return Err(FlagsExit::verification(stray_argument(stray), Vec::new()));
    }
    if settings.is_true("version") {
        return Err(FlagsExit { stdout: help::version(), ..FlagsExit::default() });
    }
    let mut notices = Vec::new();
    let file = settings.text("config-file").to_owned();
    let file = if file.is_empty() { variable(environment, "ETCD_CONFIG_FILE") } else { file };
    if file.is_empty() {
        from_environment(&mut settings, environment, &mut notices)?;
    } else {
        let from_file =
            config_file::read(&file).map_err(|error| error.into_exit(notices.clone()))?;
        for name in ["encryption-provider-config", "backup-to"] {
            stands_in_the_file(name, &settings, environment, &from_file, &file)
                .map_err(|error| FlagsExit::verification(error, notices.clone()))?;
        }
        settings = from_file;
        let message = "loaded server configuration, other configuration command line flags and \
                       environment variables will be ignored if provided";
        notices.push(Notice::new(Level::Info, message).with("path", &file));
    }
    finish(&settings, notices)
}

/// Refuses a setting that is given beside a configuration file and is not in it. etcd ignores flags and
/// environment then; here that would leave plain what was meant to be sealed, or take no backups.
fn stands_in_the_file(
    name: &str,
    given: &Settings,
    environment: &[(String, String)],
    from_file: &Settings,
    file: &str,
) -> Result<(), String> {
    let flag = table::by_name(name);
    let ruling = from_file.text(flag.name);
    let name = format!("ETCD_{}", flag.variable());
    let variable = variable(environment, &name);
    let flag_text = format!("--{}", flag.name);
    for (source, value) in [(flag_text, given.text(flag.name)), (name, &variable)] {
        if !value.is_empty() && value != ruling {
            return Err(format!(
                "{source} is {value:?} but {file} has {ruling:?}: the configuration file rules \
                 and flags and environment are ignored beside it; put `{}: {value}` into {file}",
                flag.name
            ));
        }
    }
    Ok(())
}

/// Builds and checks the options.
fn finish(settings: &Settings, mut notices: Vec<Notice>) -> Result<Parsed, FlagsExit> {
    notices.extend(validate::deprecations(settings));
    if let Err(level) = options::log_level(settings) {
        // etcd panics here, and panics exit with 2.
        let stderr = format!("panic: unrecognized level: {}\n", quote(level));
        return Err(FlagsExit { code: 2, stderr, notices, ..FlagsExit::default() });
    }
    validate::support(settings, &mut notices)
        .and_then(|()| validate::settings(settings, &mut notices))
        .map_err(|error| FlagsExit::verification(error, notices.clone()))?;
    let options = match ServerOptions::build(settings) {
        Ok(options) => options,
        Err(error) => return Err(FlagsExit::bootstrap(error, notices)),
    };
    let checked = validate::start(&options, &mut notices).and_then(|()| {
        // Once there is data, etcd too ignores what the flags say of the first start.
        // Members that DNS lists are not known yet.
        if has_data(&options) || !options.discovery_srv.is_empty() {
            return Ok(());
        }
        if options.discovery.is_some() && options.initial_cluster_state == ClusterState::Existing {
            let error = "discovery URL should not be set when joining existing initial cluster";
            return Err(error.to_owned());
        }
        options.members().map(|_members| ()).map_err(|error| error.to_string())
    });
    if let Err(error) = checked {
        return Err(FlagsExit::bootstrap(error, notices));
    }
    Ok(Parsed { options, notices })
}

/// Whether the data directory has a member, or a restored snapshot that will be one: anything but
/// empty folders, as an image may bring them.
fn has_data(options: &ServerOptions) -> bool {
    fn holds_files(dir: &Path, depth: usize) -> bool {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            !is_dir || depth == 0 || holds_files(&entry.path(), depth - 1)
        })
    }
    ["member", "import"].iter().any(|name| holds_files(&options.data_dir.join(name), 1))
}

fn variable(environment: &[(String, String)], name: &str) -> String {
    let found = environment.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.clone()).unwrap_or_default()
}

/// Takes `ETCD_*` for every flag that the command line does not set.
fn from_environment(
    settings: &mut Settings,
    environment: &[(String, String)],
    notices: &mut Vec<Notice>,
) -> Result<(), FlagsExit> {
    let version = variable(environment, "ETCD_VERSION");
    if !version.is_empty() {
        let notice = Notice::new(Level::Warn, "cannot set special environment variable");
        notices.push(notice.with("key", "ETCD_VERSION").with("value", version));
    }
    let mut problem = None;
    for (name, value) in environment {
        let Some(suffix) = name.strip_prefix("ETCD_").filter(|_| name != "ETCD_VERSION") else {
            continue;
        };
        let Some(flag) = table::by_variable(suffix) else {
            if name == "ETCD_UNSUPPORTED_ARCH" {
                continue;
            }
            let notice = Notice::new(Level::Warn, "unrecognized environment variable");
            notices.push(notice.with("environment-variable", format!("{name}={value}")));
            continue;
        };
        if settings.is_set(flag.name) {
            let message = "conflicting environment variable is shadowed by corresponding \
                           command-line flag (either unset environment variable or disable flag))";
            notices.push(Notice::new(Level::Fatal, message).with("environment-variable", name));
            let notices = std::mem::take(notices);
            return Err(FlagsExit { code: 1, notices, ..FlagsExit::default() });
        }
        if value.is_empty() {
            continue;
        }
        match settings.set(flag, value) {
            Ok(()) => notices.push(
                Notice::new(Level::Info, "recognized and used environment variable")
                    .with("variable-name", name)
                    .with("variable-value", discovery::shown(flag, value)),
            ),
            Err(error) => {
                problem = Some(format!("invalid value {} for {name}: {error}", quote(value)));
            }
        }
    }
    match problem {
        Some(error) => Err(FlagsExit::verification(error, std::mem::take(notices))),
        None => Ok(()),
    }
}

/// etcd's text, and the remedy for dashes as word processors and web pages write them.
fn stray_argument(argument: &str) -> String {
    let long_dashes = ['\u{2010}', '\u{2011}', '\u{2012}', '\u{2013}', '\u{2014}', '\u{2212}'];
    let text = format!("{} is not a valid flag", quote(argument));
    let name = argument.trim_start_matches(long_dashes).trim_start_matches('-');
    if argument.starts_with(long_dashes) {
        return format!(
            "{text}: it begins with a long dash, as pasted from a document; write --{name}"
        );
    }
    text
}
