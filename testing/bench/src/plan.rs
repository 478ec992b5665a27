//! The order of a run: fill both servers, measure in interleaved rounds, restart, report.
//!
//! Only one server is under load at a time; the others idle. Each round measures every server
//! before the next round begins, and the order changes with the round, so that what the machine
//! does meanwhile meets all of them alike.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use keepd_env::{Clock, SystemClock};

use crate::load::{self, Extent, H2Load, LIST_VALUE_BYTES, LOAD_KEY_BYTES, LOAD_VALUE_BYTES};
use crate::parse::Benchmark;
use crate::process::resident_bytes;
use crate::report::{Report, Row, Setting, Sizes, median};
use crate::servers::{Kind, Server};
use crate::tools::{ToolOptions, Tools};

/// h2load processes of the put load, each with a key of its own.
const PUT_PROCESSES: usize = 5;
/// Connections over all processes, and requests under way on each.
const CONNECTIONS: u32 = 50;
const STREAMS: u32 = 20;
/// How long a server may put things in order before its memory and disk are looked at.
const SETTLE: Duration = Duration::from_secs(2);
/// Lists of one measurement, however slow they are.
const LISTS_MIN: u64 = 3;
/// Appends of the disk's own measurement.
const SYNCS: usize = 200;

/// What to run.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    tools: ToolOptions,
    /// Rounds; medians are taken over them.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Length of one measurement in seconds.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Puts before the rounds.
    #[arg(long, default_value_t = 500_000)]
    fill: u64,
    /// Keys that they are spread over.
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Keys of the list.
    #[arg(long, default_value_t = 10_000)]
    list: usize,
    /// Do not write a result file.
    #[arg(long)]
    no_save: bool,
}

/// Measures everything, prints the tables and writes the result file.
pub(crate) fn run(options: &Options) -> Result<()> {
    let clock = SystemClock::new();
    let tools = options.tools.find()?;
    let work = options.tools.work_folder();
    fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
    let mut report = begin(options, &tools, &work)?;
    let mut run = Run {
        bodies: Bodies::write(&work, options.list)?,
        keepd: Server::start(&tools, Kind::Keepd, &work)?,
        aesgcm: Server::start(&tools, Kind::KeepdAesGcm, &work)?,
        etcd: Server::start(&tools, Kind::Etcd, &work)?,
        echo: Server::start(&tools, Kind::Echo, &work)?,
        options,
        tools,
    };
    say(&clock, "fill");
    report.rows.push(run.fill(&mut report.sizes)?);
    say(&clock, "h2load");
    report.rows.extend(run.h2load_rows()?);
    say(&clock, "etcd's benchmark");
    report.rows.extend(run.benchmark_rows()?);
    say(&clock, "lists");
    report.rows.extend(run.hot_lists()?);
    say(&clock, "restarts");
    report.rows.extend(run.cold_lists(&mut report.sizes)?);
    say(&clock, "done");
    println!("\n{}", report.tables());
    if !options.no_save {
        println!("\nwritten: {}", report.setting.save(&report, "")?.display());
    }
    Ok(())
}

fn say(clock: &SystemClock, step: &str) {
    println!("{:>4} s  {step}", clock.monotonic().as_secs());
}

fn begin(options: &Options, tools: &Tools, work: &Path) -> Result<Report> {
    Ok(Report {
        setting: Setting::of(tools)?,
        fdatasync_micros: fdatasync_micros(work)?,
        rounds: options.rounds,
        seconds: options.seconds,
        rows: Vec::new(),
        sizes: BTreeMap::new(),
    })
}

/// The requests of the h2load rows.
struct Bodies {
    puts: Vec<PathBuf>,
    range: PathBuf,
    list: PathBuf,
    list_bytes: u64,
}

impl Bodies {
    fn write(work: &Path, list: usize) -> Result<Self> {
        let (prefix, end) = load::list_bounds();
        Ok(Self {
            puts: load::put_bodies(work, PUT_PROCESSES)?,
            range: load::range_body(work, "range", load::load_key(0), Bytes::new())?,
            list: load::range_body(work, "list", prefix, end)?,
            list_bytes: u64::try_from(list * LIST_VALUE_BYTES).context("a list of this length")?,
        })
    }
}

/// A run under way.
struct Run<'a> {
    options: &'a Options,
    tools: Tools,
    bodies: Bodies,
    keepd: Server,
    aesgcm: Server,
    etcd: Server,
    echo: Server,
}

