//! Signatures only; replaced by the implementation.
use crate::*;
use bytes::Bytes;
use keepd_crypto::FileKeys;
use keepd_env::Env;
use keepd_types::{KeyRange, LeaseId, Revision, SealMark, StoredValue};
use std::path::Path;
use std::sync::Arc;

/// A table of the small replicated state: persistent, so that a view holds it for free.
pub type MetaTable = imbl::OrdMap<Bytes, Bytes>;

#[derive(Clone, Debug)]
pub struct Options {
    pub segment_bytes: u64,
    pub block_bytes: usize,
    pub cache_bytes: usize,
}
impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, block_bytes: 8 << 10, cache_bytes: 256 << 20 }
    }
}

pub struct Store {
    _p: (),
}
#[derive(Clone)]
pub struct Views {
    _p: (),
}
pub struct View {
    _p: (),
}
pub struct WriteTxn<'a> {
    store: &'a mut Store,
}
/// The state before a write txn (range_at, count_at… of what was current when it began).
pub struct PreView<'a> {
    txn: &'a Store,
}
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    pub tail_bytes: u64,
    pub tail_records: u64,
    pub segments: u64,
    pub keys: u64,
    pub since_checkpoint_bytes: u64,
}
/// How eagerly to reclaim space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    Normal,
    High,
    Full,
}
pub struct FlushJob {
    _p: (),
}
pub struct FlushDone {
    _p: (),
}
pub struct CheckpointJob {
    _p: (),
}
pub struct CheckpointDone {
    _p: (),
}
pub struct RewriteJob {
    _p: (),
}
pub struct RewriteDone {
    _p: (),
}
pub struct CompactionHashJob {
    _p: (),
}
pub struct Records {
    _p: (),
}

