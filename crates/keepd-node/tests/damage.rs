//! Files that are damaged or removed under a member: who needs a damaged part gets an error and
//! everything else is served; into files that are gone nothing is acknowledged.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use keepd_crypto::EncryptionConfig;
use keepd_env::{Disk, SimDisk};
use keepd_machine::Command;
use keepd_machine::command::Put;
use keepd_node::{Error, Handle, Node};
use keepd_types::{KeyRange, StoredValue};
use keepd_watch::{CloseReason, Sink, StreamMessage, WatchSpec};
use sim::fixture;

/// BOUND: how long a test waits for what happens in the background.
const PATIENCE: Duration = Duration::from_secs(60);

async fn start(disk: &SimDisk, config: Option<EncryptionConfig>) -> Node {
    fixture::started(disk, 1, fixture::options(), config).await
}

async fn put(handle: &Handle, key: String) -> Result<(), Error> {
    let value = StoredValue::plain(Bytes::from(vec![b'v'; 900]));
    let put = Put { key: key.into(), value, ..Put::default() };
    handle.propose(Command::Put(put)).await.map(|_done| ())
}

async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "not within time: {what}");
}

struct Messages(mpsc::Sender<StreamMessage>);

impl Sink for Messages {
    fn answer(&mut self, message: StreamMessage) {
        self.0.send(message).expect("the test reads");
    }

    fn unanswered(&mut self) {}

    fn try_send(&mut self, message: StreamMessage) -> Result<(), StreamMessage> {
        self.0.send(message).map_err(|failed| failed.0)
    }

    fn has_capacity(&self) -> bool {
        true
    }

    fn close(&mut self, _reason: CloseReason) {}
}

/// Watches everything from a revision on; the events until the watch ends or is up to date.
async fn watch(handle: &Handle, from: i64) -> (usize, bool) {
    let (sender, messages) = mpsc::channel();
    let hub = handle.hub();
    let stream = hub.open_stream(Box::new(Messages(sender)), PATIENCE).await.expect("opens");
    hub.create(stream, WatchSpec::new(KeyRange::all(), from)).await.expect("the hub takes it");
    put(handle, "last".to_owned()).await.expect("puts");
    let read = move || {
        let mut events = 0;
        loop {
            match messages.recv_timeout(PATIENCE).expect("a message in time") {
                StreamMessage::Events(found) => {
                    events += found.len();
                    if found.changes().any(|change| change.key == "last") {
                        return (events, true);
                    }
                }
                StreamMessage::Unreadable { .. } => return (events, false),
                _ => {}
            }
        }
    };
    let read = tokio::task::spawn_blocking(read).await.expect("the reader ends");
    hub.close_stream(stream);
    read
}

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let is_segment = |path: &PathBuf| path.to_string_lossy().contains("/store/seg-");
    let mut segments: Vec<_> = disk.files().into_iter().filter(is_segment).collect();
    segments.sort();
    segments
}

