//! Three members of each kind side by side: requests, the loss of the leader, a member that joins.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use keepd_env::{Clock, SystemClock};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::cluster::{Cluster, Timing};
use crate::load::{self, Extent, H2Load, Sample, ratio};
use crate::plan::{calibrated_total, put_words};
use crate::report::{Row, Setting, compared, judged, median, short};
use crate::servers::Kind;
use crate::tools::{ToolOptions, Tools};

/// The two that are compared.
const KINDS: [Kind; 2] = [Kind::Keepd, Kind::Etcd];
/// etcd's defaults, and short ones.
const USUAL: Timing = Timing { heartbeat: 100, election: 1000 };
const SHORT: Timing = Timing { heartbeat: 50, election: 500 };
/// h2load processes, each with a key of its own; two for each member.
const PROCESSES: usize = 6;
const CONNECTIONS: u32 = 8;
const STREAMS: u32 = 20;
/// The store that a member joins: its values' length, and the load that goes on meanwhile.
const JOIN_VALUE_BYTES: usize = 4096;
const JOIN_PUTS_PER_SECOND: u32 = 1000;
/// Time that load runs before anybody joins.
const BEFORE_JOIN: Duration = Duration::from_secs(5);

/// Options of the run.
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
    /// Keys that puts are spread over.
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Leaders that are killed.
    #[arg(long, default_value_t = 7)]
    kills: usize,
    /// Bytes of the store that a member joins.
    #[arg(long, default_value_t = 1 << 30)]
    join_bytes: usize,
    /// Only these parts.
    #[arg(long, value_delimiter = ',', default_value = "requests,failover,join")]
    parts: Vec<Part>,
    /// Do not write a result file.
    #[arg(long)]
    no_save: bool,
}

/// A part of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Requests,
    Failover,
    Join,
}

/// Seconds that something took, in every round by the server's name.
#[derive(Debug, Serialize)]
struct Times {
    title: String,
    /// keepd's over etcd's at most.
    target: Option<f64>,
    rounds: Vec<BTreeMap<&'static str, f64>>,
}

/// A whole run.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    setting: Setting,
    rounds: usize,
    seconds: u64,
    rows: Vec<Row>,
    times: Vec<Times>,
    /// The rate of puts while a member joins, over the rate before, by the server's name.
    rate_kept: BTreeMap<&'static str, f64>,
}

/// Measures everything, prints the tables and writes the result file.
pub(crate) fn run(options: &Options) -> Result<()> {
    let tools = options.tools.find()?;
    let work = options.tools.work_folder();
    fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
    let mut report = Report {
        setting: Setting::of(&tools)?,
        rounds: options.rounds,
        seconds: options.seconds,
        rows: Vec::new(),
        times: Vec::new(),
        rate_kept: BTreeMap::new(),
    };
    if options.parts.contains(&Part::Requests) {
        println!("requests");
        report.rows = requests(options, &tools, &work)?;
    }
    if options.parts.contains(&Part::Failover) {
        println!("failover");
        for timing in [USUAL, SHORT] {
            report.times.push(failover(options, &tools, &work, timing)?);
        }
    }
    if options.parts.contains(&Part::Join) {
        println!("join");
        let times = join(options, &tools, &work, &mut report.rate_kept)?;
        report.times.push(times);
    }
    println!("\n{}", report.tables());
    if !options.no_save {
        println!("\nwritten: {}", report.setting.save(&report, "-clusters")?.display());
    }
    Ok(())
}

/// The clusters in the order of a round.
fn order(clusters: &[Cluster], round: usize) -> impl Iterator<Item = &Cluster> {
    (0..clusters.len()).map(move |at| &clusters[(at + round) % clusters.len()])
}

/// Puts, ranges and transactions, both clusters running all the time and one of them under load.
fn requests(options: &Options, tools: &Tools, work: &Path) -> Result<Vec<Row>> {
    let start = |&kind| Cluster::start(tools, kind, work, USUAL);
    let clusters = KINDS.iter().map(start).collect::<Result<Vec<_>>>()?;
    let space = options.keys.to_string();
    let put = [&put_words()[..], &["--key-space-size", &space]].concat();
    let key = load::load_key(0);
    let key = std::str::from_utf8(&key).context("the key is text")?;
    let range = vec!["range", key, "--consistency", "l"];
    for cluster in &clusters {
        let pair = (Bytes::copy_from_slice(key.as_bytes()), Bytes::from(vec![b'v'; 256]));
        cluster.client()?.put_all([pair].into_iter())?;
    }
    let mut rows = Vec::new();
    let loads = [
        ("put", &put, 1, 200, 1.0, 1.0),
        ("put", &put, 1000, 5000, 2.5, 1.0),
        ("linearizable range", &range, 1, 500, 1.0, 1.0),
        ("linearizable range", &range, 1000, 5000, 2.0, 1.0),
    ];
    for (name, words, clients, first, rate, cpu) in loads {
        let title = format!("benchmark: {name}, clients: {clients}");
        let mut row = Row::new(title, Some(rate), Some(cpu));
        let mut totals = BTreeMap::new();
        for cluster in &clusters {
            let (_, found) = load::benchmark(tools, &cluster.target()?, clients, words, first)?;
            totals.insert(cluster.kind(), calibrated_total(first, options.seconds, &found)?);
        }
        for round in 0..options.rounds {
            for cluster in order(&clusters, round) {
                let total = totals.get(&cluster.kind()).copied().context("was calibrated")?;
                let target = cluster.target()?;
                let (sample, _) = load::benchmark(tools, &target, clients, words, total)?;
                row.add(round, cluster.kind(), sample);
            }
        }
        rows.push(row);
    }
    for thin in thin(work)? {
        rows.push(thin_row(options, tools, &clusters, &thin)?);
    }
    Ok(rows)
}

