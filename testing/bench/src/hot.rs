//! One hot key: millions of versions of it, and how each server gets rid of them.
//!
//! Both servers are filled by etcd's benchmark, stopped, started, compacted and defragmented, one
//! after the other; the load's first and last tenth tell whether a put gets dearer with the history.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use keepd_env::{Clock, SystemClock};
use serde::Serialize;

use crate::load;
use crate::process::resident_bytes;
use crate::report::{Setting, short};
use crate::servers::{Kind, Server};
use crate::tools::ToolOptions;

/// Clients of the load.
const CLIENTS: u32 = 1000;
/// The first and the last part of the load are measured by themselves.
const PART: u64 = 10;
/// How often somebody who waits for space looks.
const POLL: Duration = Duration::from_millis(20);
/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(900);

/// What to run.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    tools: ToolOptions,
    /// Versions of the key.
    #[arg(long, default_value_t = 2_000_000)]
    versions: u64,
    /// Do not write a result file.
    #[arg(long)]
    no_save: bool,
}

/// What one server did.
#[derive(Debug, Default, Serialize)]
struct Found {
    /// Puts per second while the history was short, and at its full length.
    first_rate: f64,
    last_rate: f64,
    last_p99_seconds: f64,
    filled_resident_bytes: u64,
    filled_db_bytes: i64,
    /// From SIGTERM to the end, and from the start to the first answer.
    stop_seconds: f64,
    ready_seconds: f64,
    /// From the compaction until three quarters are not in use any more.
    compacted_seconds: f64,
    /// From there, with Defragment, until the files are so much smaller.
    given_back_seconds: f64,
    left_db_bytes: i64,
    left_resident_bytes: u64,
}

/// A whole run.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    setting: Setting,
    versions: u64,
    servers: BTreeMap<&'static str, Found>,
}

/// Measures both servers, prints the table and writes the result file.
pub(crate) fn run(options: &Options) -> Result<()> {
    let tools = options.tools.find()?;
    let work = options.tools.work_folder();
    fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
    let mut report = Report {
        setting: Setting::of(&tools)?,
        versions: options.versions,
        servers: BTreeMap::new(),
    };
    for kind in [Kind::Keepd, Kind::Etcd] {
        println!("{}", kind.name());
        let mut server = Server::start(&tools, kind, &work)?;
        let mut found = Found::default();
        let part = options.versions / PART;
        let puts = |total: u64| {
            let words = ["put", "--key-size=72", "--val-size=256", "--key-space-size=1"];
            load::benchmark(&tools, &server.target(), CLIENTS, &words, total)
                .map(|(sample, _)| sample)
        };
        found.first_rate = puts(part)?.rate;
        puts(options.versions - 2 * part)?;
        let last = puts(part)?;
        found.last_rate = last.rate;
        found.last_p99_seconds = last.p99_seconds.unwrap_or_default();
        (found.filled_resident_bytes, _) = resident_bytes(server.pid())?;
        found.stop_seconds = server.restart_cold()?.as_secs_f64();
        found.ready_seconds = server.ready_after.as_secs_f64();
        give_back(&server, &mut found)?;
        report.servers.insert(kind.name(), found);
    }
    println!("\n{}", report.table());
    if !options.no_save {
        println!("\nwritten: {}", report.setting.save(&report, "-hot-key")?.display());
    }
    Ok(())
}

/// Compacts everything and waits until the space is back.
fn give_back(server: &Server, found: &mut Found) -> Result<()> {
    let mut client = server.client()?;
    found.filled_db_bytes = client.sizes()?.0;
    let small = found.filled_db_bytes / 4;
    let clock = SystemClock::new();
    let wait = |size: fn((i64, i64)) -> i64, client: &mut crate::client::Client| {
        let begin = clock.monotonic();
        while size(client.sizes()?) > small {
            ensure!(clock.monotonic() - begin < PATIENCE, "the space does not come back");
            thread::sleep(POLL);
        }
        anyhow::Ok((clock.monotonic() - begin).as_secs_f64())
    };
    let revision = client.revision()?;
    client.compact(revision)?;
    found.compacted_seconds = wait(|(_, in_use)| in_use, &mut client)?;
    let begin = clock.monotonic();
    client.defragment()?;
    wait(|(allocated, _)| allocated, &mut client)?;
    found.given_back_seconds = (clock.monotonic() - begin).as_secs_f64();
    found.left_db_bytes = client.sizes()?.0;
    (found.left_resident_bytes, _) = resident_bytes(server.pid())?;
    Ok(())
}

impl Report {
    /// The table, in Markdown.
    fn table(&self) -> String {
        let mebibytes = |bytes: u64| format!("{} MiB", bytes / (1024 * 1024));
        let database = |bytes: i64| mebibytes(bytes.unsigned_abs());
        let line = |title: &str, cell: &dyn Fn(&Found) -> String| {
            let of = |kind: Kind| self.servers.get(kind.name()).map(cell).unwrap_or_default();
            format!("| {title} | {} | {} |", of(Kind::Keepd), of(Kind::Etcd))
        };
        let head = format!("| one key, {} versions | keepd | etcd |", self.versions);
        [
            head,
            "|---|---|---|".to_owned(),
            line("puts /s, first tenth", &|f| short(f.first_rate)),
            line("puts /s, last tenth", &|f| short(f.last_rate)),
            line("p99 of the last tenth, ms", &|f| short(f.last_p99_seconds * 1000.0)),
            line("resident with all versions", &|f| mebibytes(f.filled_resident_bytes)),
            line("dbSize with all versions", &|f| database(f.filled_db_bytes)),
            line("seconds to stop", &|f| short(f.stop_seconds)),
            line("seconds from start to ready", &|f| short(f.ready_seconds)),
            line("seconds from compaction to dbSizeInUse", &|f| short(f.compacted_seconds)),
            line("seconds of Defragment to dbSize", &|f| short(f.given_back_seconds)),
            line("dbSize then", &|f| database(f.left_db_bytes)),
            line("resident then", &|f| mebibytes(f.left_resident_bytes)),
        ]
        .join("\n")
    }
}