/// A stopped member with a damaged block in the middle of a complete segment, and its place.
async fn damaged() -> (SimDisk, PathBuf, u64) {
    let disk = SimDisk::new();
    let node = start(&disk, None).await;
    // Of two writes of one key a compaction leaves one for a rewrite to drop.
    for _ in 0..2 {
        put(&node.handle(), "dead".to_owned()).await.expect("puts");
    }
    for number in 0..200 {
        put(&node.handle(), format!("k{number:03}")).await.expect("puts");
    }
    node.stop();
    let node = start(&disk, None).await;
    put(&node.handle(), "new".to_owned()).await.expect("puts");
    node.handle().propose(Command::Compact { revision: 3 }).await.expect("compacts");
    node.handle().settle_compactions().await.expect("compactions end");
    node.handle().reclaim().await.expect("reclaiming ends");
    node.stop();
    let old = segments(&disk).pop().expect("the rewrite's is complete");
    let middle = disk.peek(&old).expect("it is there").len() as u64 / 2;
    assert!(disk.flip(&old, middle, 4));
    (disk, old, middle)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_block_of_an_old_segment_ends_no_member() {
    let (disk, old, middle) = damaged().await;
    // Twice: a restart finds it again, without anybody who reads it.
    for round in 0..2 {
        let node = start(&disk, None).await;
        let handle = node.handle();
        eventually("the scrub finds the damage", || !handle.damages().is_empty()).await;
        let damages = handle.damages().list();
        assert_eq!(damages.len(), 1, "{damages:?}");
        assert_eq!(damages[0].file, old);
        assert!((middle - 5000..=middle).contains(&damages[0].offset), "{damages:?}");

        let view = handle.view();
        let refs = view.range(&KeyRange::all(), 0, 0).expect("the index is whole");
        let unreadable = refs.keys.iter().filter(|(_, at)| view.load(*at).is_err()).count();
        assert!((1..20).contains(&unreadable), "{unreadable} keys of {}", refs.count);

        if round == 0 {
            let (events, is_whole) = watch(&handle, 4).await;
            assert!(!is_whole && (50..150).contains(&events), "{events} before the damage");
        }
        let (events, is_whole) = watch(&handle, view.revision()).await;
        assert!(is_whole && events > 0, "a watch behind the damage goes on");

        view.hash_kv(0).expect_err("a hash needs every record");
        view.records().find_map(Result::err).expect("so does an export");
        let revision = handle.view().revision();
        handle.propose(Command::Compact { revision }).await.expect("compacts");
        handle.settle_compactions().await.expect("a compaction ends without its hash");
        assert!(handle.compaction_hash(revision).is_none());
        let overwritten = put(&handle, "k001".to_owned()).await;
        overwritten.expect("puts go on");
        handle.reclaim().await.expect("reclaiming ends");
        assert!(disk.peek(&old).is_some(), "a damaged file is left alone");
        put(&handle, format!("after-{round}")).await.expect("puts go on");
        assert_eq!(*handle.halted().borrow(), None);
        node.stop();
    }
}

/// A member that is killed while its last segment grows has all of it in the log.
#[tokio::test(flavor = "multi_thread")]
async fn damage_in_the_growing_segment_is_made_good_from_the_log() {
    let disk = SimDisk::new();
    let node = start(&disk, None).await;
    for number in 0..100 {
        put(&node.handle(), format!("k{number:03}")).await.expect("puts");
    }
    let grown = segments(&disk).pop().expect("it grows");
    let is_flushed = || disk.peek(&grown).is_some_and(|bytes| bytes.len() > 90_000);
    eventually("flushes", is_flushed).await;
    let killed = disk.kill();
    node.stop();
    for part in 1..8 {
        let disk = killed.kill();
        let len = disk.peek(&grown).expect("it is there").len() as u64;
        assert!(disk.flip(&grown, len * part / 8, 4));
        for _start in 0..2 {
            let node = start(&disk, None).await;
            let view = node.handle().linearizable_view().await.expect("reads");
            let refs = view.range(&KeyRange::all(), 0, 0).expect("the index is whole");
            assert_eq!((refs.count, view.revision()), (100, 101), "in part {part}");
            assert!(refs.keys.iter().all(|(_, at)| view.load(*at).is_ok()));
            node.stop();
        }
    }
}

/// The change of keys waits for the damaged file, and says so; it ends when the operator has
/// written what cannot be read.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_holds_a_change_of_keys_back_until_nothing_in_it_is_needed() {
    let (disk, old, _) = damaged().await;
    let providers = "  - identity: {}\n";
    let config = [fixture::ENCRYPTION, providers.as_bytes()].concat();
    let node = start(&disk, EncryptionConfig::parse("test", &config).ok()).await;
    let handle = node.handle();
    let is_held = || handle.file_counts().held_back == [old.clone()];
    eventually("the damage is met and told", || is_held() && handle.file_counts().stale == 1).await;
    assert!(!handle.file_counts().is_complete);

    let view = handle.view();
    let refs = view.range(&KeyRange::all(), 0, 0).expect("the index is whole");
    let error = view.records().find_map(Result::err).expect("a snapshot needs the records");
    for (key, _) in refs.keys.iter().filter(|(_, at)| view.load(*at).is_err()) {
        let name = String::from_utf8(key.to_vec()).expect("plain");
        assert!(error.to_string().contains(old.to_str().expect("plain")), "{error}");
        put(&handle, name).await.expect("puts go on");
    }
    drop(view);
    assert!(disk.peek(&old).is_some());
    let revision = handle.view().revision();
    handle.propose(Command::Compact { revision }).await.expect("compacts");
    handle.settle_compactions().await.expect("compactions end");
    assert!(handle.compaction_hash(revision).is_none(), "the compaction hashed what died with it");
    assert!(handle.view().records().all(|record| record.is_ok()), "nothing needs the damage");
    handle.view().hash_kv(0).expect("neither does a hash");
    handle.reclaim().await.expect("reclaiming ends");
    eventually("the change of keys ends", || handle.file_counts().is_complete).await;
    assert!(handle.file_counts().held_back.is_empty());
    assert!(disk.peek(&old).is_none());
    eventually("the damage is gone", || handle.damages().is_empty()).await;
    assert_eq!(*handle.halted().borrow(), None);
    node.stop();
}

/// What is removed, and what the member says is gone.
async fn remove_under_load(config: Option<EncryptionConfig>, remove: impl Fn(&SimDisk) -> PathBuf) {
    let disk = SimDisk::new();
    let node = start(&disk, config).await;
    let handle = node.handle();
    put(&handle, "before".to_owned()).await.expect("puts");
    eventually("the first flush", || !segments(&disk).is_empty()).await;
    let gone = remove(&disk);
    // Without a write it is noticed, too.
    eventually("the member stops", || handle.halted().borrow().is_some()).await;
    let reason = handle.halted().borrow().clone().expect("it has stopped").0;
    assert!(reason.contains(gone.to_str().expect("plain")), "{reason}");
    assert!(reason.contains("removed, moved away or replaced"), "{reason}");
    put(&handle, "after".to_owned()).await.expect_err("nothing is acknowledged");
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_stops_when_its_files_are_taken_away() {
    let newest = |disk: &SimDisk| segments(disk).pop().expect("there is one");
    let remove = |disk: &SimDisk, path: PathBuf| {
        disk.remove(&path).expect("removes");
        path
    };
    remove_under_load(None, |disk| remove(disk, newest(disk))).await;
    let config = fixture::encryption();
    let keyring = PathBuf::from("/data/member/KEYRING");
    remove_under_load(Some(config), |disk| remove(disk, keyring.clone())).await;
    remove_under_load(None, |disk| {
        disk.rename(Path::new("/data/member"), Path::new("/data/away")).expect("renames");
        PathBuf::from("/data/member/store")
    })
    .await;
}

/// The log is looked at before each answer: of a removed file not even one write is acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn no_write_is_acknowledged_into_a_log_that_is_gone() {
    let disk = SimDisk::new();
    let node = start(&disk, None).await;
    let handle = node.handle();
    put(&handle, "before".to_owned()).await.expect("puts");
    let is_log = |path: &PathBuf| path.extension().is_some_and(|it| it == "wal");
    for path in disk.files().into_iter().filter(is_log) {
        disk.remove(&path).expect("removes");
    }
    put(&handle, "after".to_owned()).await.expect_err("it would be lost");
    eventually("the member stops", || handle.halted().borrow().is_some()).await;
    node.stop();
}