/// The requests of a thin client, whose processes leave the machine to the servers.
struct Thin {
    title: &'static str,
    load: H2Load,
    /// keepd's rate over etcd's at least.
    target: f64,
    /// Whether each request makes a revision.
    writes: bool,
}

/// Requests of thin clients, at all members.
fn thin(work: &Path) -> Result<[Thin; 3]> {
    let everywhere = |method, bodies, answer_bytes_min| H2Load {
        method,
        bodies,
        connections: CONNECTIONS,
        streams: STREAMS,
        window_bits: None,
        answer_bytes_min,
    };
    let key_and_value = u64::try_from(load::LOAD_KEY_BYTES + load::LOAD_VALUE_BYTES)?;
    Ok([
        Thin {
            title: "h2load: put, 48 x 20",
            load: everywhere("KV/Put", load::put_bodies(work, PROCESSES)?, 10),
            target: 2.5,
            writes: true,
        },
        Thin {
            title: "h2load: linearizable range of one key, 48 x 20",
            load: everywhere("KV/Range", load::range_bodies(work, PROCESSES)?, key_and_value),
            target: 2.0,
            writes: false,
        },
        Thin {
            title: "h2load: compare the revision and put, 48 x 20",
            load: everywhere("KV/Txn", load::renewal_bodies(work, PROCESSES)?, 10),
            target: 2.0,
            writes: true,
        },
    ])
}

fn thin_row(options: &Options, tools: &Tools, clusters: &[Cluster], thin: &Thin) -> Result<Row> {
    for cluster in clusters {
        // The keys must be there to be read, and for the comparisons to hold.
        let value = Bytes::from(vec![b'v'; load::LOAD_VALUE_BYTES]);
        let pairs = (0..PROCESSES).map(|number| (load::load_key(number), value.clone()));
        cluster.client()?.put_all(pairs)?;
        thin.load.run(tools, &cluster.target()?, Extent::Seconds(1))?;
    }
    let mut row = Row::new(thin.title, Some(thin.target), Some(1.0));
    for round in 0..options.rounds {
        for cluster in order(clusters, round) {
            let before = cluster.client()?.revision()?;
            let extent = Extent::Seconds(options.seconds);
            let (sample, succeeded) = thin.load.run(tools, &cluster.target()?, extent)?;
            let written = cluster.client()?.revision()? - before;
            let expected = if thin.writes { i64::try_from(succeeded)? } else { 0 };
            ensure!(
                written >= expected,
                "{}: {written} writes of {expected} acknowledged",
                cluster.kind().name()
            );
            row.add(round, cluster.kind(), sample);
        }
    }
    Ok(row)
}

/// From the kill of the leader to the next acknowledged write.
fn failover(options: &Options, tools: &Tools, work: &Path, timing: Timing) -> Result<Times> {
    let start = |&kind| Cluster::start(tools, kind, work, timing);
    let mut clusters = KINDS.iter().map(start).collect::<Result<Vec<_>>>()?;
    let Timing { heartbeat, election } = timing;
    let title = format!("kill -9 of the leader to the next write, {heartbeat}/{election} ms");
    let mut times = Times { title, target: Some(1.0), rounds: Vec::new() };
    for _ in 0..options.kills {
        let mut round = BTreeMap::new();
        for cluster in &mut clusters {
            round.insert(cluster.kind().name(), cluster.fail_over()?.as_secs_f64());
        }
        times.rounds.push(round);
    }
    Ok(times)
}

