//! Lists of big objects: what an API server reads when it starts, unary and streamed.
//!
//! The reader is h2load with the largest windows, which throws the bytes away. Beside them: the memory
//! that the lists cost and the disk that the objects take.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Args;
use serde::Serialize;

use crate::load::{self, Extent, H2Load, ratio};
use crate::process::{cpu_micros, forget_highest, resident_bytes};
use crate::report::{Setting, median_cell, short};
use crate::servers::{Kind, Server};
use crate::tools::{ToolOptions, Tools};

/// The objects' keys.
const PREFIX: &str = "/registry/pods/";
/// The shortest and the longest object.
const VALUE_BYTES: [usize; 2] = [4 * 1024, 12 * 1024];
/// Clients that list at once.
const CLIENTS: u32 = 5;
/// Both of HTTP/2's windows, as a power of two.
const WINDOW_BITS: u32 = 30;
/// How long a server may put things in order before it is looked at.
const SETTLE: Duration = Duration::from_secs(10);
const MIB: u64 = 1024 * 1024;

/// The extent of a run.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    tools: ToolOptions,
    /// Rounds; medians are taken over them.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Objects.
    #[arg(long, default_value_t = 50_000)]
    objects: usize,
    /// Lists of each measurement.
    #[arg(long, default_value_t = 15)]
    lists: u64,
    /// Do not write a result file.
    #[arg(long)]
    no_save: bool,
}

/// The two ways to list.
const METHODS: [(&str, &str); 2] = [("KV/Range", "unary"), ("KV/RangeStream", "stream")];

/// One server's figures of one round, one way.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Found {
    megabytes_per_second: f64,
    cpu_seconds_per_gigabyte: f64,
    /// Peak above the memory before, and what is left of that after a while.
    peak_mebibytes: f64,
    kept_mebibytes: f64,
}

/// The cost of filling.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Filled {
    disk_mebibytes: u64,
    cpu_micros_per_put: f64,
}

/// A whole run.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    setting: Setting,
    objects: usize,
    value_bytes: u64,
    filled: BTreeMap<&'static str, Filled>,
    rounds: BTreeMap<&'static str, BTreeMap<&'static str, Vec<Found>>>,
}

/// Measures all servers, prints the table and writes the result file.
pub(crate) fn run(options: &Options) -> Result<()> {
    let tools = options.tools.find()?;
    let work = options.tools.work_folder();
    fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
    let bounds = [PREFIX, "/registry/pods0"].map(|key| Bytes::from_static(key.as_bytes()));
    let [from, to] = bounds;
    let body = load::range_body(&work, "pods", from, to)?;
    let value_bytes: usize = (0..options.objects).map(value_bytes).sum();
    let mut report = Report {
        setting: Setting::of(&tools)?,
        objects: options.objects,
        value_bytes: u64::try_from(value_bytes)?,
        filled: BTreeMap::new(),
        rounds: BTreeMap::new(),
    };
    let mut servers = Vec::new();
    for kind in [Kind::Keepd, Kind::KeepdAesGcm, Kind::Etcd] {
        println!("fill {}", kind.name());
        let server = Server::start(&tools, kind, &work)?;
        report.filled.insert(kind.name(), fill(&server, options.objects)?);
        servers.push(server);
    }
    for round in 0..options.rounds {
        servers.rotate_left(usize::from(round > 0));
        for (method, name) in METHODS {
            println!("round {round}, {name}");
            for server in &servers {
                let found = list(&tools, server, method, &body, &report, options.lists)?;
                let of_server = report.rounds.entry(server.kind().name()).or_default();
                of_server.entry(name).or_default().push(found);
            }
        }
    }
    println!("\n{}", report.table());
    if !options.no_save {
        println!("\nwritten: {}", report.setting.save(&report, "-lists")?.display());
    }
    Ok(())
}

fn fill(server: &Server, objects: usize) -> Result<Filled> {
    let before = cpu_micros(server.pid())?;
    let pair = |number| (Bytes::from(format!("{PREFIX}default/web-{number:08}")), pod(number));
    server.client()?.put_all((0..objects).map(pair))?;
    let cpu = cpu_micros(server.pid())? - before;
    thread::sleep(SETTLE);
    let (disk, _) = server.disk_bytes()?;
    let cpu_micros_per_put = ratio(cpu, u64::try_from(objects)?);
    Ok(Filled { disk_mebibytes: disk / MIB, cpu_micros_per_put })
}

