//! Fan-out: one key, or one prefix, that many watchers watch, and puts to it.
//!
//! The client reads no more of a response than how many events it has, so that the server is
//! measured and not the client. The servers are measured in interleaved rounds.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::{Buf, Bytes};
use clap::Args;
use http::uri::PathAndQuery;
use keepd_api::etcdserverpb as pb;
use keepd_env::{Clock, SystemClock};
use pb::kv_client::KvClient;
use pb::watch_request::RequestUnion;
use prost::encoding::{WireType, decode_key, decode_varint};
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::load::ratio;
use crate::process::{cpu_micros, resident_bytes};
use crate::report::{Setting, median_cell};
use crate::servers::{Kind, Server};
use crate::tools::ToolOptions;

/// The key that is put, and the prefix that a part of the watchers watch.
const KEY: &[u8] = b"/registry/pods/default/watched";
const PREFIX: &[u8] = b"/registry/pods/";
const PREFIX_END: &[u8] = b"/registry/pods0";
/// Time after which missing events are an error.
const PATIENCE: Duration = Duration::from_secs(120);

/// The extent of a run.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    tools: ToolOptions,
    /// Rounds; medians are taken over them.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Puts that are sent without waiting for events, and as many for which everyone is waited.
    #[arg(long, default_value_t = 200)]
    puts: u64,
    /// Length of a value.
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Do not write a result file.
    #[arg(long)]
    no_save: bool,
}

/// The watchers of a measurement.
#[derive(Clone, Copy, Debug, Serialize)]
struct Shape {
    name: &'static str,
    connections: usize,
    streams: usize,
    watches: usize,
    of_prefix: bool,
    prev_kv: bool,
}

const SHAPES: [Shape; 4] = [
    Shape {
        name: "10 streams x 100 watches, one key",
        connections: 10,
        streams: 1,
        watches: 100,
        of_prefix: false,
        prev_kv: false,
    },
    Shape {
        name: "the same with prev_kv",
        connections: 10,
        streams: 1,
        watches: 100,
        of_prefix: false,
        prev_kv: true,
    },
    Shape {
        name: "100 streams x 100 watches, one prefix",
        connections: 10,
        streams: 10,
        watches: 100,
        of_prefix: true,
        prev_kv: false,
    },
    Shape {
        name: "1000 streams x 1 watch, one prefix",
        connections: 10,
        streams: 100,
        watches: 1,
        of_prefix: true,
        prev_kv: false,
    },
];

/// One server's figures of one round.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Found {
    events_per_second: f64,
    cpu_micros_per_event: f64,
    last_receiver_p50_millis: f64,
    last_receiver_p99_millis: f64,
    bytes_per_watch: f64,
}

/// A whole run.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    setting: Setting,
    puts: u64,
    value_bytes: usize,
    shapes: Vec<Measured>,
}

#[derive(Debug, Serialize)]
struct Measured {
    shape: Shape,
    rounds: BTreeMap<&'static str, Vec<Found>>,
}

/// Measures all servers, prints the table and writes the result file.
pub(crate) fn run(options: &Options) -> Result<()> {
    let tools = options.tools.find()?;
    let work = options.tools.work_folder();
    fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
    let kinds = [Kind::Keepd, Kind::KeepdAesGcm, Kind::Etcd];
    let servers: Vec<Server> =
        kinds.iter().map(|kind| Server::start(&tools, *kind, &work)).collect::<Result<_>>()?;
    let setting = Setting::of(&tools)?;
    let (puts, value_bytes) = (options.puts, options.value_bytes);
    let mut report = Report { setting, puts, value_bytes, shapes: Vec::new() };
    for shape in SHAPES {
        println!("{}", shape.name);
        let mut measured = Measured { shape, rounds: BTreeMap::new() };
        for round in 0..options.rounds {
            let mut order: Vec<&Server> = servers.iter().collect();
            order.rotate_left(round % servers.len());
            for server in order {
                let found = measure(server, shape, options)?;
                measured.rounds.entry(server.kind().name()).or_default().push(found);
            }
        }
        report.shapes.push(measured);
    }
    println!("\n{}", report.table());
    if !options.no_save {
        println!("\nwritten: {}", report.setting.save(&report, "-watches")?.display());
    }
    Ok(())
}

