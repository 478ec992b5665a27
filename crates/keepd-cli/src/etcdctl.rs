//! etcdctl: the client commands, with etcd's words, output formats and exit codes.
//!
//! Each command is a file: its table, what it asks the cluster, and what its answer looks like in
//! each format. `client.rs` makes the requests, `crate::engine` is the command line.
//!
//! Only what is listed in a table exists; nothing is accepted and ignored. Commands never end the
//! process themselves, they return an `Exit`.

mod alarm;
mod auth;
mod client;
mod compaction;
mod defrag;
mod del;
mod dial;
mod elect;
mod endpoint;
mod exec;
mod get;
mod global;
mod leadership;
mod lease;
mod lock;
mod member;
mod put;
mod role;
mod session;
mod shell_words;
mod snapshot;
mod txn;
mod user;
mod version;
mod watch;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::process::ExitCode;

use crate::engine::command::{Command, Program};
use crate::engine::{self, GROUP_UTILITY, completion, options};

pub use dial::{DialError, Dialing, Target};
pub use get::prefix_end;

const GROUP_KV: &str = "Key-value commands";
const GROUP_CLUSTER: &str = "Cluster maintenance commands";
const GROUP_CONCURRENCY: &str = "Concurrency commands";
const GROUP_AUTHENTICATION: &str = "Authentication commands";

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
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    engine::start(&PROGRAM, arguments)
}