/// The length of an object: spread evenly, the same in every run.
fn value_bytes(number: usize) -> usize {
    let [shortest, longest] = VALUE_BYTES;
    shortest + number.wrapping_mul(7919) % (longest - shortest)
}

/// An object that compresses like a pod: names of fields that come again and again, and values of
/// which some are unique.
fn pod(number: usize) -> Bytes {
    let len = value_bytes(number);
    let mut text = String::with_capacity(len + 256);
    let mut noise = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = || {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        noise
    };
    let mut field = 0;
    while text.len() < len {
        let uid = random();
        let _ = write!(
            text,
            r#"{{"name":"container-{field}","image":"registry.example/app/{:04x}:v1.{}","uid":"{uid:016x}","imagePullPolicy":"IfNotPresent","terminationMessagePath":"/dev/termination-log","resources":{{"limits":{{"cpu":"{}m","memory":"{}Mi"}}}},"f:status":{{"f:conditions":{{"k:{{\"type\":\"Ready\"}}":{{".":{{}},"f:lastProbeTime":{{}}}}}}}}}},"#,
            random() % 64,
            random() % 9,
            random() % 2000,
            random() % 4096,
        );
        field += 1;
    }
    text.truncate(len);
    text.into()
}

/// Lists from one server, one way.
fn list(
    tools: &Tools,
    server: &Server,
    method: &'static str,
    body: &Path,
    report: &Report,
    lists: u64,
) -> Result<Found> {
    let load = H2Load {
        method,
        bodies: vec![body.to_owned()],
        connections: CLIENTS,
        streams: 1,
        window_bits: Some(WINDOW_BITS),
        answer_bytes_min: report.value_bytes,
    };
    forget_highest(server.pid())?;
    let (before, _) = resident_bytes(server.pid())?;
    let (sample, _) = load.run(tools, &server.target(), Extent::Requests(lists))?;
    let (_, highest) = resident_bytes(server.pid())?;
    thread::sleep(SETTLE);
    let (after, _) = resident_bytes(server.pid())?;
    let gigabytes = ratio(report.value_bytes, 1_000_000_000);
    Ok(Found {
        megabytes_per_second: sample.rate * gigabytes * 1000.0,
        cpu_seconds_per_gigabyte: sample.cpu_micros / 1e6 / gigabytes,
        peak_mebibytes: ratio(highest.saturating_sub(before), MIB),
        kept_mebibytes: ratio(after.saturating_sub(before), MIB),
    })
}

impl Report {
    /// The table, in Markdown.
    fn table(&self) -> String {
        let kinds = [Kind::Etcd, Kind::Keepd, Kind::KeepdAesGcm];
        let line = |title: &str, cell: &dyn Fn(Kind) -> String| {
            format!("| {title} | {} |", kinds.map(cell).join(" | "))
        };
        let filled = |kind: Kind| self.filled.get(kind.name()).copied().unwrap_or_default();
        let megabytes = self.value_bytes / 1_000_000;
        let mut lines = vec![
            format!("| {} objects, {megabytes} MB | etcd | keepd | keepd, aesgcm |", self.objects),
            "|---|---|---|---|".to_owned(),
            line("disk, MiB", &|kind| filled(kind).disk_mebibytes.to_string()),
            line("fill, CPU us per put", &|kind| short(filled(kind).cpu_micros_per_put)),
        ];
        let rows: [(&str, Value); 4] = [
            ("MB/s", |found| found.megabytes_per_second),
            ("server CPU s/GB", |found| found.cpu_seconds_per_gigabyte),
            ("peak above idle, MiB", |found| found.peak_mebibytes),
            ("10 s later, MiB", |found| found.kept_mebibytes),
        ];
        for (_, name) in METHODS {
            for (title, value) in rows {
                let cell = |kind: Kind| {
                    let ways = self.rounds.get(kind.name());
                    median_cell(ways.and_then(|ways| ways.get(name)), value)
                };
                lines.push(line(&format!("{name}: {title}"), &cell));
            }
        }
        lines.join("\n")
    }
}

/// A row of the table.
type Value = fn(&Found) -> f64;
