//! etcdctl: the client commands, with etcd's words, output formats and exit codes.
//!
//! [`main`] parses the command line over constant tables (`command.rs`), runs the command and
//! turns its end into an exit code. Each command is a file: its table, what it asks the cluster,
//! and what its answer looks like in each format (`answer.rs`). `client.rs` makes the requests.
//!
//! Only what is listed in a table exists; nothing is accepted and ignored. Commands never end the
//! process themselves, they return an `Exit`.

mod alarm;
pub(crate) mod answer;
mod auth;
mod child;
mod client;
pub(crate) mod command;
mod compaction;
pub(crate) mod completion;
mod defrag;
mod del;
mod dial;
mod elect;
mod endpoint;
pub(crate) mod exit;
mod get;
mod global;
pub(crate) mod gostr;
pub(crate) mod help;
pub(crate) mod json;
mod leadership;
mod lease;
mod lock;
pub(crate) mod log;
mod member;
pub(crate) mod options;
mod put;
mod role;
mod session;
mod snapshot;
pub(crate) mod table;
mod txn;
mod user;
mod version;
mod watch;
mod words;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::process::ExitCode;

use self::command::{Command, Parsed, Program};
use self::exit::Exit;
pub(crate) use self::global::plain_os_error;

const GROUP_KV: &str = "Key-value commands";
const GROUP_CLUSTER: &str = "Cluster maintenance commands";
const GROUP_CONCURRENCY: &str = "Concurrency commands";
const GROUP_AUTHENTICATION: &str = "Authentication commands";
const GROUP_UTILITY: &str = "Utility commands";

static ROOT: Command = Command {
    usage: "etcdctl",
    short: "A simple command line client for etcd3.",
    inherited: &global::FLAGS,
    commands: &[
        &get::COMMAND,
        &put::COMMAND,
        &del::COMMAND,
        &txn::COMMAND,
        &compaction::COMMAND,
        &alarm::COMMAND,
        &defrag::COMMAND,
        &endpoint::COMMAND,
        &leadership::MOVE_LEADER_COMMAND,
        &watch::COMMAND,
        &version::COMMAND,
        &lease::COMMAND,
        &member::COMMAND,
        &snapshot::COMMAND,
        &lock::COMMAND,
        &elect::COMMAND,
        &auth::COMMAND,
        &user::COMMAND,
        &role::COMMAND,
        &completion::COMMAND,
        &leadership::DOWNGRADE_COMMAND,
        &options::COMMAND,
        &options::HELP,
    ],
    ..Command::NONE
};

pub(crate) static PROGRAM: Program = Program {
    root: &ROOT,
    groups: &[GROUP_KV, GROUP_CLUSTER, GROUP_CONCURRENCY, GROUP_AUTHENTICATION, GROUP_UTILITY],
    describes: true,
    hides_global_flags: true,
    help_hint: "Use \"etcdctl options\" for a list of global command-line options \
                (applies to all commands).",
    repeats_mistakes: false,
};

/// Runs etcdctl with its arguments, the program's own name left out.
pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    start(&PROGRAM, arguments)
}

/// Runs a program's command line and says how it ended.
pub(crate) fn start(program: &'static Program, arguments: Vec<OsString>) -> ExitCode {
    let ended = match command::parse(program, arguments) {
        Ok(Parsed::Call(call)) => {
            let run = call.command().run.expect("a group of commands gets help");
            run(call)
        }
        Ok(Parsed::Help(path)) => {
            answer::print(help::help(program, &path).as_bytes());
            Ok(())
        }
        Err(mut exit) => {
            if let Some(text) = exit.text.as_ref().filter(|_| program.repeats_mistakes) {
                exit.after.push_str(&format!("Error: {text}\n"));
            }
            Err(exit)
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(Exit { code, text, after }) => {
            if let Some(text) = text {
                answer::complain(&format!("Error: {text}"));
            }
            if !after.is_empty() {
                answer::complain(after.strip_suffix('\n').unwrap_or(&after));
            }
            ExitCode::from(code)
        }
    }
}
