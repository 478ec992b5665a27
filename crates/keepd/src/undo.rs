//! `keepd history`, `diff` and `undo`: states of the keys, compared and put back.
//!
//! A state is that of a running cluster at a revision, over the client API, or that of a backup, restored into
//! a scratch folder. Memory holds a page of keys and a few values of each, whatever their number.

mod archived;
mod diff;
mod history;
mod kubernetes;
mod live;
mod put_back;
mod selection;
mod shown;
mod sources;
mod state;
mod versions;

use std::ffi::OsString;
use std::process::ExitCode;

use crate::verb;

/// Runs `keepd history`.
pub(crate) fn history(arguments: Vec<OsString>) -> ExitCode {
    verb::run("keepd history", arguments, |arguments: history::Arguments| history::run(&arguments))
}

/// Runs `keepd diff`.
pub(crate) fn diff(arguments: Vec<OsString>) -> ExitCode {
    verb::run("keepd diff", arguments, |arguments: diff::Arguments| diff::run(&arguments))
}

/// Runs `keepd undo`.
pub(crate) fn undo(arguments: Vec<OsString>) -> ExitCode {
    verb::run("keepd undo", arguments, |arguments: put_back::Arguments| put_back::run(&arguments))
}
