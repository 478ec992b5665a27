//! `keepd member`: chores of a member's machine.

mod rebuild;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::verb;

/// Chores of a member's machine.
#[derive(Debug, Parser)]
#[command(name = "keepd member", bin_name = "keepd member")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Give a corrupt or damaged member the state of the others: removed, emptied, added, promoted.
    Rebuild(rebuild::Arguments),
}

/// Runs the verb with its arguments.
pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    verb::run("keepd member", arguments, |arguments: Arguments| match arguments.verb {
        Verb::Rebuild(arguments) => rebuild::main(&arguments),
    })
}