fn measure(server: &Server, shape: Shape, options: &Options) -> Result<Found> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (before, _) = resident_bytes(server.pid())?;
    let watchers = Watchers::create(&runtime, server, shape)?;
    let (after, _) = resident_bytes(server.pid())?;
    let all = shape.connections * shape.streams * shape.watches;
    let value = Bytes::from(vec![b'v'; options.value_bytes]);
    let clock = SystemClock::new();
    let each = u64::try_from(all).context("a number of watchers")?;
    let bytes_per_watch = ratio(after.saturating_sub(before), each);
    let mut found = Found { bytes_per_watch, ..Found::default() };
    // Everyone has had one event before anything is counted.
    runtime.block_on(watchers.put_and_wait(&value, 1, each))?;

    let (begin, cpu) = (clock.monotonic(), cpu_micros(server.pid())?);
    runtime.block_on(watchers.put_and_wait(&value, options.puts, each))?;
    let events = options.puts * each;
    found.events_per_second = ratio(events, 1) / (clock.monotonic() - begin).as_secs_f64();
    found.cpu_micros_per_event = ratio(cpu_micros(server.pid())? - cpu, events);

    let mut waits = Vec::new();
    for _ in 0..options.puts {
        let begin = clock.monotonic();
        runtime.block_on(watchers.put_and_wait(&value, 1, each))?;
        waits.push((clock.monotonic() - begin).as_secs_f64() * 1000.0);
    }
    waits.sort_by(f64::total_cmp);
    let at = |part: usize| waits.get((waits.len() * part / 100).min(waits.len() - 1));
    found.last_receiver_p50_millis = at(50).copied().unwrap_or_default();
    found.last_receiver_p99_millis = at(99).copied().unwrap_or_default();
    Ok(found)
}

/// Watchers on some connections, and the puts to what they watch.
struct Watchers {
    kv: KvClient<Channel>,
    seen: Arc<Seen>,
    streams: Vec<JoinHandle<Result<(), Status>>>,
}

/// Responses and events that all watchers have seen together.
#[derive(Debug, Default)]
struct Seen {
    created: AtomicU64,
    events: AtomicU64,
    changed: Notify,
}

impl Watchers {
    fn create(runtime: &Runtime, server: &Server, shape: Shape) -> Result<Self> {
        let seen = Arc::new(Seen::default());
        runtime.block_on(async {
            let endpoint = Endpoint::new(format!("http://{}", server.address()))?;
            let endpoint = endpoint.initial_connection_window_size(16 << 20);
            let endpoint = endpoint.initial_stream_window_size(16 << 20);
            let kv = KvClient::new(endpoint.connect().await?);
            let mut streams = Vec::new();
            for _ in 0..shape.connections {
                let channel = endpoint.connect().await?;
                for _ in 0..shape.streams {
                    let watching = watch(channel.clone(), shape, Arc::clone(&seen));
                    streams.push(tokio::spawn(watching));
                }
            }
            let watchers = Self { kv, seen, streams };
            let all = shape.connections * shape.streams * shape.watches;
            watchers.wait(|seen| &seen.created, u64::try_from(all)?).await?;
            Ok(watchers)
        })
    }

    /// Puts `puts` times and waits until `each` events of each have come.
    async fn put_and_wait(&self, value: &Bytes, puts: u64, each: u64) -> Result<()> {
        let due = self.seen.events.load(Ordering::Relaxed) + puts * each;
        let mut kv = self.kv.clone();
        let value = value.clone();
        for _ in 0..puts {
            let key = Bytes::from_static(KEY);
            kv.put(pb::PutRequest { key, value: value.clone(), ..Default::default() }).await?;
        }
        self.wait(|seen| &seen.events, due).await
    }

