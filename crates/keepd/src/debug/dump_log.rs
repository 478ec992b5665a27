//! `keepd debug dump-log`: the write-ahead log of a member, record by record in the order of its files.
//!
//! Everything that lies there is printed, entries that were replaced or released and those that a start
//! wrote again too. The log is opened as the server opens it, with the encryption configuration; values
//! stay hidden unless they are asked for. BOUND: memory for a segment and its records.

use std::io::{BufWriter, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use keepd_crypto::{EncryptionConfig, FileKeys, Keyring, ValueSealer};
use keepd_env::Env;
use keepd_member::Layout;
use keepd_wal::{Dump, DumpedFrame};
use serde_json::{Value, json};

use super::command::Values;
use super::record;

/// Exit code if something could not be read.
const DAMAGED: u8 = 1;

/// The arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The member's data directory.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The encryption configuration of the server.
    #[arg(long, value_name = "FILE")]
    encryption_provider_config: Option<PathBuf>,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
    /// Print the values that are written, opened; without it only their lengths and keys.
    #[arg(long)]
    values: bool,
    /// Leave out entries before this index.
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    from: u64,
    /// Leave out entries after this index.
    #[arg(long, value_name = "INDEX", default_value_t = u64::MAX)]
    to: u64,
}

/// Counts of a run.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    segments: u64,
    entries: u64,
    torn: u64,
    damaged: u64,
}

/// Prints the log; fails if some of it cannot be read.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let env = Env::real();
    let member_dir = Layout::new(&arguments.data_dir).member;
    let wal_dir = Layout::wal(&member_dir);
    anyhow::ensure!(
        env.disk.exists(&wal_dir)? && env.disk.exists(&Layout::store(&member_dir))?,
        "{} holds no member of keepd: give the --data-dir that the server has",
        arguments.data_dir.display()
    );
    let config = encryption(&env, arguments)?;
    let inspected = Keyring::inspect(&env, &member_dir, config.as_ref())
        .context("the log cannot be opened; give --encryption-provider-config as to the server")?;
    let keys = inspected.map_or_else(FileKeys::plain, |inspected| inspected.files);
    let sealer = config.as_ref().map_or_else(ValueSealer::none, ValueSealer::new);
    let values = if arguments.values { Values::Shown(&sealer) } else { Values::Hidden };
    let mut dump = Dump::new(env, &wal_dir, keys)?;
    let out = BufWriter::new(std::io::stdout().lock());
    let mut out = Printer { is_json: arguments.json, out };
    let mut totals = Totals::default();
    loop {
        let found = dump.next();
        if let Some(torn) = dump.take_torn() {
            totals.torn += 1;
            out.print(&record::torn(&torn))?;
        }
        match found {
            None => break,
            Some(Ok(frame)) => {
                let is_head = matches!(frame.record, keepd_wal::Record::Head(_));
                totals.segments += u64::from(is_head);
                print_frame(&frame, arguments, values, &mut out, &mut totals)?;
            }
            Some(Err(error)) => {
                totals.damaged += 1;
                out.print(&record::damage(&error))?;
            }
        }
    }
    out.print(&json!({
        "type": "end",
        "segments": totals.segments,
        "entries": totals.entries,
        "torn": totals.torn,
        "damaged": totals.damaged,
    }))?;
    out.finish()?;
    Ok(if totals.damaged == 0 { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) })
}

fn print_frame(
    frame: &DumpedFrame,
    arguments: &Arguments,
    values: Values<'_>,
    out: &mut Printer<impl Write>,
    totals: &mut Totals,
) -> anyhow::Result<()> {
    let wanted = arguments.from..=arguments.to;
    for line in record::of_frame(frame, values, |index| wanted.contains(&index)) {
        totals.entries += u64::from(line["type"] == "entry");
        out.print(&line)?;
    }
    Ok(())
}

/// The configuration, with the keys of key services; none was given if there is none.
fn encryption(env: &Env, arguments: &Arguments) -> anyhow::Result<Option<EncryptionConfig>> {
    let path = arguments.encryption_provider_config.as_deref();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(crate::encryption_config_at_rest(env, path, &arguments.data_dir))
}

/// Prints records, for people or as JSON.
struct Printer<W> {
    is_json: bool,
    out: W,
}

impl<W: Write> Printer<W> {
    fn print(&mut self, line: &Value) -> anyhow::Result<()> {
        let written = if self.is_json {
            writeln!(self.out, "{line}")
        } else {
            writeln!(self.out, "{}", record::for_people(line))
        };
        Ok(end_if_gone(written)?)
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        Ok(end_if_gone(self.out.flush())?)
    }
}

/// Whoever reads the output may have seen enough.
fn end_if_gone(written: std::io::Result<()>) -> std::io::Result<()> {
    if written.as_ref().is_err_and(|error| error.kind() == ErrorKind::BrokenPipe) {
        keepd_cli::output::end_by_broken_pipe();
    }
    written
}
