//! `keepd debug`: looks into a member's files.

mod command;
mod dump_log;
mod record;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::verb;

/// Look into a member's files. Nothing is changed, and the member may run meanwhile.
#[derive(Debug, Parser)]
#[command(name = "keepd debug", bin_name = "keepd debug")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print the write-ahead log: segments, hard states, entries with their commands, and damage.
    DumpLog(dump_log::Arguments),
}

/// Runs the verb with its arguments.
pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    verb::run("keepd debug", arguments, |arguments: Arguments| match arguments.verb {
        Verb::DumpLog(arguments) => dump_log::run(&arguments),
    })
}
