//! For random histories, stalls, lags, compactions and snapshots: each watcher gets each event it
//! asked for exactly once, in order, a revision at a time, and nothing below its start; a progress
//! message comes only after everything it promises.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keepd_mvcc::{Change, ChangeKind};
use keepd_types::{KeyRange, KeyValue, RangeEnd, Revision};
use keepd_watch::{
    Events, Filters, Limits, Refusal, StreamId, StreamMessage, WatchId, WatchSpec, Work,
};
use proptest::prelude::*;

use crate::world::{Op, Queue, World};

const BATCH_REVISIONS_MAX: usize = 3;
const STREAMS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<Vec<Op>>),
    Release,
    Watch { stream: usize, range: KeyRange, back: Option<i64>, filters: Filters, notify: bool },
    Cancel { stream: usize, id: i64 },
    Compact { back: i64 },
    Flush,
    CatchUp,
    Tick,
    Progress { stream: usize },
    Read { stream: usize, count: usize },
    Room { stream: usize, room: usize },
    Install,
}

fn key() -> impl Strategy<Value = Bytes> {
    (b'a'..b'g').prop_map(|letter| Bytes::from(vec![letter]))
}

fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        2 => key().prop_map(KeyRange::point),
        2 => (key(), key()).prop_map(|(start, end)| KeyRange { start, end: RangeEnd::Before(end) }),
        1 => key().prop_map(|start| KeyRange { start, end: RangeEnd::Open }),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (key(), 0..3_u8).prop_map(|(key, value)| Op::Put(key, Bytes::from(vec![value]))),
        1 => range().prop_map(Op::Delete),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let txn = proptest::collection::vec(op(), 1..4);
    let filters = (0..6_u8).prop_map(|i| Filters { no_put: i == 0, no_delete: i == 1 });
    let watch = (0..STREAMS, range(), proptest::option::of(-4_i64..30), filters, any::<bool>());
    prop_oneof![
        12 => proptest::collection::vec(txn, 1..4).prop_map(Step::Apply),
        12 => Just(Step::Release),
        5 => watch.prop_map(|(stream, range, back, filters, notify)| {
            Step::Watch { stream, range, back, filters, notify }
        }),
        1 => (0..STREAMS, 0..6_i64).prop_map(|(stream, id)| Step::Cancel { stream, id }),
        1 => (0..10_i64).prop_map(|back| Step::Compact { back }),
        2 => Just(Step::Flush),
        6 => Just(Step::CatchUp),
        2 => Just(Step::Tick),
        3 => (0..STREAMS).prop_map(|stream| Step::Progress { stream }),
        8 => (0..STREAMS, 1..9_usize).prop_map(|(stream, count)| Step::Read { stream, count }),
        2 => (0..STREAMS, 0..7_usize).prop_map(|(stream, room)| Step::Room { stream, room }),
        1 => Just(Step::Install),
    ]
}

/// Expected and received events of one watcher.
struct Model {
    range: KeyRange,
    filters: Filters,
    start: i64,
    got: Vec<Revision>,
    is_created: bool,
    is_over: bool,
    /// The hub knows that it is cancelled; no check of completeness.
    is_canceled: bool,
}

struct Checker {
    world: World,
    streams: Vec<(StreamId, Queue)>,
    watchers: BTreeMap<(usize, WatchId), Model>,
    history: Vec<Change>,
    /// Deletes at a compact revision are gone, puts that something replaced in it too.
    compacted: BTreeSet<i64>,
    compacted_messages: usize,
}

