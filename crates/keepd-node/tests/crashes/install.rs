//! The state of another member is installed, and the power is cut at every mutating call: of the
//! install, and of the start that finishes it. Afterwards the member has its old state or the new one,
//! whole, and remembers its vote.

use std::sync::Arc;

use bytes::Bytes;
use keepd_crypto::FileKeys;
use keepd_env::sim::CrashMode;
use keepd_env::{Disk, SimDisk};
use keepd_machine::StateMachine;
use keepd_member::Layout;
use keepd_mvcc::{StateReader, Store};
use keepd_node::{BootError, DataDir, Installer};
use keepd_types::HardState;
use keepd_wal::{Batch, Wal};
use sim::fixture::{self, options};

use super::{Known, check, command, start, start_with, write};

const MEMBER: &str = "/data/member";
/// The vote that the member gives just before the state comes.
const VOTE: u64 = 7;

/// The part of a state that says which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    revision: i64,
    hash: u32,
    applied: u64,
}

/// The state as a stream, and the one that it replaces.
struct States {
    chunks: Vec<Bytes>,
    old: Identity,
    new: Identity,
    known_old: Known,
    known_new: Known,
    /// A term above all in the new state.
    term: u64,
}

fn open_keys(disk: &SimDisk, seed: u64) -> Result<(DataDir, FileKeys), BootError> {
    let env = fixture::env(disk, seed);
    let dir = DataDir::prepare(&env, &options(), Some(fixture::encryption()))?;
    let keys = dir.encryption().files();
    Ok((dir, keys))
}

fn open_store(disk: &SimDisk, keys: &FileKeys, seed: u64) -> Result<Store, BootError> {
    let (env, dir) = (fixture::env(disk, seed), Layout::store(MEMBER.as_ref()));
    Ok(Store::open(env, &dir, keys.clone(), keepd_mvcc::Options::default())?)
}

fn identity(store: &Store) -> Identity {
    let view = store.views().load();
    let (revision, applied) = (view.revision(), view.applied().index);
    Identity { revision, applied, hash: view.hash_kv(0).expect("the records can be read").hash }
}

/// Has a member write some keys; what is known of them then.
async fn written(disk: &SimDisk, seed: u64, values: std::ops::Range<i64>, known: &mut Known) {
    let node = start(disk, seed).expect("a member starts");
    node.ready().await.expect("a member of its own leads");
    for value in values {
        let key = format!("key-{}", value % 9);
        let done = write(&node.handle(), &command(&key, Some(value))).await;
        known.revision = done.expect("the disk is sound");
        known.values.insert(key, Some(value));
    }
    node.stop();
}

/// A member, and what it would be had it gone on: the state that it is sent.
async fn states() -> (SimDisk, States) {
    let base = SimDisk::new();
    let mut known_old = Known::default();
    written(&base, 1, 0..12, &mut known_old).await;
    let mut known_new = known_old.clone();
    let ahead = base.kill();
    for seed in 2..5 {
        // Each start is another term.
        written(&ahead, seed, 100..110, &mut known_new).await;
    }
    let (_dir, keys) = open_keys(&ahead, 6).expect("the member opens");
    let store = open_store(&ahead, &keys, 6).expect("the store opens");
    let mut reader = StateReader::new(store.views().load());
    let mut chunks = Vec::new();
    while let Some(chunk) = reader.next_chunk().expect("the records can be read") {
        chunks.push(chunk);
    }
    let (term, new) = (reader.head().applied.term, identity(&store));
    let (_old_dir, old_keys) = open_keys(&base, 7).expect("the member opens");
    let old = identity(&open_store(&base, &old_keys, 7).expect("the store opens"));
    assert!(old.applied < new.applied && old.hash != new.hash);
    (base, States { chunks, old, new, known_old, known_new, term: term + 20 })
}

/// The step that an install had come to before the power was cut.
#[derive(Clone, Copy, Debug, Default)]
struct Reached {
    voted: bool,
    /// It was tried to commit, so it may have happened.
    is_begun: bool,
    is_committed: bool,
    is_done: bool,
}

/// Takes the state and installs it as a member does, with the log before the store or after it.
fn install(
    disk: &SimDisk,
    seed: u64,
    states: &States,
    reached: &mut Reached,
) -> Result<(), Box<dyn std::error::Error>> {
    let (dir, keys) = open_keys(disk, seed)?;
    let env = fixture::env(disk, seed);
    let store = open_store(disk, &keys, seed)?;
    let mut machine = StateMachine::new(store, keepd_machine::Options::default())?;
    let (mut wal, _) = Wal::open(env.clone(), &Layout::wal(MEMBER.as_ref()), keys.clone())?;
    if seed.is_multiple_of(3) {
        // Otherwise the state is of a term that the log does not know.
        let commit = wal.hard_state().commit;
        let hard_state = Some(HardState { term: states.term, vote: VOTE, commit });
        wal.append(&Batch { entries: &[], hard_state })?;
        wal.sync()?;
        reached.voted = true;
    }
    let installer = Installer::new(env, MEMBER.into(), keys);
    let mut writer = installer.begin(dir.encryption().readable())?;
    for chunk in &states.chunks {
        writer.push(chunk)?;
    }
    let staged = writer.finish()?;
    reached.is_begun = true;
    installer.commit(&staged)?;
    reached.is_committed = true;
    let applied = staged.head.applied;
    if seed.is_multiple_of(2) {
        wal.reset(applied.index, applied.term)?;
        installer.switch(&mut machine)?;
    } else {
        installer.switch(&mut machine)?;
        wal.reset(applied.index, applied.term)?;
    }
    installer.finish()?;
    installer.discard()?;
    reached.is_done = true;
    drop((machine, wal, dir));
    Ok(())
}