/// A member joins a large store while writes go on at a steady pace.
fn join(
    options: &Options,
    tools: &Tools,
    work: &Path,
    rate_kept: &mut BTreeMap<&'static str, f64>,
) -> Result<Times> {
    let megabytes = options.join_bytes / 1_000_000;
    let title = format!(
        "a learner joins {megabytes} MB while {JOIN_PUTS_PER_SECOND} puts/s go on, caught up after"
    );
    let mut round = BTreeMap::new();
    for kind in KINDS {
        let mut cluster = Cluster::start(tools, kind, work, USUAL)?;
        let noise = Noise::new();
        let pair =
            |number| (Bytes::from(format!("/registry/join/{number:08}")), noise.value(number));
        cluster.client()?.put_all((0..options.join_bytes / JOIN_VALUE_BYTES).map(pair))?;
        let (is_over, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
        let (client, value) = (cluster.client()?, noise.value(0).slice(..256));
        let took = thread::scope(|scope| {
            let puts = || client.put_at_pace(JOIN_PUTS_PER_SECOND, &value, &is_over, &acknowledged);
            let load = scope.spawn(puts);
            let clock = SystemClock::new();
            thread::sleep(BEFORE_JOIN);
            let before = ratio(acknowledged.load(Ordering::Relaxed), 1) / BEFORE_JOIN.as_secs_f64();
            let (begun, counted) = (clock.monotonic(), acknowledged.load(Ordering::Relaxed));
            let took = cluster.join(tools);
            let lasted = (clock.monotonic() - begun).as_secs_f64();
            let during = ratio(acknowledged.load(Ordering::Relaxed) - counted, 1) / lasted;
            is_over.store(true, Ordering::Relaxed);
            load.join().ok().context("the load failed")??;
            rate_kept.insert(kind.name(), during / before);
            took
        })?;
        round.insert(kind.name(), took.as_secs_f64());
    }
    Ok(Times { title, target: Some(0.5), rounds: vec![round] })
}

/// Bytes that cannot be compressed.
struct Noise(Bytes);

impl Noise {
    fn new() -> Self {
        let block = |number: u32| Sha256::digest(number.to_be_bytes()).to_vec();
        Self(Bytes::from((0..1 << 15).flat_map(block).collect::<Vec<_>>()))
    }

    fn value(&self, number: usize) -> Bytes {
        let begin = number * 509 % (self.0.len() - JOIN_VALUE_BYTES);
        self.0.slice(begin..begin + JOIN_VALUE_BYTES)
    }
}

impl Report {
    /// The tables, in Markdown.
    fn tables(&self) -> String {
        let mut lines = vec![
            "| load | keepd /s | etcd /s | ratio (rounds) | target | keepd p99 ms | etcd p99 ms \
             | ratio (rounds) | keepd CPU us | etcd CPU us | ratio (rounds) |"
                .to_owned(),
            "|---|---|---|---|---|---|---|---|---|---|---|".to_owned(),
        ];
        lines.extend(self.rows.iter().map(line));
        lines.push(String::new());
        lines.push("| seconds | keepd | etcd | ratio | target |".to_owned());
        lines.push("|---|---|---|---|---|".to_owned());
        lines.extend(self.times.iter().map(Times::line));
        for (name, kept) in &self.rate_kept {
            lines.push(format!("\nPuts of {name} while a member joins: {:.0} %", kept * 100.0));
        }
        lines.join("\n")
    }
}

fn line(row: &Row) -> String {
    let rate = |sample: &Sample| sample.rate;
    let p99 = |sample: &Sample| sample.p99_seconds.unwrap_or_default() * 1000.0;
    let cpu = |sample: &Sample| sample.cpu_micros;
    let middle = |kind, value: fn(&Sample) -> f64| {
        median(&row.values(kind, value))
            .filter(|&found| found > 0.0)
            .map_or_else(String::new, short)
    };
    let rates = row.ratios(Kind::Keepd, rate);
    let cells = [
        row.title.clone(),
        middle(Kind::Keepd, rate),
        middle(Kind::Etcd, rate),
        compared(&rates),
        judged(row.target.rate, &rates, ">=", |a, b| a >= b),
        middle(Kind::Keepd, p99),
        middle(Kind::Etcd, p99),
        compared(&row.ratios(Kind::Keepd, p99)),
        middle(Kind::Keepd, cpu),
        middle(Kind::Etcd, cpu),
        compared(&row.ratios(Kind::Keepd, cpu)),
    ];
    format!("| {} |", cells.join(" | "))
}

impl Times {
    fn line(&self) -> String {
        let of = |kind: Kind| {
            let found = self.rounds.iter().filter_map(|round| round.get(kind.name()).copied());
            found.collect::<Vec<_>>()
        };
        let (keepd, etcd) = (of(Kind::Keepd), of(Kind::Etcd));
        let middles = median(&keepd).zip(median(&etcd));
        let ratio: Vec<_> = middles.map(|(keepd, etcd)| keepd / etcd).into_iter().collect();
        let cells = [
            self.title.clone(),
            compared(&keepd),
            compared(&etcd),
            ratio.first().copied().map_or_else(String::new, short),
            judged(self.target, &ratio, "<=", |a, b| a <= b),
        ];
        format!("| {} |", cells.join(" | "))
    }
}
