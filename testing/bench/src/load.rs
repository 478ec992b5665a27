//! Load: a number of foreign processes against one server, and what it cost the server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use keepd_api::etcdserverpb as pb;
use prost::Message;
use serde::Serialize;

use crate::parse;
use crate::process::cpu_micros;
use crate::servers::{Server, Target};
use crate::tools::Tools;

/// Sizes of the keys and values of the load, as Kubernetes' small objects have them.
pub(crate) const LOAD_KEY_BYTES: usize = 72;
pub(crate) const LOAD_VALUE_BYTES: usize = 256;
/// The list: its keys' common beginning, and the length of a value.
const LIST_PREFIX: &str = "/registry/configmaps/bench/";
pub(crate) const LIST_VALUE_BYTES: usize = 1024;

/// One measurement of one server.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    /// Requests per second.
    pub(crate) rate: f64,
    /// The server's CPU time per request, in microseconds.
    pub(crate) cpu_micros: f64,
    /// Median and 99th percentile of the time to the answer, in seconds, where the tool tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p50_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p99_seconds: Option<f64>,
}

/// Some h2load processes, one per body: h2load sends the same body with every request.
#[derive(Clone, Debug)]
pub(crate) struct H2Load {
    /// `KV/Put` and so on.
    pub(crate) method: &'static str,
    /// Files with a framed request each.
    pub(crate) bodies: Vec<PathBuf>,
    /// Connections of each process, and requests under way on each connection.
    pub(crate) connections: u32,
    pub(crate) streams: u32,
    /// Both of HTTP/2's windows as a power of two; else h2load's own.
    pub(crate) window_bits: Option<u32>,
    /// An answer with fewer bytes is not the one that was asked for.
    pub(crate) answer_bytes_min: u64,
}

/// How long a load lasts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Extent {
    Seconds(u64),
    /// Of each process; for requests of which few fit into a second.
    Requests(u64),
}

impl H2Load {
    fn command(&self, tools: &Tools, address: &str, body: &Path, extent: Extent) -> Command {
        let (flag, number) = match extent {
            Extent::Seconds(seconds) => ("-D", seconds),
            Extent::Requests(requests) => ("-n", requests),
        };
        let mut command = Command::new(&tools.h2load);
        command
            .args(["-t", "1", "-c", &self.connections.to_string()])
            .args(["-m", &self.streams.to_string()])
            .args([flag, &number.to_string()])
            .args(
                self.window_bits.iter().flat_map(|bits| [format!("-w{bits}"), format!("-W{bits}")]),
            )
            .arg("-d")
            .arg(body)
            .args(["-H", "content-type: application/grpc", "-H", "te: trailers"])
            .arg(format!("http://{address}/etcdserverpb.{}", self.method));
        command
    }

    /// Loads a server; also returns how many requests succeeded.
    pub(crate) fn run(
        &self,
        tools: &Tools,
        target: &Target,
        extent: Extent,
    ) -> Result<(Sample, u64)> {
        let addresses = target.addresses.iter().cycle();
        let command =
            |(body, address): (&PathBuf, &String)| self.command(tools, address, body, extent);
        let before = cpu_of_all(target)?;
        let outputs = together(self.bodies.iter().zip(addresses).map(command).collect())?;
        let cpu = cpu_of_all(target)? - before;
        let (mut succeeded, mut rate) = (0, 0.0);
        for output in outputs {
            let found = parse::h2load(&output)?;
            self.check(&found)?;
            succeeded += found.succeeded;
            rate += ratio(found.succeeded, 1) / found.seconds;
        }
        ensure!(succeeded > 0, "no request to {} succeeded", target.name);
        let cpu_micros = ratio(cpu, succeeded);
        let sample = Sample { rate, cpu_micros, p50_seconds: None, p99_seconds: None };
        Ok((sample, succeeded))
    }

    /// One single request; its rate is the inverse of its time.
    pub(crate) fn run_once(&self, tools: &Tools, server: &Server) -> Result<Sample> {
        let body = self.bodies.first().context("no body")?;
        let command = self.command(tools, &server.address(), body, Extent::Requests(1));
        let before = cpu_micros(server.pid())?;
        let output = together(vec![command])?;
        let cpu = cpu_micros(server.pid())? - before;
        let found = parse::h2load(&output.concat())?;
        self.check(&found)?;
        Ok(Sample {
            rate: 1.0 / found.fastest_seconds,
            cpu_micros: ratio(cpu, 1),
            p50_seconds: Some(found.fastest_seconds),
            p99_seconds: None,
        })
    }

    fn check(&self, found: &parse::H2Load) -> Result<()> {
        let needed = found.succeeded * self.answer_bytes_min;
        ensure!(
            found.data_bytes >= needed,
            "{} bytes in {} answers to {}, not {needed}",
            found.data_bytes,
            found.succeeded,
            self.method
        );
        Ok(())
    }
}

/// Runs etcd's benchmark.
pub(crate) fn benchmark(
    tools: &Tools,
    target: &Target,
    clients: u32,
    words: &[&str],
    total: u64,
) -> Result<(Sample, parse::Benchmark)> {
    let mut command = Command::new(&tools.benchmark);
    command
        .args(["--endpoints", &target.addresses.join(","), "--precise"])
        .args(["--conns", &clients.min(100).to_string(), "--clients", &clients.to_string()])
        .args(words)
        .args(["--total", &total.to_string()]);
    let before = cpu_of_all(target)?;
    let output = together(vec![command])?;
    let cpu = cpu_of_all(target)? - before;
    let found = parse::benchmark(&output.concat())?;
    let sample = Sample {
        rate: found.rate,
        cpu_micros: ratio(cpu, total),
        p50_seconds: Some(found.p50_seconds),
        p99_seconds: Some(found.p99_seconds),
    };
    Ok((sample, found))
}

