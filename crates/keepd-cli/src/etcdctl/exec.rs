//! Running other programs: `watch` for each change, `lock` while it holds the lock.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::process::{Command, ExitStatus};

use bytes::Bytes;
use keepd_gotext::quote;

use crate::engine::plain_os_error;

/// The program of a command line, its arguments set; nothing for an empty line.
pub(super) fn command(words: &[Bytes]) -> Option<Command> {
    let text = |bytes: &Bytes| OsString::from_vec(bytes.to_vec());
    let (program, arguments) = words.split_first()?;
    let mut command = Command::new(text(program));
    command.args(arguments.iter().map(text));
    Some(command)
}

/// The error of a program that could not be started, in Go's words.
pub(super) fn not_started(program: &[u8], error: &io::Error) -> String {
    if program.contains(&b'/') {
        let program = String::from_utf8_lossy(program);
        return format!("fork/exec {program}: {}", plain_os_error(error));
    }
    if error.kind() == io::ErrorKind::NotFound {
        return format!("exec: {}: executable file not found in $PATH", quote(program));
    }
    error.to_string()
}

/// The exit status of a program that failed, in Go's words.
pub(super) fn ended(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("exit status {code}"))
}
