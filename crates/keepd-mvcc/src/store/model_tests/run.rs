//! Random scripts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use keepd_crypto::FileKeys;
use keepd_env::sim::CrashMode;
use keepd_env::{Env, ManualClock, SeededRandom, SimDisk};
use keepd_types::{
    KeyId, KeyRange, LeaseId, PlainDigest, RangeEnd, Revision, SealMark, StoredValue,
};
use proptest::prelude::*;

use super::state::Model;
use crate::jobs::Work;
use crate::recovery::count_dead;
use crate::{
    Applied, Done, Job, JobKind, JobRequest, Options, Reclaim, Store, Urgency, full_speed,
};

pub(crate) const DIR: &str = "/data/revlog";

/// A step of a script.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Put {
        key: u8,
        len: u16,
        is_sealed: bool,
    },
    Txn(Vec<(bool, u8)>),
    /// A key is put again and again.
    Burst(u8, u8),
    DeleteRange(u8, u8),
    Compact(u8),
    MetaPut(u8, u8),
    MetaDelete(u8, u8),
    Publish,
    /// Publish and a whole flush.
    Flush,
    TakeFlush,
    RunFlush,
    FinishFlush,
    /// A whole checkpoint.
    Checkpoint,
    TakeCheckpoint,
    RunCheckpoint,
    FinishCheckpoint,
    /// A whole checkpoint that leaves so many, as before rewrites that are to drop all they can.
    ReclaimingCheckpoint(u8),
    /// Closes the last segment with the next flush.
    Close(u8),
    /// A whole rewrite.
    Rewrite(u8),
    TakeRewrite(u8),
    RunRewrite,
    FinishRewrite,
    Trim(u8),
    Check(u8, u8, u8),
    Reopen,
    Crash(u64),
    /// Damages the newest checkpoint, or all, and reopens.
    Damage {
        is_all: bool,
    },
}

pub(crate) fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (any::<u8>(), 0..300_u16, any::<bool>())
            .prop_map(|(key, len, is_sealed)| Op::Put { key, len, is_sealed }),
        4 => prop::collection::vec(any::<(bool, u8)>(), 1..6).prop_map(Op::Txn),
        3 => any::<(u8, u8)>().prop_map(|(a, b)| Op::DeleteRange(a, b)),
        2 => any::<u8>().prop_map(Op::Compact),
        3 => any::<(u8, u8)>().prop_map(|(a, b)| Op::MetaPut(a, b)),
        3 => any::<(u8, u8)>().prop_map(|(a, b)| Op::MetaDelete(a, b)),
        4 => Just(Op::Publish),
        6 => Just(Op::Flush),
        1 => Just(Op::TakeFlush),
        1 => Just(Op::RunFlush),
        1 => Just(Op::FinishFlush),
        2 => Just(Op::Checkpoint),
        1 => Just(Op::TakeCheckpoint),
        1 => Just(Op::RunCheckpoint),
        1 => Just(Op::FinishCheckpoint),
        2 => any::<u8>().prop_map(Op::ReclaimingCheckpoint),
        2 => any::<u8>().prop_map(Op::Close),
        5 => any::<u8>().prop_map(Op::Rewrite),
        1 => any::<u8>().prop_map(Op::TakeRewrite),
        1 => Just(Op::RunRewrite),
        1 => Just(Op::FinishRewrite),
        1 => any::<u8>().prop_map(Op::Trim),
        1 => any::<(u8, u8, u8)>().prop_map(|(a, b, limit)| Op::Check(a, b, limit)),
        1 => Just(Op::Reopen),
        1 => any::<u64>().prop_map(Op::Crash),
        1 => any::<bool>().prop_map(|is_all| Op::Damage { is_all }),
    ]
}

/// Few enough keys to be overwritten, with prefixes and lengths that tell apart what looks alike.
pub(crate) fn key(number: u8) -> Bytes {
    let number = number % 48;
    Bytes::from(match number % 4 {
        0 => format!("/registry/pods/default/{number:03}"),
        1 => format!("/registry/events/kube-system/event-{number}"),
        2 => "k".repeat(usize::from(number) + 1),
        _ => format!("{}", char::from(b'0' + number)),
    })
}

