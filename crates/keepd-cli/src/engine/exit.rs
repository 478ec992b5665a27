//! The end of a command: an exit code, and usually one line of text.
//!
//! The codes are etcdctl's. Commands return an [`Exit`] instead of ending the process, so that
//! only `main` decides and destructors run.

use std::fmt;

/// Any failure that has no code of its own, RPC errors among them.
pub(crate) const FAILED: u8 = 1;
/// A connection could not be set up.
pub(crate) const BAD_CONNECTION: u8 = 2;
/// Standard input was not what the command expects.
pub(crate) const INVALID_INPUT: u8 = 3;
/// An output format or option value that is not supported.
pub(crate) const BAD_FEATURE: u8 = 4;
/// A long-running command was broken off.
pub(crate) const INTERRUPTED: u8 = 5;
/// Bad arguments.
pub(crate) const BAD_ARGUMENTS: u8 = 128;

/// The end of a command that did not succeed.
#[derive(Debug)]
pub(crate) struct Exit {
    /// The exit code of the process.
    pub(crate) code: u8,
    /// The text after `Error: ` on standard error; `None` if everything was printed already.
    pub(crate) text: Option<String>,
    /// Lines below the error: a usage block or a hint.
    pub(crate) after: String,
}

impl Exit {
    /// An end with a line of text.
    pub(crate) fn new(code: u8, text: impl fmt::Display) -> Self {
        Self { code, text: Some(text.to_string()), after: String::new() }
    }

    /// An end whose text was printed already.
    pub(crate) const fn silent(code: u8) -> Self {
        Self { code, text: None, after: String::new() }
    }

    /// Adds lines below the error.
    pub(crate) fn followed_by(mut self, after: impl Into<String>) -> Self {
        self.after = after.into();
        self
    }
}

/// Bad arguments, with their text.
pub(crate) fn bad_arguments(text: impl fmt::Display) -> Exit {
    Exit::new(BAD_ARGUMENTS, text)
}

/// A plain failure, with its text.
pub(crate) fn failed(text: impl fmt::Display) -> Exit {
    Exit::new(FAILED, text)
}
