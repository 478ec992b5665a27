//! The command line that etcdctl and etcdutl share: cobra's, as etcd's tools have it.
//!
//! [`start`] parses the command line over constant tables (`command.rs`), runs the command and
//! turns its result into an exit code; `help.rs` and `completion.rs` read the same tables. `answer.rs`
//! prints the answers of commands, in each format.

pub(crate) mod answer;
pub(crate) mod command;
pub(crate) mod completion;
pub(crate) mod exit;
mod flag_list;
pub(crate) mod help;
pub(crate) mod humanize;
pub(crate) mod json;
pub(crate) mod log;
pub(crate) mod options;
pub(crate) mod table;

use std::ffi::OsString;
use std::process::ExitCode;

use self::command::{Parsed, Program};
use self::exit::Exit;

pub(crate) const GROUP_UTILITY: &str = "Utility commands";

/// Runs a program's command line; returns its exit code.
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

/// The text of an operating system's error as in Go: in lower case, without its number.
pub(crate) fn plain_os_error(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}
