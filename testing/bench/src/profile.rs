//! Where keepd's CPU time goes: by thread, and by function within each thread (perf).

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;

use crate::load::{self, Extent, H2Load};
use crate::process::cpu_micros_by_thread;
use crate::servers::{Kind, Server};
use crate::tools::ToolOptions;

/// Samples per second: not a divisor of what timers do.
const SAMPLES_PER_SECOND: u32 = 997;
/// Functions shown, over all threads.
const FUNCTIONS: usize = 30;
/// The load before the samples, and after them.
const MARGIN_SECONDS: u64 = 1;

/// Keys of the list.
const LIST_KEYS: usize = 10_000;

/// What to profile.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    tools: ToolOptions,
    /// Length of one profile in seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

/// Prints a profile of puts, of ranges and of lists.
pub(crate) fn run(options: &Options) -> Result<()> {
    let tools = options.tools.find()?;
    let work = options.tools.work_folder();
    fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
    let server = Server::start(&tools, Kind::Keepd, &work)?;
    let load = |method, bodies: Vec<_>, connections| H2Load {
        method,
        bodies,
        connections,
        streams: 20,
        window_bits: None,
        answer_bytes_min: 1,
    };
    let put = load("KV/Put", load::put_bodies(&work, 5)?, 10);
    let range = load::range_body(&work, "range", load::load_key(0), Bytes::new())?;
    let range = load("KV/Range", vec![range], 50);
    let (list_prefix, list_end) = load::list_bounds();
    let list = load::range_body(&work, "list", list_prefix, list_end)?;
    let list = H2Load { streams: 1, ..load("KV/Range", vec![list], 1) };
    load::fill_list(&server, LIST_KEYS)?;
    for (name, load) in [("put", put), ("range", range), ("list", list)] {
        let data = work.join(format!("perf-{name}.data"));
        let before = cpu_micros_by_thread(server.pid())?;
        let length = Extent::Seconds(options.seconds + 2 * MARGIN_SECONDS);
        let (sample, requests) = thread::scope(|scope| {
            let loading = scope.spawn(|| load.run(&tools, &server.target(), length));
            thread::sleep(Duration::from_secs(MARGIN_SECONDS));
            record(&server, &data, options.seconds)?;
            loading.join().ok().context("the load failed")?
        })?;
        println!("\n# {name}: {:.0} requests/s, {:.1} us CPU each", sample.rate, sample.cpu_micros);
        println!("\nCPU time per request by thread, in us:");
        for (thread, cpu) in cpu_micros_by_thread(server.pid())? {
            let spent = cpu - before.get(&thread).copied().unwrap_or_default().min(cpu);
            if spent > 0 {
                println!("  {:>6.2}  {thread}", load::ratio(spent, requests));
            }
        }
        print_functions(&data)?;
    }
    Ok(())
}

fn record(server: &Server, data: &Path, seconds: u64) -> Result<()> {
    let status = Command::new("perf")
        .args(["record", "--quiet", "-F", &SAMPLES_PER_SECOND.to_string()])
        .args(["-p", &server.pid().to_string(), "-o"])
        .arg(data)
        .args(["--", "sleep", &seconds.to_string()])
        .stdin(Stdio::null())
        .status()
        .context("run perf (it must be installed and allowed)")?;
    ensure!(status.success(), "perf record: {status}");
    Ok(())
}

/// Prints where the samples fell: by kind of code and thread, then the costliest functions.
fn print_functions(data: &Path) -> Result<()> {
    let output = Command::new("perf")
        .args(["report", "--stdio", "--sort", "comm,symbol", "-i"])
        .arg(data)
        .stdin(Stdio::null())
        .output()
        .context("run perf report")?;
    ensure!(output.status.success(), "perf report: {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let functions: Vec<Function<'_>> = text.lines().filter_map(function).collect();
    let mut groups: BTreeMap<(&str, &str), f64> = BTreeMap::new();
    for function in &functions {
        *groups.entry((function.thread, group(function.symbol))).or_insert(0.0) += function.percent;
    }
    println!("\n| thread | kind of code | % of samples |\n|---|---|---|");
    for ((thread, group), percent) in groups.iter().filter(|(_, percent)| **percent >= 0.5) {
        println!("| {thread} | {group} | {percent:.1} |");
    }
    println!("\nThe costliest functions:");
    for Function { percent, thread, symbol } in functions.iter().take(FUNCTIONS) {
        println!("  {percent:>5.2} %  {thread:<16} {symbol}");
    }
    Ok(())
}

/// One line of perf's report.
#[derive(Debug, PartialEq)]
struct Function<'a> {
    percent: f64,
    thread: &'a str,
    /// With perf's mark in front: `[k]` is the kernel.
    symbol: &'a str,
}

/// `  4.77%  tokio-rt-worker  [k] name  -  -`
fn function(line: &str) -> Option<Function<'_>> {
    let (percent, rest) = line.trim().split_once('%')?;
    let (before, _) = rest.split_once('[')?;
    let symbol = rest[before.len()..].trim_end_matches([' ', '-']);
    Some(Function { percent: percent.parse().ok()?, thread: before.trim(), symbol })
}

/// What kind of code a function belongs to, by its name.
fn group(symbol: &str) -> &'static str {
    let is_any = |words: &[&str]| words.iter().any(|word| symbol.contains(word));
    match () {
        () if symbol.starts_with("[k]") => "kernel",
        () if is_any(&["salsa20", "poly1305", "core_arch", "cipher::", "zeroize", "aws_lc"]) => {
            "cryptography"
        }
        () if is_any(&["mi_", "__mem", "shared_v_drop", "alloc::raw_vec"]) => "memory",
        () if is_any(&["h2::", "hyper", "http::", "slab::", "tonic", "prost"]) => "HTTP/2 and gRPC",
        () if is_any(&["tokio"]) => "runtime",
        () if is_any(&["keepd_", "raft::", "imbl", "arc_swap", "crc32c"]) => "keepd",
        () => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_perf_is_read() {
        let line = "     4.77%  tokio-rt-worker  [k] _raw_spin_unlock_irqrestore     -      -   ";
        let symbol = "[k] _raw_spin_unlock_irqrestore";
        let expected = Function { percent: 4.77, thread: "tokio-rt-worker", symbol };
        assert_eq!(function(line), Some(expected));
        assert_eq!(function("# Samples: 12K of event 'cpu-clock'"), None);
    }

    #[test]
    fn functions_are_told_apart_by_their_names() {
        assert_eq!(group("[k] do_syscall_64"), "kernel");
        assert_eq!(group("[.] <salsa20::SalsaCore<R> as X>::process_with_backend"), "cryptography");
        assert_eq!(group("[.] h2::hpack::decoder::Decoder::decode"), "HTTP/2 and gRPC");
        assert_eq!(group("[.] keepd_node::raft_thread::RaftThread::run"), "keepd");
    }
}