/// Starts on an image: one of the two states is there, whole, and so is the vote.
async fn check_image(image: &SimDisk, seed: u64, states: &States, reached: Reached, what: &str) {
    if reached.voted {
        let (_dir, keys) = open_keys(image, seed).unwrap_or_else(|error| panic!("{what}: {error}"));
        let env = fixture::env(image, seed);
        let log = Wal::read(&env, &Layout::wal(MEMBER.as_ref()), &keys);
        let found = log.unwrap_or_else(|error| panic!("{what}: {error}")).hard_state;
        assert_eq!((found.term, found.vote), (states.term, VOTE), "{what}: a vote is forgotten");
    }
    // A start without its parts: completes the install and touches nothing else.
    let completed = image.kill();
    let node = start_with(&completed, seed, options()).unwrap_or_else(|e| panic!("{what}: {e}"));
    let revision = node.handle().view().revision();
    node.stop();
    let is_new = revision >= states.new.revision;
    assert!(is_new || !reached.is_committed, "{what}: a committed install is gone");
    assert!(!is_new || reached.is_begun, "{what}: an install that nobody wanted");
    let names = completed.list(MEMBER.as_ref()).expect("the member is there");
    assert!(names.iter().all(|name| !name.starts_with("INSTALL") && name != "incoming"), "{what}");
    let (_dir, keys) = open_keys(&completed, seed).unwrap_or_else(|e| panic!("{what}: {e}"));
    let found = identity(&open_store(&completed, &keys, seed).expect("the store opens"));
    let expected = if is_new { states.new } else { states.old };
    assert_eq!((found.revision, found.hash), (expected.revision, expected.hash), "{what}");
    if reached.voted {
        let env = fixture::env(&completed, seed);
        let log = Wal::read(&env, &Layout::wal(MEMBER.as_ref()), &keys).expect("the log is whole");
        assert!(log.hard_state.term >= states.term, "{what}: a vote is forgotten");
    }
    let known = if is_new { &states.known_new } else { &states.known_old };
    check(image, seed, known, what).await;
}

fn modes(seed: u64) -> [CrashMode; 4] {
    [
        CrashMode::LoseUnsynced,
        CrashMode::WrittenBack,
        CrashMode::Torn { seed },
        CrashMode::Random { seed },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_at_any_call_of_an_install_leaves_the_old_state_or_the_new_one() {
    let (base, states) = states().await;
    let (mut committed, mut abandoned) = (0, 0);
    for n in 0.. {
        let disk = base.kill();
        disk.crash_at(n);
        let mut reached = Reached::default();
        let seed = 100 + n;
        let ended = install(&disk, seed, &states, &mut reached);
        assert_eq!(ended.is_ok(), reached.is_done);
        committed += u64::from(reached.is_committed);
        abandoned += u64::from(!reached.is_begun);
        for mode in modes(n) {
            let what = format!("cut at call {n}, {mode:?}, {reached:?}");
            check_image(&disk.crash(mode), 9000 + n, &states, reached, &what).await;
        }
        let what = format!("killed at call {n}, {reached:?}");
        let killed = disk.kill();
        check_image(&killed, 9000 + n, &states, reached, &what).await;
        if reached.is_done {
            break;
        }
    }
    assert!(committed > 10 && abandoned > 10, "{committed} committed, {abandoned} abandoned");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_at_any_call_of_the_start_that_finishes_an_install_loses_nothing() {
    let (base, states) = states().await;
    // Each of them was committed and is not done; the start has all of the rest to do, or less.
    let mut images = Vec::new();
    for n in 0.. {
        let disk = base.kill();
        disk.crash_at(n);
        let mut reached = Reached::default();
        let _ended = install(&disk, 100 + n, &states, &mut reached);
        if reached.is_done {
            break;
        }
        if reached.is_committed {
            images.push((disk.crash(CrashMode::LoseUnsynced), reached));
            images.push((disk.kill(), reached));
        }
    }
    assert!(images.len() > 10, "{} images", images.len());
    for (at, (image, reached)) in (0..).zip(images) {
        for n in 0.. {
            let disk = image.kill();
            disk.crash_at(n);
            let started = start(&disk, 500 + n);
            let is_started = started.is_ok();
            started.map(keepd_node::Node::stop).ok();
            let mode = modes(n)[usize::try_from(n).expect("few calls") % 4];
            let what = format!("image {at}, the start cut at call {n}, {mode:?}");
            let left = Arc::new(disk.crash(mode));
            let completed = start(&left, 600 + n).unwrap_or_else(|error| panic!("{what}: {error}"));
            let revision = completed.handle().view().revision();
            completed.stop();
            assert!(revision >= states.new.revision, "{what}: the install is gone");
            check(&left, 700 + n, &states.known_new, &what).await;
            assert!(reached.is_committed);
            if is_started {
                break;
            }
        }
    }
}