impl Run<'_> {
    /// The two that are compared, in the order of a round.
    fn order(&self, round: usize) -> [&Server; 2] {
        if round.is_multiple_of(2) { [&self.keepd, &self.etcd] } else { [&self.etcd, &self.keepd] }
    }

    /// All of them, in the order of a round.
    fn everyone(&self, round: usize) -> impl Iterator<Item = &Server> {
        self.order(round).into_iter().chain([&self.aesgcm, &self.echo])
    }

    /// Fills both servers by etcd's benchmark and looks at what that left.
    fn fill(&self, sizes: &mut BTreeMap<&'static str, Sizes>) -> Result<Row> {
        let Options { fill, keys, .. } = *self.options;
        let title = format!("benchmark: fill, {fill} puts over {keys} keys, 1000 clients");
        let mut row = Row::new(title, None, None);
        let space = keys.to_string();
        let words = [&put_words()[..], &["--sequential-keys", "--key-space-size", &space]].concat();
        for server in [&self.keepd, &self.etcd] {
            let (sample, _) = load::benchmark(&self.tools, &server.target(), 1000, &words, fill)?;
            row.add(0, server.kind(), sample);
            thread::sleep(SETTLE);
            let mut client = server.client()?;
            let (resident, peak) = resident_bytes(server.pid())?;
            let (disk, length) = server.disk_bytes()?;
            let found = Sizes {
                keys: client.count()?,
                revision: client.revision()?,
                filled_resident_bytes: resident,
                filled_resident_bytes_peak: peak,
                filled_disk_bytes: disk,
                filled_disk_bytes_by_length: length,
                ..Sizes::default()
            };
            let expected = i64::try_from(fill).context("a fill of this size")?;
            ensure!(found.revision == expected + 1, "{}: {found:?}", server.kind().name());
            sizes.insert(server.kind().name(), found);
        }
        // As many keys, less history.
        load::benchmark(&self.tools, &self.aesgcm.target(), 1000, &words, keys.min(fill))?;
        Ok(row)
    }

    /// Puts of few keys and ranges of one, with the floor.
    fn h2load_rows(&self) -> Result<Vec<Row>> {
        let put = H2Load {
            method: "KV/Put",
            bodies: self.bodies.puts.clone(),
            connections: CONNECTIONS / u32::try_from(PUT_PROCESSES).context("few processes")?,
            streams: STREAMS,
            window_bits: None,
            answer_bytes_min: 10,
        };
        let range = H2Load {
            method: "KV/Range",
            bodies: vec![self.bodies.range.clone()],
            connections: CONNECTIONS,
            streams: STREAMS,
            window_bits: None,
            answer_bytes_min: u64::try_from(LOAD_KEY_BYTES + LOAD_VALUE_BYTES).context("sizes")?,
        };
        let mut put_row = Row::new("h2load: put, 50 x 20", Some(2.0), Some(0.4));
        let mut range_row = Row::new("h2load: range of one key, 50 x 20", Some(1.5), Some(0.5));
        for server in self.everyone(0) {
            // What is to be read, and warm caches.
            put.run(&self.tools, &server.target(), Extent::Seconds(1))?;
            range.run(&self.tools, &server.target(), Extent::Seconds(1))?;
        }
        let extent = Extent::Seconds(self.options.seconds);
        for round in 0..self.options.rounds {
            for server in self.everyone(round) {
                put_row.add(round, server.kind(), self.puts(&put, server, extent)?);
            }
            for server in self.everyone(round) {
                let (sample, _) = range.run(&self.tools, &server.target(), extent)?;
                range_row.add(round, server.kind(), sample);
            }
        }
        Ok(vec![put_row, range_row])
    }

    /// h2load sees no gRPC status: whether all was written, the revision tells.
    fn puts(&self, put: &H2Load, server: &Server, extent: Extent) -> Result<load::Sample> {
        let mut client = server.client()?;
        let before = client.revision()?;
        let (sample, succeeded) = put.run(&self.tools, &server.target(), extent)?;
        let written = client.revision()? - before;
        let succeeded = i64::try_from(succeeded).context("a count of requests")?;
        ensure!(
            server.kind() == Kind::Echo || written >= succeeded,
            "{}: {written} writes of {succeeded} acknowledged",
            server.kind().name()
        );
        Ok(sample)
    }

    /// etcd's own tool: puts and ranges, few and many clients.
    fn benchmark_rows(&self) -> Result<Vec<Row>> {
        let space = self.options.keys.to_string();
        let put = [&put_words()[..], &["--key-space-size", &space]].concat();
        let key = load::load_key(0);
        let key = std::str::from_utf8(&key).context("the key is text")?;
        let range = |consistency: &'static str| vec!["range", key, "--consistency", consistency];
        let kinds =
            [("put", put), ("linearizable range", range("l")), ("serializable range", range("s"))];
        let mut loads = Vec::new();
        for (name, words) in &kinds {
            for (clients, first) in [(1, 200), (1000, 5000)] {
                let title = format!("benchmark: {name}, clients: {clients}");
                let row = Row::new(title, Some(1.0), Some(1.0));
                let mut totals = BTreeMap::new();
                for server in [&self.keepd, &self.etcd] {
                    let (_, found) =
                        load::benchmark(&self.tools, &server.target(), clients, words, first)?;
                    let total = calibrated_total(first, self.options.seconds, &found)?;
                    totals.insert(server.kind(), total);
                }
                loads.push((row, clients, words, totals));
            }
        }
        for round in 0..self.options.rounds {
            for (row, clients, words, totals) in &mut loads {
                for server in self.order(round) {
                    let total = totals.get(&server.kind()).copied().context("was calibrated")?;
                    let (sample, _) =
                        load::benchmark(&self.tools, &server.target(), *clients, words, total)?;
                    row.add(round, server.kind(), sample);
                }
            }
        }
        Ok(loads.into_iter().map(|(row, ..)| row).collect())
    }

    fn list(&self, method: &'static str) -> H2Load {
        H2Load {
            method,
            bodies: vec![self.bodies.list.clone()],
            connections: 1,
            streams: 1,
            window_bits: None,
            answer_bytes_min: self.bodies.list_bytes,
        }
    }

    /// Lists one after the other, by both methods.
    fn hot_lists(&self) -> Result<Vec<Row>> {
        let mut requests = BTreeMap::new();
        for server in [&self.keepd, &self.etcd, &self.aesgcm] {
            load::fill_list(server, self.options.list)?;
            self.list(METHODS[0].0).run_once(&self.tools, server)?;
            let once = self.list(METHODS[0].0).run_once(&self.tools, server)?;
            let took = millis(once.p50_seconds.context("a list takes some time")?)?;
            let count = (self.options.seconds * 500 / took).max(LISTS_MIN);
            requests.insert(server.kind(), Extent::Requests(count));
        }
        let mut rows = Vec::new();
        for (method, name) in METHODS {
            let list = self.list(method);
            let title = format!("list of {} x 1 KB, {name}, hot", self.options.list);
            let mut row = Row::new(title, Some(1.0), None);
            for round in 0..self.options.rounds {
                for server in self.order(round).into_iter().chain([&self.aesgcm]) {
                    let extent = requests.get(&server.kind()).copied().context("was calibrated")?;
                    let (sample, _) = list.run(&self.tools, &server.target(), extent)?;
                    row.add(round, server.kind(), sample);
                }
            }
            rows.push(row);
        }
        Ok(rows)
    }

    /// The first list after a start with nothing in the page cache.
    fn cold_lists(&mut self, sizes: &mut BTreeMap<&'static str, Sizes>) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for (method, name) in METHODS {
            let list = self.list(method);
            let title = format!("list of {} x 1 KB, {name}, cold", self.options.list);
            let mut row = Row::new(title, Some(1.0), None);
            for round in 0..self.options.rounds.min(3) {
                for server in [&mut self.keepd, &mut self.etcd] {
                    server.restart_cold()?;
                    let sizes = sizes.entry(server.kind().name()).or_default();
                    sizes.ready_seconds.push(server.ready_after.as_secs_f64());
                    (sizes.restarted_resident_bytes, _) = resident_bytes(server.pid())?;
                    row.add(round, server.kind(), list.run_once(&self.tools, server)?);
                }
            }
            rows.push(row);
        }
        Ok(rows)
    }
}

