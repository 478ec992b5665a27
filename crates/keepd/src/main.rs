//! keepd: a server that takes etcd's place, its command line tools, and keepd's own verbs, in one
//! binary. The name it is called by, or its first argument, selects the program.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use keepd_cli::wiping::Wiping;
use keepd_cli::{etcdctl, etcdutl, output};
use keepd_crypto::{
    ConfigFile, ConfigOptions, EncryptionConfig, KeyServices, NoKeyServices, wiping,
};
use keepd_env::Env;
use keepd_node::DataDir;

mod admin;
mod backup;
mod debug;
mod encryption;
mod enrol;
#[cfg(any(test, feature = "failpoints"))]
mod failpoints;
mod flags;
mod help;
mod logging;
mod member;
mod pki;
mod promotion;
mod quickstart;
mod recover;
mod serve;
mod undo;
mod verb;

const _: () = assert!(!keepd_env::mutants::ARE_BUILT, "mutants are for the simulator's own test");

#[global_allocator]
static ALLOCATOR: Wiping = Wiping;

/// Returns memory that is free after a burst to the system. The allocator does so by itself only
/// when it is asked for more, which after a burst may be hours later.
pub(crate) fn give_back_memory() {
    #[expect(unsafe_code, reason = "the allocator is C")]
    // SAFETY: may be called by any thread at any time; it touches nothing that is allocated.
    unsafe {
        libmimalloc_sys::mi_collect(false);
    }
}

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let invoked = if arguments.is_empty() { OsString::new() } else { arguments.remove(0) };
    let name = Path::new(&invoked).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if let Some(program) = program(name) {
        return program(arguments);
    }
    let first = arguments.first().and_then(|first| first.to_str()).unwrap_or_default().to_owned();
    if let Some(program) = program(&first).or_else(|| verb(&first)) {
        arguments.remove(0);
        return program(arguments);
    }
    match first.as_str() {
        "version" => {
            help::version();
            ExitCode::SUCCESS
        }
        "" | "help" | "-h" | "--help" => {
            help::overview();
            ExitCode::SUCCESS
        }
        flag if flag.starts_with('-') => server(arguments),
        unknown => {
            complain(&format!("unknown command {unknown:?}; run: keepd help"));
            ExitCode::from(2)
        }
    }
}

/// The program of a name.
fn program(name: &str) -> Option<fn(Vec<OsString>) -> ExitCode> {
    match name {
        "etcd" => Some(server),
        "etcdctl" | "keepctl" | "ctl" => Some(etcdctl::main),
        "etcdutl" | "utl" => Some(etcdutl::main),
        _ => None,
    }
}

/// The program that the first argument alone selects.
fn verb(name: &str) -> Option<fn(Vec<OsString>) -> ExitCode> {
    match name {
        "server" => Some(server),
        "backup" => Some(backup::main),
        "cluster" => Some(enrol::main),
        "debug" => Some(debug::main),
        "diff" => Some(undo::diff),
        "encryption" => Some(encryption::main),
        "history" => Some(undo::history),
        "member" => Some(member::main),
        "quickstart" => Some(quickstart::main),
        "pki" => Some(pki::main),
        "recover" => Some(recover::main),
        "undo" => Some(undo::undo),
        _ => None,
    }
}

/// The server with etcd's flags.
fn server(arguments: Vec<OsString>) -> ExitCode {
    let text = |string: OsString| string.to_string_lossy().into_owned();
    let arguments: Vec<String> = arguments.into_iter().map(text).collect();
    let environment: Vec<(String, String)> =
        std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
    match flags::parse(&arguments, &environment) {
        Ok(parsed) => serve::run(parsed),
        Err(exit) => {
            help::print(&exit.stdout);
            let default = flags::LogOptions {
                outputs: vec!["default".to_owned()],
                level: flags::LogLevel::Info,
                format: flags::LogFormat::Json,
            };
            if !exit.notices.is_empty() && logging::init(&default).is_ok() {
                exit.notices.iter().for_each(log_notice);
            }
            if !exit.stderr.is_empty() {
                complain(exit.stderr.trim_end());
            }
            ExitCode::from(exit.code)
        }
    }
}

/// Logs a notice of the flags, which were parsed before there was a log.
fn log_notice(notice: &flags::Notice) {
    let level = match notice.level {
        flags::Level::Info => tracing::Level::INFO,
        flags::Level::Warn => tracing::Level::WARN,
        flags::Level::Fatal => tracing::Level::ERROR,
    };
    logging::line(level, &notice.message, &notice.fields);
}

/// Reads an `EncryptionConfiguration`.
fn read_encryption_config(path: &Path, options: ConfigOptions) -> anyhow::Result<ConfigFile> {
    let name = path.display().to_string();
    wiping(|| {
        let bytes = std::fs::read(path).map_err(|error| {
            anyhow::anyhow!(
                "error reading encryption provider configuration file {name:?}: {error}"
            )
        })?;
        Ok(ConfigFile::parse(&name, &bytes, options)?)
    })
}

/// The encryption configuration as a server on this data directory has it.
async fn encryption_config(
    env: &Env,
    path: &Path,
    options: ConfigOptions,
    services: &dyn KeyServices,
    data_dir: &Path,
) -> anyhow::Result<EncryptionConfig> {
    let file = read_encryption_config(path, options)?;
    let stored =
        if file.names_key_services() { DataDir::wrapped_keys(env, data_dir)? } else { Vec::new() };
    Ok(file.resolve(services, &stored, &*env.random).await?)
}

/// The same while that server is stopped, and key services are not asked; none if no file is given.
async fn encryption_config_at_rest(
    env: &Env,
    path: Option<&Path>,
    data_dir: &Path,
) -> anyhow::Result<Option<EncryptionConfig>> {
    let Some(path) = path else { return Ok(None) };
    let options = ConfigOptions::default();
    encryption_config(env, path, options, &NoKeyServices, data_dir).await.map(Some)
}

/// Repeats an error of the log in plain words, for a person at a terminal.
fn complain_to_person(message: &str) {
    if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        complain(message);
    }
}

/// Tells a person what went wrong.
fn complain(message: &str) {
    output::complain(message);
}
