//! Runs `tests/golden/*.txt`.
//!
//! Keys: `a` one key, `a-c` a range, `a-` from `a` on, `-` all.
//!
//! - `stream S [room=N] [every=SECONDS]`, `close S`, `room S N`
//! - `watch S KEYS [from=N] [id=N] [noput] [nodelete] [prev] [notify] [denied=TEXT]`
//! - `put KEY VALUE`, `del KEYS`, `txn put:KEY:VALUE del:KEYS ...`, `many KEY COUNT` (a put each)
//! - `hold` / `release`: what is applied in between reaches the hub late
//! - `compact N`, `install` (what is held is lost, as with a leader's snapshot)
//! - `catch_up`, `wait SECONDS`, `tick`, `progress S`, `cancel S ID`, `stats`
//! - `read S [N]`: takes messages off a stream and prints them

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use keepd_mvcc::{Change, ChangeKind, View};
use keepd_types::{KeyRange, KeyValue};
use keepd_watch::{Events, Filters, Limits, StreamId, StreamMessage, WatchId, WatchSpec};
use testkit::golden::{self, Command};

use crate::world::{Op, Queue, World};

struct Runner {
    world: World,
    streams: BTreeMap<String, (StreamId, Queue)>,
    is_holding: bool,
}

fn bytes(text: &str) -> Bytes {
    Bytes::from(text.to_owned())
}

fn keys(text: &str) -> KeyRange {
    match text.split_once('-') {
        None => KeyRange::point(bytes(text)),
        Some((start, "")) => KeyRange::from_request(bytes(start), bytes("\0")),
        Some((start, end)) => KeyRange::from_request(bytes(start), bytes(end)),
    }
}

fn op(word: &str) -> Op {
    let mut parts = word.split(':');
    let (name, target) = (parts.next().unwrap(), parts.next().unwrap());
    match name {
        "put" => Op::Put(bytes(target), bytes(parts.next().unwrap())),
        "del" => Op::Delete(keys(target)),
        _ => panic!("unknown operation {word}"),
    }
}

fn value(encoded: &Bytes) -> String {
    String::from_utf8(KeyValue::decode(encoded).unwrap().value.to_vec()).unwrap()
}

fn event(change: &Change, view: Option<&View>) -> String {
    let key = String::from_utf8_lossy(&change.key);
    let mut out = match change.kind {
        ChangeKind::Put => format!("put {key}={}", value(&change.record.encoded)),
        ChangeKind::Delete => format!("del {key}"),
    };
    out += &format!("@{}", change.revision);
    if let (Some(view), Some(prev)) = (view, change.prev) {
        let prev = view.load(prev);
        let prev = prev.map_or_else(|error| error.to_string(), |record| value(&record.encoded));
        out += &format!(" (was {prev})");
    }
    out
}

fn events(events: &Events) -> String {
    let shown: Vec<_> =
        events.changes().map(|change| event(change, events.view.as_deref())).collect();
    let list = match shown.as_slice() {
        [first, .., last] if shown.len() > 8 => {
            format!("{first} .. {last}, {} events", shown.len())
        }
        _ => shown.join(", "),
    };
    format!("events id={} header={}: {list}", events.watch_id.0, events.header_revision)
}

fn message(message: &StreamMessage) -> String {
    match message {
        StreamMessage::Created { watch_id, header_revision } => {
            format!("created id={} header={header_revision}", watch_id.0)
        }
        StreamMessage::Refused { header_revision, refusal } => {
            format!("refused header={header_revision} reason={refusal}")
        }
        StreamMessage::Events(list) => events(list),
        StreamMessage::Canceled { watch_id, header_revision } => {
            format!("canceled id={} header={header_revision}", watch_id.0)
        }
        StreamMessage::Unreadable { watch_id } => format!("unreadable id={}", watch_id.0),
        StreamMessage::Compacted { watch_id, compact_revision } => {
            format!("compacted id={} compact_revision={compact_revision}", watch_id.0)
        }
        StreamMessage::Progress { watch_id, header_revision } => {
            format!("progress id={} header={header_revision}", watch_id.0)
        }
    }
}