const METHODS: [(&str, &str); 2] = [("KV/Range", "Range"), ("KV/RangeStream", "RangeStream")];

/// Requests that take as long as a measurement is to last, by what some first ones took.
pub(crate) fn calibrated_total(first: u64, seconds: u64, found: &Benchmark) -> Result<u64> {
    Ok((first * seconds * 1000 / millis(found.seconds)?).max(first))
}

/// At least one.
fn millis(seconds: f64) -> Result<u64> {
    let millis = Duration::from_secs_f64(seconds).as_millis().max(1);
    u64::try_from(millis).context("a short time")
}

/// The words for etcd's benchmark that put keys and values of the load's sizes.
pub(crate) const fn put_words() -> [&'static str; 3] {
    const { assert!(LOAD_KEY_BYTES == 72 && LOAD_VALUE_BYTES == 256, "as below") };
    ["put", "--key-size=72", "--val-size=256"]
}

/// The median of appends with fdatasync, in microseconds.
fn fdatasync_micros(work: &Path) -> Result<f64> {
    let path = work.join("fdatasync");
    let mut file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let mut times = Vec::new();
    for _ in 0..SYNCS {
        let clock = SystemClock::new();
        file.write_all(&[0x5a; 4096]).context("append")?;
        file.sync_data().context("fdatasync")?;
        times.push(clock.monotonic().as_secs_f64() * 1e6);
    }
    fs::remove_file(&path).context("remove the file of the disk's measurement")?;
    median(&times).context("no appends")
}
