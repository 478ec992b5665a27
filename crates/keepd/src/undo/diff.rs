//! `keepd diff`: the keys that two states have different values for.

use std::process::ExitCode;

use clap::Parser;
use keepd_cli::output;

use super::selection::SelectionArguments;
use super::sources::{SourceArguments, Sources};
use super::{shown, state};
use crate::backup::Format;

/// The two states differ, if that was asked for.
const DIFFERENT: u8 = 4;

/// Show what differs between two states of the keys.
///
/// A state is a revision of the running cluster, `now`, the name of a backup, `latest` (the newest proven
/// one), or a time (the newest proven backup before it). Lines begin with + for a key that only B has, - for
/// one that only A has, ~ for one whose value differs.
///
/// Exit codes: 0 done, 1 failed, 2 mistake on the command line, 4 they differ (with --exit-code).
#[derive(Debug, Parser)]
#[command(name = "keepd diff", bin_name = "keepd diff")]
pub(crate) struct Arguments {
    /// The state before.
    #[arg(value_name = "A")]
    before: String,
    /// The state after.
    #[arg(value_name = "B", default_value = "now")]
    after: String,
    #[command(flatten)]
    selection: SelectionArguments,
    #[command(flatten)]
    sources: SourceArguments,
    /// Tell the values too, in base64, with -w json.
    #[arg(long)]
    values: bool,
    /// End with 4 if they differ.
    #[arg(long)]
    exit_code: bool,
    /// The form of what is printed; json is one object a line, with keys in base64.
    #[arg(short = 'w', long, value_name = "FORMAT", default_value = "table")]
    write_out: Format,
}

/// Runs the verb.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let selection = arguments.selection.read()?;
    let mut sources = Sources::new(&arguments.sources)?;
    let before = sources.state(&arguments.before)?;
    let after = sources.state(&arguments.after)?;
    let [mut added, mut removed, mut changed] = [0_u64; 3];
    state::differences(&*before, &*after, &selection, &mut |difference| {
        match (&difference.before, &difference.after) {
            (None, _) => added += 1,
            (_, None) => removed += 1,
            _ => changed += 1,
        }
        output::line(&match arguments.write_out {
            Format::Table => shown::line(&difference),
            Format::Json => shown::json(&difference, arguments.values).to_string(),
        });
        Ok(())
    })?;
    output::complain(&format!(
        "from {} to {}: {added} added, {removed} removed, {changed} changed",
        before.name(),
        after.name()
    ));
    let differs = added + removed + changed > 0;
    Ok(if differs && arguments.exit_code { ExitCode::from(DIFFERENT) } else { ExitCode::SUCCESS })
}