fn value(len: u16, salt: i64, is_sealed: bool) -> StoredValue {
    let bytes: Bytes = (0..len).map(|at| (i64::from(at) ^ salt).to_le_bytes()[0]).collect();
    // The model hashes stored bytes, so a sealed value must be its own plaintext here.
    let plain = PlainDigest::of(&bytes);
    let seal = is_sealed.then_some(SealMark { key_id: KeyId(7), plain });
    StoredValue { bytes, seal }
}

fn range(a: u8, b: u8) -> KeyRange {
    let end = match b % 5 {
        0 => RangeEnd::Open,
        1 => RangeEnd::Point,
        _ => RangeEnd::Before(key(b)),
    };
    KeyRange { start: key(a), end }
}

pub(crate) fn options() -> Options {
    Options { segment_bytes: 1200, block_bytes: 300, cache_bytes: 1 << 20 }
}

pub(crate) fn env(disk: &SimDisk, seed: u64) -> Env {
    Env {
        disk: Arc::new(disk.clone()),
        clock: Arc::new(ManualClock::new()),
        random: Arc::new(SeededRandom::new(seed)),
    }
}

/// A store with its model and its jobs under way.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) disk: SimDisk,
    keys: FileKeys,
    seed: u64,
    pub(crate) store: Store,
    pub(crate) model: Model,
    /// The model at every applied index that recovery may come back to.
    pub(crate) published: BTreeMap<u64, Model>,
    /// Jobs that were taken and did not run yet.
    taken: BTreeMap<JobKind, Job>,
    /// Jobs that have run, for the store to take in.
    ended: BTreeMap<JobKind, Done>,
    hashes: Vec<crate::HashKv>,
}

impl World {
    pub(crate) fn new(is_sealed: bool) -> Self {
        let disk = SimDisk::new();
        let keys =
            if is_sealed { FileKeys::ephemeral(&SeededRandom::new(9)) } else { FileKeys::plain() };
        let store = Store::open(env(&disk, 1), Path::new(DIR), keys.clone(), options()).unwrap();
        Self {
            disk,
            keys,
            seed: 1,
            store,
            model: Model::new(),
            published: BTreeMap::from([(0, Model::new())]),
            taken: BTreeMap::new(),
            ended: BTreeMap::new(),
            hashes: Vec::new(),
        }
    }

    pub(crate) fn keys(&self) -> FileKeys {
        self.keys.clone()
    }

    /// Opens what is on `disk`: the state of one publish, not before what was durable.
    pub(crate) fn reopen_on(&mut self, disk: SimDisk) -> Result<(), crate::Error> {
        let durable = self.store.durable();
        self.seed += 1;
        let store =
            Store::open(env(&disk, self.seed), Path::new(DIR), self.keys.clone(), options())?;
        let applied = store.applied();
        assert!(applied >= durable, "recovered {applied:?}, durable was {durable:?}");
        assert_eq!(store.durable(), applied);
        (self.disk, self.store) = (disk, store);
        self.model = self.published[&applied.index].clone();
        self.published.split_off(&(applied.index + 1));
        (self.taken, self.ended) = (BTreeMap::new(), BTreeMap::new());
        self.hashes.clear();
        self.check(0, 0, 2);
        Ok(())
    }

    pub(crate) fn check(&self, a: u8, b: u8, limit: u8) {
        let view = self.store.views().load();
        let model = &self.published[&view.applied().index];
        model.check(&view, &range(a, b), usize::from(limit % 7));
    }

    /// The dead that the store counts as they die are those of a recount.
    pub(crate) fn check_dead(&self) {
        let store = &self.store;
        let mut counted = count_dead(&store.now.segments, &store.now.index);
        counted.retain(|_, dead| *dead > 0);
        let mut kept = store.dead.clone();
        kept.retain(|_, dead| *dead > 0);
        assert_eq!(kept, counted);
        for (id, pinned) in &store.pinned {
            assert!(*pinned <= kept.get(id).copied().unwrap_or(0), "more pinned than dead in {id}");
        }
    }