fn cpu_of_all(target: &Target) -> Result<u64> {
    target.pids.iter().map(|&pid| cpu_micros(pid)).sum()
}

/// Writes the bodies of puts, one per key.
pub(crate) fn put_bodies(folder: &Path, count: usize) -> Result<Vec<PathBuf>> {
    let request = |number: usize| pb::PutRequest {
        key: load_key(number),
        value: Bytes::from(vec![b'v'; LOAD_VALUE_BYTES]),
        ..Default::default()
    };
    (0..count).map(|number| body(folder, &format!("put-{number}"), &request(number))).collect()
}

/// Writes the bodies of transactions as those that renew a lease of Kubernetes: put if the key's
/// revision is as expected, else read it. The comparison holds in every one, since h2load sends the
/// same body again.
pub(crate) fn renewal_bodies(folder: &Path, count: usize) -> Result<Vec<PathBuf>> {
    let request = |number: usize| {
        let key = load_key(number);
        let compare = pb::Compare {
            result: pb::compare::CompareResult::Greater.into(),
            target: pb::compare::CompareTarget::Mod.into(),
            key: key.clone(),
            target_union: Some(pb::compare::TargetUnion::ModRevision(0)),
            ..Default::default()
        };
        let value = Bytes::from(vec![b'v'; LOAD_VALUE_BYTES]);
        let put = pb::PutRequest { key: key.clone(), value, ..Default::default() };
        let range = pb::RangeRequest { key, ..Default::default() };
        let put = pb::request_op::Request::RequestPut(put);
        let range = pb::request_op::Request::RequestRange(range);
        pb::TxnRequest {
            compare: vec![compare],
            success: vec![pb::RequestOp { request: Some(put) }],
            failure: vec![pb::RequestOp { request: Some(range) }],
        }
    };
    (0..count).map(|number| body(folder, &format!("renewal-{number}"), &request(number))).collect()
}

/// Writes the bodies of ranges of the keys that [`put_bodies`] puts.
pub(crate) fn range_bodies(folder: &Path, count: usize) -> Result<Vec<PathBuf>> {
    let of =
        |number| range_body(folder, &format!("range-{number}"), load_key(number), Bytes::new());
    (0..count).map(of).collect()
}

/// Writes the body of a range.
pub(crate) fn range_body(
    folder: &Path,
    name: &str,
    key: Bytes,
    range_end: Bytes,
) -> Result<PathBuf> {
    body(folder, name, &pb::RangeRequest { key, range_end, ..Default::default() })
}

/// A key as Kubernetes forms it, always of the same length.
pub(crate) fn load_key(number: usize) -> Bytes {
    let key =
        format!("/registry/pods/kube-system/metrics-server-deployment-7d8f9c6b5-{number:0>9}");
    assert_eq!(key.len(), LOAD_KEY_BYTES, "the length is part of the measurement");
    Bytes::from(key)
}

/// The first key of the list and the end of its prefix.
pub(crate) fn list_bounds() -> (Bytes, Bytes) {
    let mut end = LIST_PREFIX.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    (Bytes::from_static(LIST_PREFIX.as_bytes()), Bytes::from(end))
}

/// Writes the keys of the list.
pub(crate) fn fill_list(server: &Server, count: usize) -> Result<()> {
    let value = Bytes::from(vec![b'v'; LIST_VALUE_BYTES]);
    let pair = |number| (Bytes::from(format!("{LIST_PREFIX}{number:08}")), value.clone());
    server.client()?.put_all((0..count).map(pair))
}

/// Runs processes at the same time and returns what they print.
fn together(commands: Vec<Command>) -> Result<Vec<String>> {
    let mut children = Vec::new();
    for mut command in commands {
        let program = command.get_program().to_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn();
        children.push(child.with_context(|| format!("start {}", program.display()))?);
    }
    // Each in a thread: a full pipe must not stop one while another is read.
    let waiting: Vec<_> =
        children.into_iter().map(|child| thread::spawn(move || child.wait_with_output())).collect();
    let mut outputs = Vec::new();
    for thread in waiting {
        let joined = thread.join().ok().context("a thread that waits for a process failed")?;
        outputs.push(text(&joined.context("wait for a load process")?)?);
    }
    Ok(outputs)
}

fn text(output: &Output) -> Result<String> {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "a load process failed: {}\n{stderr}", output.status);
    Ok(stdout)
}

/// A gRPC frame: not compressed, length, message.
fn body(folder: &Path, name: &str, message: &impl Message) -> Result<PathBuf> {
    let encoded = message.encode_to_vec();
    let length = u32::try_from(encoded.len()).context("a request of this length")?;
    let mut frame = vec![0];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&encoded);
    let path = folder.join(format!("{name}.grpc"));
    fs::write(&path, frame).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// A quotient of counts.
#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
pub(crate) fn ratio(numerator: u64, denominator: u64) -> f64 {
    numerator as f64 / denominator as f64
}