impl Store {
    pub fn open(env: Env, dir: &Path, keys: FileKeys, options: Options) -> Result<Self, Error> {
        todo!()
    }
    pub fn applied(&self) -> Applied {
        todo!()
    }
    pub fn revision(&self) -> i64 {
        todo!()
    }
    pub fn compact_revision(&self) -> i64 {
        todo!()
    }
    pub fn views(&self) -> Views {
        todo!()
    }
    pub fn begin(&mut self) -> WriteTxn<'_> {
        todo!()
    }
    pub fn compact(&mut self, revision: i64) -> Result<(), RangeError> {
        todo!()
    }
    /// Hash of the compaction just made, to be run off the apply thread after the next publish.
    pub fn take_compaction_hash(&mut self) -> Option<CompactionHashJob> {
        todo!()
    }
    pub fn meta_put(&mut self, table: u8, key: Bytes, value: Bytes) {
        todo!()
    }
    pub fn meta_delete(&mut self, table: u8, key: &[u8]) {
        todo!()
    }
    pub fn meta(&self, table: u8) -> &MetaTable {
        todo!()
    }
    pub fn publish(&mut self, applied: Applied) -> Arc<View> {
        todo!()
    }
    /// Bounded background work on the index (dropping compacted history); returns whether more waits.
    pub fn trim(&mut self, leaves_max: usize) -> bool {
        todo!()
    }
    pub fn live_bytes(&self) -> u64 {
        todo!()
    }
    pub fn disk_bytes(&self) -> u64 {
        todo!()
    }
    pub fn stats(&self) -> Stats {
        todo!()
    }
    pub fn take_flush(&mut self) -> Option<FlushJob> {
        todo!()
    }
    pub fn finish_flush(&mut self, done: FlushDone) {
        todo!()
    }
    pub fn durable(&self) -> Applied {
        todo!()
    }
    pub fn take_checkpoint(&mut self) -> Option<CheckpointJob> {
        todo!()
    }
    pub fn finish_checkpoint(&mut self, done: CheckpointDone) {
        todo!()
    }
    pub fn take_rewrite(&mut self, urgency: Urgency) -> Option<RewriteJob> {
        todo!()
    }
    pub fn finish_rewrite(&mut self, done: RewriteDone) {
        todo!()
    }
    /// Import (restore, raft snapshot): records in revision order into an empty or imported store.
    pub fn import(&mut self, revision: Revision, record: Record) -> Result<(), Error> {
        todo!()
    }
    /// Import: the current and the compact revision (never lowered).
    pub fn import_revisions(&mut self, revision: i64, compact_revision: i64) {
        todo!()
    }
}
impl FlushJob {
    pub fn run(self) -> Result<FlushDone, Error> {
        todo!()
    }
}
impl CheckpointJob {
    pub fn run(self) -> Result<CheckpointDone, Error> {
        todo!()
    }
}
impl RewriteJob {
    /// `pace` is called with the bytes done since its last call and may sleep.
    pub fn run(self, pace: &mut dyn FnMut(u64)) -> Result<RewriteDone, Error> {
        todo!()
    }
}
impl CompactionHashJob {
    pub fn run(self) -> Result<HashKv, Error> {
        todo!()
    }
}
impl Views {
    pub fn load(&self) -> Arc<View> {
        todo!()
    }
}
impl View {
    pub fn revision(&self) -> i64 {
        todo!()
    }
    pub fn compact_revision(&self) -> i64 {
        todo!()
    }
    pub fn applied(&self) -> Applied {
        todo!()
    }
    pub fn range(&self, range: &KeyRange, at: i64, limit: usize) -> Result<RangeRefs, RangeError> {
        todo!()
    }
    pub fn count(&self, range: &KeyRange, at: i64) -> Result<u64, RangeError> {
        todo!()
    }
    pub fn states(
        &self,
        range: &KeyRange,
        at: i64,
        limit: usize,
    ) -> Result<RangeStates, RangeError> {
        todo!()
    }
    pub fn load(&self, revision: Revision) -> Result<Record, Error> {
        todo!()
    }
    pub fn load_many(&self, revisions: &[Revision]) -> Result<Vec<Record>, Error> {
        todo!()
    }
    pub fn changes(&self, from_main: i64, revisions_max: usize) -> Result<ChangesPage, Error> {
        todo!()
    }
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, Error> {
        todo!()
    }
    pub fn hash(&self) -> Result<u32, Error> {
        todo!()
    }
    pub fn meta(&self, table: u8) -> &MetaTable {
        todo!()
    }
    /// Every record that compaction leaves, in revision order.
    pub fn records(self: &Arc<Self>) -> Records {
        todo!()
    }
    pub fn live_keys(&self) -> u64 {
        todo!()
    }
}
impl Iterator for Records {
    type Item = Result<(Revision, Record), Error>;
    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}
impl WriteTxn<'_> {
    pub fn revision(&self) -> i64 {
        todo!()
    }
    pub fn current(&self) -> i64 {
        todo!()
    }
    pub fn changed(&self) -> bool {
        todo!()
    }
    pub fn get(&self, key: &[u8]) -> Option<KeyState> {
        todo!()
    }
    pub fn range(&self, range: &KeyRange, limit: usize) -> (Vec<(Bytes, Revision)>, u64) {
        todo!()
    }
    pub fn pre_view(&self) -> PreView<'_> {
        todo!()
    }
    pub fn load(&self, revision: Revision) -> Result<Record, Error> {
        todo!()
    }
    pub fn put(&mut self, key: Bytes, value: StoredValue, lease: LeaseId) -> Option<Revision> {
        todo!()
    }
    pub fn delete_range(&mut self, range: &KeyRange) -> Vec<(Bytes, Revision)> {
        todo!()
    }
    pub fn finish(self) -> Vec<Change> {
        todo!()
    }
}
impl PreView<'_> {
    pub fn range(&self, range: &KeyRange, at: i64, limit: usize) -> Result<RangeRefs, RangeError> {
        todo!()
    }
    pub fn count(&self, range: &KeyRange, at: i64) -> Result<u64, RangeError> {
        todo!()
    }
    pub fn states(
        &self,
        range: &KeyRange,
        at: i64,
        limit: usize,
    ) -> Result<RangeStates, RangeError> {
        todo!()
    }
}