    pub(crate) fn publish(&mut self) {
        let applied = Applied { index: self.model.applied.index + 1, term: 3 };
        self.model.applied = applied;
        self.store.publish(applied);
        self.published.insert(applied.index, self.model.clone());
        while let Some(job) = self.store.take(JobRequest::CompactionHash) {
            let Work::CompactionHash(hash) = &job.0 else { unreachable!("another kind of job") };
            let revision = hash.revision;
            let wanted = self.hashes.iter().find(|hash| hash.revision == revision).unwrap();
            let done = match job.run(&mut full_speed) {
                Err(error) if matches!(error, crate::Error::Io(_)) || error.is_damage() => {
                    Done::abandoned(JobKind::CompactionHash, &error)
                }
                found => found.unwrap(),
            };
            assert!(done.compaction_hash().is_none_or(|found| found == *wanted));
            self.store.finish(done);
        }
    }

    fn txn(&mut self, ops: &[(bool, u8)], len: u16, is_sealed: bool) {
        let mut txn = self.store.begin();
        let main = txn.revision();
        assert_eq!(main, self.model.revision + 1);
        let mut sub = 0;
        for (is_put, number) in ops {
            if *is_put {
                let value = value(len, main + sub, is_sealed);
                let lease = LeaseId(main % 3 - 1);
                txn.put(key(*number), value.clone(), lease);
                self.model.put(Revision { main, sub }, key(*number), value, lease);
                sub += 1;
            } else {
                let range = KeyRange::point(key(*number));
                txn.delete_range(&range);
                sub = self.model.delete(main, sub, &range);
            }
        }
        assert_eq!(txn.changed(), sub > 0);
        let changes = txn.finish();
        assert_eq!(i64::try_from(changes.len()).unwrap(), sub);
        assert_eq!(self.store.revision(), self.model.revision);
    }

    fn delete_range(&mut self, a: u8, b: u8) {
        let range = range(a, b);
        let mut txn = self.store.begin();
        let main = txn.revision();
        let deleted = txn.delete_range(&range);
        txn.finish();
        let count = self.model.delete(main, 0, &range);
        assert_eq!(i64::try_from(deleted.len()).unwrap(), count);
    }

    fn compact(&mut self, share: u8) {
        let (low, high) = (self.model.compact_revision, self.model.revision);
        let at = low + (high - low) * i64::from(share) / 255;
        let result = self.store.compact(at);
        assert_eq!(result.is_ok(), at > low);
        if at > low {
            let hash = self.model.compact(at);
            self.hashes.push(hash);
        }
    }

    fn meta(&mut self, table: u8, number: u8, value: Option<u8>) {
        // Few enough keys to be written and deleted again and again.
        let (table, key) = (table % 2, Bytes::copy_from_slice(&[number % 3]));
        match value {
            Some(value) => {
                let value = Bytes::copy_from_slice(&[value]);
                self.store.meta_put(table, key.clone(), value.clone());
                self.model.meta.insert((table, key), value);
            }
            None => {
                self.store.meta_delete(table, &key);
                self.model.meta.remove(&(table, key));
            }
        }
    }

    fn checkpoints(&self) -> Vec<PathBuf> {
        let is_checkpoint = |path: &PathBuf| path.to_string_lossy().contains("idx-");
        self.disk.files().into_iter().filter(is_checkpoint).collect()
    }

    /// Every step but those that fail on a broken disk.
    pub(crate) fn step(&mut self, op: &Op) -> Result<(), crate::Error> {
        match op {
            Op::Put { key, len, is_sealed } => self.txn(&[(true, *key)], *len, *is_sealed),
            Op::Txn(ops) => self.txn(ops, 20, false),
            Op::Burst(key, count) => {
                (0..*count).for_each(|at| self.txn(&[(true, *key)], u16::from(at), false));
            }
            Op::DeleteRange(a, b) => self.delete_range(*a, *b),
            Op::Compact(share) => self.compact(*share),
            Op::MetaPut(table, number) => self.meta(*table, *number, Some(table ^ number)),
            Op::MetaDelete(table, number) => self.meta(*table, *number, None),
            Op::Publish => self.publish(),
            Op::Trim(leaves) => {
                self.store.trim(usize::from(*leaves));
            }
            Op::Check(a, b, limit) => {
                self.check(*a, *b, *limit);
                self.model.check_txn(&mut self.store, &key(*a));
            }
            Op::Reopen => self.reopen_on(self.disk.kill())?,
            Op::Crash(seed) => self.reopen_on(self.disk.crash(crash_mode(*seed)))?,
            Op::Damage { is_all } => {
                let disk = self.disk.kill();
                let files = self.checkpoints();
                let count = if *is_all { files.len() } else { 1 };
                for file in files.iter().rev().take(count) {
                    let middle = disk.peek(file).unwrap().len() as u64 / 2;
                    assert!(disk.flip(file, middle, 0x10));
                }
                self.reopen_on(disk)?;
            }
            _ => self.job_step(op)?,
        }
        Ok(())
    }

