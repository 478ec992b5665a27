//! A store on a simulated disk, a hub over it, and streams whose queues a test reads by hand.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use keepd_crypto::FileKeys;
use keepd_env::Env;
use keepd_mvcc::{
    Applied, Change, JobRequest, Options, Reclaim, StateReader, StateWriter, Store, Urgency,
};
use keepd_types::{KeyRange, LeaseId, StoredValue};
use keepd_watch::{Batch, CloseReason, Hub, Limits, Sink, StreamId, StreamMessage};

const DIR: &str = "/data";

/// The queue between hub and edge.
#[derive(Clone)]
pub(crate) struct Queue(Arc<Mutex<State>>);

struct State {
    messages: VecDeque<StreamMessage>,
    room: usize,
    /// Requests that have been neither answered nor left unanswered.
    places: usize,
    closed: Option<CloseReason>,
}

impl Queue {
    pub(crate) fn new(room: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            messages: VecDeque::new(),
            room,
            places: 0,
            closed: None,
        })))
    }

    /// Keeps a place for the answer to a request.
    pub(crate) fn ask(&self) {
        self.0.lock().unwrap().places += 1;
    }

    pub(crate) fn asked(&self) -> usize {
        self.0.lock().unwrap().places
    }

    pub(crate) fn pop(&self) -> Option<StreamMessage> {
        self.0.lock().unwrap().messages.pop_front()
    }

    pub(crate) fn closed(&self) -> Option<CloseReason> {
        self.0.lock().unwrap().closed
    }

    pub(crate) fn set_room(&self, room: usize) {
        self.0.lock().unwrap().room = room;
    }
}

impl Sink for Queue {
    fn answer(&mut self, message: StreamMessage) {
        let mut inner = self.0.lock().unwrap();
        assert!(inner.places > 0, "an answer to a request that was not made: {message:?}");
        inner.places -= 1;
        inner.messages.push_back(message);
    }

    fn unanswered(&mut self) {
        let mut inner = self.0.lock().unwrap();
        assert!(inner.places > 0, "a request is answered or not, once");
        inner.places -= 1;
    }

    fn try_send(&mut self, message: StreamMessage) -> Result<(), StreamMessage> {
        let mut inner = self.0.lock().unwrap();
        if inner.messages.len() >= inner.room {
            return Err(message);
        }
        inner.messages.push_back(message);
        Ok(())
    }

    fn has_capacity(&self) -> bool {
        let inner = self.0.lock().unwrap();
        inner.messages.len() < inner.room
    }

    fn close(&mut self, reason: CloseReason) {
        self.0.lock().unwrap().closed = Some(reason);
    }
}

/// One operation of a txn.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Put(Bytes, Bytes),
    Delete(KeyRange),
}

/// Store, hub, and the batches between them.
pub(crate) struct World {
    env: Env,
    pub(crate) store: Store,
    pub(crate) hub: Hub,
    pub(crate) now: Duration,
    /// Applied, but not yet published to the hub.
    pub(crate) held: Vec<Batch>,
    applied: u64,
}

impl World {
    pub(crate) fn new(limits: Limits) -> Self {
        let (env, _, _) = Env::simulated(1);
        let keys = FileKeys::plain();
        // Small blocks and segments, so that the history spans many of them.
        let options = Options { segment_bytes: 2048, block_bytes: 256, ..Options::default() };
        let mut store = Store::open(env.clone(), Path::new(DIR), keys, options).unwrap();
        store.publish(Applied { index: 1, term: 1 });
        let hub = Hub::new(limits, store.views());
        Self { env, store, hub, now: Duration::from_secs(1000), held: Vec::new(), applied: 1 }
    }

    /// Applies txns as one batch; returns the changes. They reach the hub with [`Self::release`].
    pub(crate) fn apply(&mut self, txns: &[Vec<Op>]) -> Arc<[Change]> {
        let mut changes = Vec::new();
        for ops in txns {
            let mut txn = self.store.begin();
            for op in ops.iter().cloned() {
                match op {
                    Op::Put(key, value) => {
                        txn.put(key, StoredValue::plain(value), LeaseId::NONE);
                    }
                    Op::Delete(range) => {
                        txn.delete_range(&range);
                    }
                }
            }
            changes.extend(txn.finish());
        }
        let view = self.publish_view();
        let changes: Arc<[Change]> = changes.into();
        if !changes.is_empty() {
            self.held.push(Batch { view, changes: Arc::clone(&changes) });
        }
        changes
    }

    pub(crate) fn compact(&mut self, revision: i64) -> bool {
        let compacted = self.store.compact(revision).is_ok();
        self.publish_view();
        compacted
    }

    /// Moves what is in memory to disk, and rewrites what is mostly dead.
    pub(crate) fn flush(&mut self) {
        let rewrite = JobRequest::Rewrite(Reclaim::of(Urgency::Full));
        for request in [JobRequest::Flush, JobRequest::Checkpoint, rewrite] {
            self.store.run(request).unwrap();
        }
    }

    /// Goes on in the state of another member. Nothing tells the hub.
    pub(crate) fn install(&mut self, from: &Self) {
        let staged = Path::new("/staged");
        let (env, keys, options) = (self.env.clone(), FileKeys::plain(), Options::default());
        let mut writer = StateWriter::create(env, staged, keys, options).unwrap();
        let mut reader = StateReader::new(from.store.views().load());
        while let Some(chunk) = reader.next_chunk().unwrap() {
            writer.push(&chunk).unwrap();
        }
        writer.finish().unwrap();
        let disk = Arc::clone(&self.env.disk);
        let switch = || {
            disk.remove_dir_all(Path::new(DIR))?;
            Ok(disk.rename(staged, Path::new(DIR))?)
        };
        self.store.replace(switch).unwrap();
        self.applied = from.applied;
    }

    pub(crate) fn release(&mut self) {
        for batch in self.held.drain(..) {
            self.hub.publish(&batch);
        }
    }

    pub(crate) fn open(&mut self, room: usize, interval: Duration) -> (StreamId, Queue) {
        let queue = Queue::new(room);
        (self.hub.open_stream(Box::new(queue.clone()), self.now, interval), queue)
    }

    fn publish_view(&mut self) -> Arc<keepd_mvcc::View> {
        self.applied += 1;
        self.store.publish(Applied { index: self.applied, term: 1 })
    }
}
