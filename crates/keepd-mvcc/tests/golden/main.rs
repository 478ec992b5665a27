//! Runs `tests/golden/*.txt`: the store on a simulated disk, as its one writer and its readers see it.
//!
//! Every write is an entry of a Raft log that begins at index 1, applied and published at once.
//!
//! | command | effect |
//! |---|---|
//! | `new` | an empty store on an empty disk |
//! | `put a v1 [lease=7]`, `delete a [z]` | a write transaction of one operation; a range ends before its second key |
//! | `txn put a v1 ; delete b` | a write transaction of several |
//! | `get a [z] [at=5] [limit=2]` | keys of a range at a revision |
//! | `changes 3 [max=2]` | the history from a main revision on |
//! | `compact 4` | forgets what is before, except what is current there |
//! | `trim` | frees the index of durably compacted history |
//! | `meta put 1 k v`, `meta delete 1 k`, `meta get 1` | writes to and reads a meta table |
//! | `flush`, `checkpoint`, `rewrite`, `scrub` | runs the job, if there is one |
//! | `close` | the next flush begins a new segment if a rewrite of the last one is worth it |
//! | `hash [at=5]`, `compaction-hash`, `digest` | etcd's hash of the records, of the oldest compaction; the running digest |
//! | `files`, `state` | files on the disk; revisions, applied and durable index |
//! | `remove-checkpoints` | removes their files, as damage would |
//! | `restart`, `crash` | the process ends, or the power is cut; the store is opened again |

#![expect(clippy::unwrap_used, clippy::panic, reason = "a wrong script fails the test")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use keepd_crypto::FileKeys;
use keepd_env::sim::CrashMode;
use keepd_env::{Env, SimDisk};
use keepd_mvcc::{
    Applied, ChangeKind, Error, JobRequest, Options, Reclaim, Store, Urgency, WriteTxn, full_speed,
};
use keepd_types::{KeyRange, KeyValue, LeaseId, RangeEnd, Revision, StoredValue};
use testkit::golden::{self, Command};

const DIR: &str = "/store";

#[test]
fn scripts() {
    golden::check(Path::new("tests/golden"), || {
        let mut bench = Bench::new();
        move |command| bench.run(command)
    });
}