impl Checker {
    fn new() -> Self {
        let limits = Limits {
            batch_revisions_max: BATCH_REVISIONS_MAX,
            scan_revisions_max: 7,
            scan_watchers_max: 4,
            stall_max: None,
            ..Limits::default()
        };
        let mut world = World::new(limits);
        let interval = Duration::from_secs(1);
        let streams = (0..STREAMS).map(|_| world.open(4, interval)).collect();
        Self {
            world,
            streams,
            watchers: BTreeMap::new(),
            history: Vec::new(),
            compacted: BTreeSet::new(),
            compacted_messages: 0,
        }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Apply(txns) => {
                let changes: Arc<[Change]> = self.world.apply(&txns);
                self.history.extend(changes.iter().cloned());
            }
            Step::Release => self.world.release(),
            Step::Watch { stream, range, back, filters, notify } => {
                self.watch(stream, range, back, filters, notify);
            }
            Step::Cancel { stream, id } => {
                let (stream_id, queue) = &self.streams[stream];
                queue.ask();
                self.world.hub.cancel(*stream_id, WatchId(id));
                if let Some(model) = self.watchers.get_mut(&(stream, WatchId(id))) {
                    model.is_canceled = true;
                }
            }
            Step::Compact { back } => {
                let revision = self.world.store.revision() - back;
                if revision > 1 && self.world.compact(revision) {
                    self.compacted.insert(revision);
                }
            }
            Step::Flush => self.world.flush(),
            Step::CatchUp => {
                self.world.hub.catch_up(self.world.now).unwrap();
            }
            Step::Tick => {
                self.world.now += Duration::from_millis(700);
                self.world.hub.tick(self.world.now);
            }
            Step::Progress { stream } => {
                let (stream, queue) = &self.streams[stream];
                queue.ask();
                self.world.hub.progress_request(*stream);
            }
            Step::Read { stream, count } => {
                for _ in 0..count {
                    let Some(message) = self.streams[stream].1.pop() else { break };
                    self.check(stream, message);
                }
            }
            Step::Room { stream, room } => self.streams[stream].1.set_room(room),
            Step::Install => {
                self.world.held.clear();
                let views = self.world.store.views();
                self.world.hub.resync(views);
            }
        }
    }

    fn watch(
        &mut self,
        stream: usize,
        range: KeyRange,
        back: Option<i64>,
        filters: Filters,
        notify: bool,
    ) {
        let current = self.world.store.revision();
        let start_revision = back.map_or(0, |back| (current - back).max(1));
        let mut spec = WatchSpec::new(range.clone(), start_revision);
        spec.filters = filters;
        spec.progress_notify = notify;
        spec.prev_kv = true;
        let is_empty = range.is_empty();
        self.streams[stream].1.ask();
        let id = self.world.hub.create(self.streams[stream].0, spec);
        assert_eq!(id.is_none(), is_empty);
        if let Some(id) = id {
            let start = if start_revision == 0 { current + 1 } else { start_revision };
            let model = Model {
                range,
                filters,
                start,
                got: Vec::new(),
                is_created: false,
                is_over: false,
                is_canceled: false,
            };
            let old = self.watchers.insert((stream, id), model);
            assert!(old.is_none(), "an automatic id is given once");
        }
    }

    /// The events that a watcher is to get in revisions `from ..= until`.
    fn expected(&self, model: &Model, from: i64, until: i64) -> Vec<Revision> {
        self.history
            .iter()
            .filter(|change| (from..=until).contains(&change.revision.main))
            .filter(|change| model.range.contains(&change.key))
            .filter(|change| match change.kind {
                ChangeKind::Put => !model.filters.no_put,
                ChangeKind::Delete => !model.filters.no_delete,
            })
            .map(|change| change.revision)
            .collect()
    }

    fn check(&mut self, stream: usize, message: StreamMessage) {
        match message {
            StreamMessage::Created { watch_id, .. } => {
                let model = self.watchers.get_mut(&(stream, watch_id)).unwrap();
                assert!(!model.is_created && model.got.is_empty());
                model.is_created = true;
            }
            StreamMessage::Refused { refusal, .. } => assert_eq!(refusal, Refusal::EmptyRange),
            StreamMessage::Events(events) => self.check_events(stream, &events),
            StreamMessage::Canceled { watch_id, .. } => {
                let model = self.watchers.get_mut(&(stream, watch_id)).unwrap();
                assert!(model.is_canceled);
                model.is_over = true;
            }
            StreamMessage::Unreadable { .. } => panic!("the history is whole"),
            StreamMessage::Compacted { watch_id, compact_revision } => {
                let model = self.watchers.get_mut(&(stream, watch_id)).unwrap();
                assert!(model.is_created && !model.is_over);
                let behind = model.got.last().map_or(model.start, |last| last.main + 1);
                assert!(behind < compact_revision, "nothing that it needed is gone");
                assert!(self.compacted.contains(&compact_revision));
                model.is_over = true;
                self.compacted_messages += 1;
            }
            StreamMessage::Progress { watch_id, header_revision } => {
                assert!(header_revision <= self.world.store.revision());
                for ((of, id), model) in &self.watchers {
                    let concerned = *of == stream && [*id, WatchId::NONE].contains(&watch_id);
                    if concerned && model.is_created && !model.is_over && !model.is_canceled {
                        self.assert_complete(model, header_revision);
                    }
                }
            }
        }
    }

    fn check_events(&mut self, stream: usize, events: &Events) {
        let (key, mut model) = self.watchers.remove_entry(&(stream, events.watch_id)).unwrap();
        assert!(model.is_created && !model.is_over);
        let revisions: Vec<Revision> = events.changes().map(|change| change.revision).collect();
        let (first, last) = (revisions[0].main, revisions[revisions.len() - 1].main);
        assert!(first >= model.start, "an event below the start");
        assert!(model.got.last().is_none_or(|got| got.main < first), "a revision came twice");
        let distinct: BTreeSet<i64> = revisions.iter().map(|revision| revision.main).collect();
        assert!(distinct.len() <= BATCH_REVISIONS_MAX);
        assert!(events.header_revision >= last);
        // Whole revisions, in order, and nothing left out in between.
        let from = model.got.last().map_or(model.start, |got| got.main + 1);
        self.assert_same(&revisions, &self.expected(&model, from, last));
        for change in events.changes() {
            let original = self.history.iter().find(|c| c.revision == change.revision).unwrap();
            // A replayed event does not name a previous record that a compaction took.
            let is_prev_gone = self.compacted.last().is_some_and(|c| change.revision.main <= *c);
            if change.prev.is_none() && is_prev_gone {
                assert_eq!(*change, Change { prev: None, ..original.clone() });
            } else {
                assert_eq!(change, original);
            }
            if let (Some(view), Some(prev)) = (&events.view, change.prev) {
                let Ok(record) = view.load(prev) else { continue };
                assert_eq!(KeyValue::decode(&record.encoded).unwrap().key, change.key);
            }
        }
        model.got.extend(revisions);
        self.watchers.insert(key, model);
    }

    /// Equal, but for what a compaction at exactly that revision may have taken.
    fn assert_same(&self, got: &[Revision], expected: &[Revision]) {
        let mut got = got.iter().peekable();
        for revision in expected {
            if got.next_if_eq(&revision).is_none() {
                assert!(self.compacted.contains(&revision.main), "{revision} is missing");
            }
        }
        assert_eq!(got.next(), None, "an event that it did not ask for, or out of order");
    }

    fn assert_complete(&self, model: &Model, until: i64) {
        let got: Vec<_> = model.got.iter().filter(|got| got.main <= until).copied().collect();
        self.assert_same(&got, &self.expected(model, model.start, until));
    }

    /// Reads everything until nothing is left to do, then checks that everything has come.
    fn finish(&mut self) {
        self.world.release();
        loop {
            let work = self.world.hub.catch_up(self.world.now).unwrap();
            let mut is_quiet = true;
            for stream in 0..STREAMS {
                self.streams[stream].1.set_room(4);
                while let Some(message) = self.streams[stream].1.pop() {
                    self.check(stream, message);
                    is_quiet = false;
                }
            }
            if work == Work::Idle && is_quiet {
                break;
            }
        }
        let current = self.world.store.revision();
        for model in self.watchers.values().filter(|model| !model.is_over) {
            assert!(model.is_created && !model.is_canceled);
            self.assert_complete(model, current);
        }
        assert_eq!(self.world.hub.stats().unsynced, 0);
        for (_, queue) in &self.streams {
            assert_eq!(queue.asked(), 0, "every request was answered or left unanswered");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_event_comes_once_in_order_and_whole(steps in proptest::collection::vec(step(), 1..120)) {
        let mut checker = Checker::new();
        for step in steps {
            checker.run(step);
        }
        checker.finish();
    }
}
