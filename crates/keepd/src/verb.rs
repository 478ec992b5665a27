//! keepd's own verbs: their arguments are read by clap, and they end in one way.

use std::ffi::OsString;
use std::io::{BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::process::ExitCode;

use clap::Parser;

/// BOUND: bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 64;

/// Asks at the terminal whether to go on; without one nobody can agree.
pub(crate) fn confirm(question: &str) -> anyhow::Result<bool> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        crate::complain("there is no terminal to ask for confirmation: give --yes to agree");
        return Ok(false);
    }
    let mut err = std::io::stderr();
    write!(err, "{question} Type yes: ")?;
    err.flush()?;
    let mut answer = String::new();
    input.lock().take(ANSWER_BYTES_MAX).read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

/// The end of a verb after a question that was answered with no, or could not be asked: exit code 3.
pub(crate) fn not_confirmed() -> ExitCode {
    crate::complain("nothing was changed");
    ExitCode::from(3)
}

/// Runs a verb with its arguments. A mistake on the command line ends it with 2, a failure with 1;
/// both are printed.
pub(crate) fn run<A: Parser>(
    name: &str,
    arguments: Vec<OsString>,
    verb: impl FnOnce(A) -> anyhow::Result<ExitCode>,
) -> ExitCode {
    let program = std::iter::once(OsString::from(name));
    let arguments = match A::try_parse_from(program.chain(arguments)) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _unprintable = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    verb(arguments).unwrap_or_else(|error| {
        crate::complain(&format!("{name}: {error:#}"));
        ExitCode::FAILURE
    })
}
