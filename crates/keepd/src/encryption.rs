//! `keepd encryption`: keys for an `EncryptionConfiguration`.
#![expect(clippy::print_stdout, reason = "a command line prints")]

use std::ffi::OsString;
use std::process::ExitCode;

use keepd_env::Env;

const USAGE: &str = "\
Usage:
  keepd encryption keygen    prints a new random key (32 bytes, base64), fit for every provider";

/// Runs the verb with the arguments behind it.
pub(crate) fn main(arguments: &[OsString]) -> ExitCode {
    match arguments.first().and_then(|argument| argument.to_str()) {
        Some("keygen") if arguments.len() == 1 => {
            println!("{}", *keepd_crypto::new_secret(&*Env::real().random));
            ExitCode::SUCCESS
        }
        None | Some("help" | "-h" | "--help") => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        Some(unknown) => {
            crate::complain(&format!("unknown command {unknown:?} of keepd encryption\n{USAGE}"));
            ExitCode::from(2)
        }
    }
}