impl Runner {
    fn run(&mut self, command: &Command) -> String {
        match command.name.as_str() {
            "stream" => {
                let room = usize::try_from(command.named_number("room", 128)).unwrap();
                let every = u64::try_from(command.named_number("every", 600)).unwrap();
                let stream = self.world.open(room, Duration::from_secs(every));
                self.streams.insert(command.word(0).to_owned(), stream);
            }
            "close" => self.world.hub.close_stream(self.stream(command).0),
            "room" => {
                self.stream(command).1.set_room(usize::try_from(command.number(1)).unwrap());
            }
            "watch" => self.watch(command),
            "put" => self.apply(&[vec![Op::Put(bytes(command.word(0)), bytes(command.word(1)))]]),
            "del" => self.apply(&[vec![Op::Delete(keys(command.word(0)))]]),
            "txn" => self.apply(&[command.words.iter().map(|word| op(word)).collect()]),
            "many" => {
                let put = |i| vec![Op::Put(bytes(command.word(0)), bytes(&format!("{i}")))];
                self.apply(&(0..command.number(1)).map(put).collect::<Vec<_>>());
            }
            "hold" => self.is_holding = true,
            "release" => {
                self.is_holding = false;
                self.world.release();
            }
            "install" => {
                self.is_holding = false;
                self.world.held.clear();
                let views = self.world.store.views();
                self.world.hub.resync(views);
            }
            "compact" => return format!("{}\n", self.world.compact(command.number(0))),
            "catch_up" => {
                return format!("{:?}\n", self.world.hub.catch_up(self.world.now).unwrap());
            }
            "wait" => {
                self.world.now += Duration::from_secs(u64::try_from(command.number(0)).unwrap());
            }
            "tick" => self.world.hub.tick(self.world.now),
            "progress" => {
                let stream = self.asking(command);
                self.world.hub.progress_request(stream);
            }
            "cancel" => {
                let stream = self.asking(command);
                self.world.hub.cancel(stream, WatchId(command.number(1)));
            }
            "stats" => return format!("{:?}\n", self.world.hub.stats()),
            "read" => return self.read(command),
            name => panic!("unknown command {name}"),
        }
        String::new()
    }

    fn stream(&self, command: &Command) -> (StreamId, Queue) {
        self.streams[command.word(0)].clone()
    }

    fn apply(&mut self, txns: &[Vec<Op>]) {
        self.world.apply(txns);
        if !self.is_holding {
            self.world.release();
        }
    }

    fn watch(&mut self, command: &Command) {
        let stream = self.asking(command);
        let mut spec = WatchSpec::new(keys(command.word(1)), command.named_number("from", 0));
        spec.id = command.named("id").map(|id| WatchId(id.parse().unwrap()));
        spec.filters = Filters { no_put: command.has("noput"), no_delete: command.has("nodelete") };
        spec.prev_kv = command.has("prev");
        spec.progress_notify = command.has("notify");
        spec.denied = command.named("denied").map(str::to_owned);
        self.world.hub.create(stream, spec);
    }

    /// The stream, with a place for an answer.
    fn asking(&self, command: &Command) -> StreamId {
        let (stream, queue) = self.stream(command);
        queue.ask();
        stream
    }

    fn read(&self, command: &Command) -> String {
        let (_, queue) = self.stream(command);
        let count = command.words.get(1).map_or(usize::MAX, |count| count.parse().unwrap());
        let mut out = String::new();
        for _ in 0..count {
            let Some(next) = queue.pop() else { break };
            out += &format!("{} {}\n", command.word(0), message(&next));
        }
        if let Some(reason) = queue.closed() {
            out += &format!("{} closed: {reason:?}\n", command.word(0));
        }
        if out.is_empty() { format!("{} nothing\n", command.word(0)) } else { out }
    }
}

#[test]
fn the_golden_scripts_hold() {
    golden::check("tests/golden", || {
        let limits = Limits::default();
        let world = World::new(limits);
        let mut runner = Runner { world, streams: BTreeMap::new(), is_holding: false };
        move |command: &Command| runner.run(command)
    });
}