    async fn wait(&self, count: fn(&Seen) -> &AtomicU64, due: u64) -> Result<()> {
        let come = async {
            while count(&self.seen).load(Ordering::Relaxed) < due {
                self.seen.changed.notified().await;
            }
        };
        let is_whole = tokio::time::timeout(PATIENCE, come).await.is_ok();
        let come = count(&self.seen).load(Ordering::Relaxed);
        ensure!(is_whole, "{come} of {due} came");
        ensure!(self.streams.iter().all(|stream| !stream.is_finished()), "a watch stream ended");
        Ok(())
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        self.streams.iter().for_each(JoinHandle::abort);
    }
}

/// One stream with its watches.
async fn watch(channel: Channel, shape: Shape, seen: Arc<Seen>) -> Result<(), Status> {
    let (key, range_end) = if shape.of_prefix { (PREFIX, PREFIX_END) } else { (KEY, &[][..]) };
    let create = pb::WatchCreateRequest {
        key: Bytes::from_static(key),
        range_end: Bytes::from_static(range_end),
        prev_kv: shape.prev_kv,
        ..Default::default()
    };
    let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let requests = tokio_stream::iter(vec![request; shape.watches]);
    let requests = requests.chain(tokio_stream::pending());
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(usize::MAX);
    client.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
    let answers = client.streaming(tonic::Request::new(requests), path, Counting).await?;
    let mut answers = answers.into_inner();
    while let Some(events) = answers.next().await {
        match events? {
            0 => seen.created.fetch_add(1, Ordering::Relaxed),
            events => seen.events.fetch_add(events, Ordering::Relaxed),
        };
        seen.changed.notify_one();
    }
    Ok(())
}

/// Reads of a `WatchResponse` the number of its events only.
#[derive(Clone, Copy, Debug, Default)]
struct Counting;

impl Codec for Counting {
    type Encode = pb::WatchRequest;
    type Decode = u64;
    type Encoder = <ProstCodec<pb::WatchRequest, pb::WatchResponse> as Codec>::Encoder;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<pb::WatchRequest, pb::WatchResponse>::default().encoder()
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Decoder for Counting {
    type Item = u64;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<u64>, Status> {
        let malformed = |_| Status::internal("a malformed response");
        let mut events = 0;
        while buffer.has_remaining() {
            let (field, kind) = decode_key(buffer).map_err(malformed)?;
            let value = decode_varint(buffer).map_err(malformed)?;
            if kind == WireType::LengthDelimited {
                let len = usize::try_from(value).unwrap_or(usize::MAX);
                if len > buffer.remaining() {
                    return Err(Status::internal("a response that is cut off"));
                }
                buffer.advance(len);
            }
            events += u64::from(field == 11);
        }
        Ok(Some(events))
    }
}

impl Report {
    /// The table, in Markdown.
    fn table(&self) -> String {
        let kinds = [Kind::Etcd, Kind::Keepd, Kind::KeepdAesGcm];
        let mut lines = vec![
            "| fan-out | etcd | keepd | keepd, aesgcm |".to_owned(),
            "|---|---|---|---|".to_owned(),
        ];
        let rows: [(&str, Value); 5] = [
            ("events /s", |found| found.events_per_second),
            ("server CPU us per event", |found| found.cpu_micros_per_event),
            ("put to last receiver, p50 ms", |found| found.last_receiver_p50_millis),
            ("put to last receiver, p99 ms", |found| found.last_receiver_p99_millis),
            ("resident bytes per watch", |found| found.bytes_per_watch),
        ];
        for measured in &self.shapes {
            for (title, value) in rows {
                let cells = kinds.map(|kind| median_cell(measured.rounds.get(kind.name()), value));
                lines.push(format!("| {}: {title} | {} |", measured.shape.name, cells.join(" | ")));
            }
        }
        lines.join("\n")
    }
}

/// A row of the table.
type Value = fn(&Found) -> f64;
