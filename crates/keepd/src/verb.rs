//! keepd's own verbs: their arguments are read by clap, and they end in one way.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

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