struct Bench {
    disk: SimDisk,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let disk = SimDisk::new();
        Self { store: open(&disk), disk }
    }

    fn run(&mut self, command: &Command) -> String {
        match self.try_run(command) {
            Ok(output) => output,
            Err(error) => format!("error: {error}\n"),
        }
    }

    fn try_run(&mut self, command: &Command) -> Result<String, Error> {
        match command.name.as_str() {
            "put" | "delete" => {
                let lease = LeaseId(command.named_number("lease", 0));
                let words: Vec<&str> = command.words.iter().map(String::as_str).collect();
                return Ok(self.txn(&[[&[command.name.as_str()], &words[..]].concat()], lease));
            }
            "txn" => {
                let words: Vec<&str> = command.words.iter().map(String::as_str).collect();
                let ops: Vec<Vec<&str>> = words.split(|it| *it == ";").map(<[_]>::to_vec).collect();
                return Ok(self.txn(&ops, LeaseId::NONE));
            }
            "get" => return self.get(command),
            "changes" => return self.changes(command),
            "compact" => {
                self.store.compact(command.number(0))?;
                self.publish();
            }
            "trim" => while self.store.trim(10) {},
            "meta" => return Ok(self.meta(command)),
            "flush" => return self.job(JobRequest::Flush),
            "checkpoint" => return self.job(JobRequest::Checkpoint),
            "rewrite" => return self.job(JobRequest::Rewrite(Reclaim::of(Urgency::Full))),
            "scrub" => return self.job(JobRequest::Scrub),
            "close" => self.store.close_segment(Urgency::Full),
            "hash" => {
                let at = command.named_number("at", 0);
                let hash = self.store.views().load().hash_kv(at)?;
                let (revision, compacted) = (hash.revision, hash.compact_revision);
                let hash = hash.hash;
                return Ok(format!("{hash:08x} of revision {revision}, compacted {compacted}\n"));
            }
            "compaction-hash" => return self.compaction_hash(),
            "digest" => {
                let digest = self.store.digest();
                let (value, since, index) = (digest.value, digest.since, digest.index);
                return Ok(format!("{value:016x} of entries after {since} up to {index}\n"));
            }
            "files" => return Ok(self.files()),
            "state" => return Ok(self.state()),
            "new" => *self = Self::new(),
            "remove-checkpoints" => self.remove_checkpoints(),
            "restart" => self.reopen(self.disk.kill()),
            "crash" => self.reopen(self.disk.crash(CrashMode::LoseUnsynced)),
            other => panic!("no command {other}: {}", command.line),
        }
        Ok(String::new())
    }

    fn reopen(&mut self, disk: SimDisk) {
        self.store = open(&disk);
        self.disk = disk;
    }

    fn publish(&mut self) {
        let at = Applied { index: self.store.applied().index + 1, term: 1 };
        self.store.digest_entry(at, b"entry");
        self.store.publish(at);
    }

    fn txn(&mut self, ops: &[Vec<&str>], lease: LeaseId) -> String {
        let mut txn = self.store.begin();
        ops.iter().for_each(|op| write(&mut txn, op, lease));
        let changes = txn.finish().len();
        self.publish();
        format!("revision {}, {changes} changes\n", self.store.revision())
    }

    fn get(&self, command: &Command) -> Result<String, Error> {
        let view = self.store.views().load();
        let (at, limit) = (command.named_number("at", 0), command.named_number("limit", 0));
        let found = view.range(&range(&command.words), at, usize::try_from(limit).unwrap())?;
        let mut out = String::new();
        for (_, revision) in &found.keys {
            let kv = KeyValue::decode(&view.load(*revision)?.encoded).unwrap();
            writeln!(out, "{}", text_of(&kv)).unwrap();
        }
        if found.keys.len() as u64 != found.count {
            writeln!(out, "{} in all", found.count).unwrap();
        }
        Ok(if out.is_empty() { "nothing\n".to_owned() } else { out })
    }

    fn changes(&self, command: &Command) -> Result<String, Error> {
        let max = usize::try_from(command.named_number("max", 100)).unwrap();
        let page = self.store.views().load().changes(command.number(0), max)?;
        let mut out = String::new();
        for change in &page.changes {
            let Revision { main, sub } = change.revision;
            let key = String::from_utf8_lossy(&change.key);
            let what = match change.kind {
                ChangeKind::Delete => "delete",
                ChangeKind::Put if change.created => "create",
                ChangeKind::Put => "put",
            };
            write!(out, "{main}.{sub} {what} {key}").unwrap();
            let prev = change.prev.map(|prev| format!(", before it {}.{}", prev.main, prev.sub));
            writeln!(out, "{}", prev.unwrap_or_default()).unwrap();
        }
        writeln!(out, "goes on at {}", page.next).unwrap();
        Ok(out)
    }

    fn meta(&mut self, command: &Command) -> String {
        let table = u8::try_from(command.number(1)).unwrap();
        let bytes = |position| Bytes::copy_from_slice(command.word(position).as_bytes());
        match command.word(0) {
            "put" => self.store.meta_put(table, bytes(2), bytes(3)),
            "delete" => self.store.meta_delete(table, &bytes(2)),
            _ => {
                let view = self.store.views().load();
                let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
                let entries = view.meta(table).iter();
                return entries.map(|(key, value)| text(key) + "=" + &text(value) + "\n").collect();
            }
        }
        self.publish();
        String::new()
    }

    fn job(&mut self, request: JobRequest) -> Result<String, Error> {
        let is_run = self.store.run(request)?;
        Ok(if is_run { String::new() } else { "nothing to do\n".to_owned() })
    }

    fn compaction_hash(&mut self) -> Result<String, Error> {
        let Some(job) = self.store.take(JobRequest::CompactionHash) else {
            return Ok("nothing to do\n".to_owned());
        };
        let done = job.run(&mut full_speed)?;
        let hash = done.compaction_hash().unwrap();
        self.store.finish(done);
        let (revision, compacted) = (hash.revision, hash.compact_revision);
        Ok(format!("{:08x} of revision {revision}, compacted {compacted}\n", hash.hash))
    }

    fn files(&self) -> String {
        let files = self.disk.files();
        files.iter().map(|file| format!("{}\n", file.file_name().unwrap().display())).collect()
    }

    fn remove_checkpoints(&self) {
        let env = env(&self.disk);
        let is_checkpoint = |file: &&PathBuf| file.to_string_lossy().contains("idx-");
        self.disk.files().iter().filter(is_checkpoint).for_each(|it| env.disk.remove(it).unwrap());
    }

    fn state(&self) -> String {
        let (store, stats) = (&self.store, self.store.stats());
        format!(
            "revision {}, compacted {}; applied {}, durable {}; {} keys, {} records in memory, {} segments\n",
            store.revision(),
            store.compact_revision(),
            store.applied().index,
            store.durable().index,
            stats.keys,
            stats.tail_records,
            stats.segments,
        )
    }
}

fn env(disk: &SimDisk) -> Env {
    Env { disk: Arc::new(disk.clone()), ..Env::simulated(1).0 }
}

/// Opens the store: a block holds two or three short records, a segment two or three blocks.
fn open(disk: &SimDisk) -> Store {
    let options = Options { segment_bytes: 600, block_bytes: 100, cache_bytes: 1 << 20 };
    Store::open(env(disk), Path::new(DIR), FileKeys::plain(), options).unwrap()
}

fn write(txn: &mut WriteTxn<'_>, op: &[&str], lease: LeaseId) {
    let words: Vec<String> = op.iter().skip(1).map(|word| (*word).to_owned()).collect();
    match op[0] {
        "put" => {
            let key = Bytes::from(words[0].clone());
            txn.put(key, StoredValue::plain(Bytes::from(words[1].clone())), lease);
        }
        _ => drop(txn.delete_range(&range(&words))),
    }
}

fn range(words: &[String]) -> KeyRange {
    let end = words.get(1).map(|end| RangeEnd::Before(Bytes::from(end.clone())));
    KeyRange { start: Bytes::from(words[0].clone()), end: end.unwrap_or(RangeEnd::Point) }
}

fn text_of(kv: &KeyValue) -> String {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let KeyValue { create_revision, mod_revision, version, lease, .. } = kv;
    let lease = if lease.is_none() { String::new() } else { format!(", lease {}", lease.0) };
    let (key, value) = (text(&kv.key), text(&kv.value));
    format!(
        "{key}={value} created {create_revision}, changed {mod_revision}, version {version}{lease}"
    )
}