    fn job_steps(&mut self, ops: &[Op]) -> Result<(), crate::Error> {
        ops.iter().try_for_each(|op| self.job_step(op))
    }

    fn job_step(&mut self, op: &Op) -> Result<(), crate::Error> {
        match op {
            Op::Flush => {
                self.publish();
                self.job_steps(&[Op::FinishFlush, Op::TakeFlush, Op::RunFlush, Op::FinishFlush])?;
            }
            Op::Checkpoint => {
                self.job_steps(&[Op::TakeCheckpoint, Op::RunCheckpoint, Op::FinishCheckpoint])?;
            }
            Op::Rewrite(urgency) => {
                self.job_steps(&[Op::TakeRewrite(*urgency), Op::RunRewrite, Op::FinishRewrite])?;
            }
            Op::TakeFlush => self.take(JobRequest::Flush),
            Op::RunFlush => self.run(JobKind::Flush)?,
            Op::FinishFlush => self.finish(JobKind::Flush),
            Op::TakeCheckpoint => self.take(JobRequest::Checkpoint),
            Op::ReclaimingCheckpoint(kept) => {
                self.finish(JobKind::Checkpoint);
                let kept = 1 + usize::from(kept % 2);
                self.take(JobRequest::ReclaimingCheckpoint { kept });
                self.run(JobKind::Checkpoint)?;
                self.finish(JobKind::Checkpoint);
            }
            Op::Close(urgency) => self.store.close_segment(urgency_of(*urgency)),
            Op::RunCheckpoint => self.run(JobKind::Checkpoint)?,
            Op::FinishCheckpoint => self.finish(JobKind::Checkpoint),
            Op::TakeRewrite(urgency) => {
                let is_short = *urgency >= 128;
                let reclaim = Reclaim { is_short, ..Reclaim::of(urgency_of(*urgency)) };
                self.take(JobRequest::Rewrite(reclaim));
            }
            Op::RunRewrite => self.run(JobKind::Rewrite)?,
            Op::FinishRewrite => self.finish(JobKind::Rewrite),
            _ => unreachable!("the other steps are not jobs"),
        }
        Ok(())
    }

    fn take(&mut self, request: JobRequest) {
        if let Some(job) = self.store.take(request) {
            self.taken.insert(job.kind(), job);
        }
    }

    /// Runs what was taken; a job that fails is over.
    fn run(&mut self, kind: JobKind) -> Result<(), crate::Error> {
        let Some(job) = self.taken.remove(&kind) else { return Ok(()) };
        let done = job.run(&mut full_speed);
        let done = done.inspect_err(|error| self.store.finish(Done::abandoned(kind, error)))?;
        self.ended.insert(kind, done);
        Ok(())
    }

    fn finish(&mut self, kind: JobKind) {
        if let Some(done) = self.ended.remove(&kind) {
            self.store.finish(done);
            if kind == JobKind::Rewrite {
                self.check_dead();
            }
        }
    }
}

fn urgency_of(number: u8) -> Urgency {
    [Urgency::Normal, Urgency::High, Urgency::Full][usize::from(number % 3)]
}

pub(crate) fn crash_mode(seed: u64) -> CrashMode {
    match seed % 4 {
        0 => CrashMode::LoseUnsynced,
        1 => CrashMode::WrittenBack,
        2 => CrashMode::Random { seed },
        _ => CrashMode::Torn { seed },
    }
}

proptest! {
    #[test]
    fn the_store_does_what_the_model_does(
        script in prop::collection::vec(ops(), 1..250), is_sealed: bool,
    ) {
        let mut world = World::new(is_sealed);
        for op in &script {
            world.step(op).unwrap();
        }
        world.publish();
        world.check(0, 0, 3);
    }
}
