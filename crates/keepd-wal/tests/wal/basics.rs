//! Guarantees of the log to its callers, one a test.

use std::collections::BTreeSet;

use keepd_crypto::{FILE_HEADER_LEN, FileKeys};
use keepd_env::sim::CrashMode;
use keepd_env::{Env, IoOp, SimDisk};
use keepd_wal::{Batch, Dump, Entry, Error, HardState, LogStart, Options, Record, Wal};

use super::world::{
    METADATA, State, bytes_of, create, dir, entries, entry, env, open, read, sealing, segment_paths,
};

fn append(wal: &mut Wal, entries: &[Entry]) {
    wal.append(&Batch { entries, hard_state: None }).unwrap();
}

#[test]
fn a_batch_is_one_write_and_one_sync() {
    let disk = SimDisk::new();
    let options = Options::default();
    let (env, dir) = (env(&disk, 1), dir());
    let start = LogStart::default();
    let mut wal = Wal::create_with(env, &dir, FileKeys::plain(), options, METADATA, start).unwrap();
    disk.record_calls();
    for batch in 0..10 {
        append(&mut wal, &entries(1 + 100 * batch, 1, 100, 200));
        wal.sync().unwrap();
        wal.sync().unwrap();
    }
    let calls: Vec<IoOp> = disk.recorded_calls().iter().map(|call| call.op).collect();
    assert_eq!(calls, [IoOp::Write, IoOp::Sync].repeat(10));
}

#[test]
fn a_log_is_created_once_and_must_exist_to_be_opened() {
    let (disk, keys) = (SimDisk::new(), FileKeys::plain());
    assert!(!Wal::exists(&env(&disk, 1), &dir()).unwrap());
    assert!(matches!(open(&disk, &keys, 1), Err(Error::NotFound { .. })));
    drop(create(&disk, &keys).unwrap());
    assert!(Wal::exists(&env(&disk, 1), &dir()).unwrap());
    assert!(matches!(create(&disk, &keys), Err(Error::Exists { .. })));
}

#[test]
fn a_new_log_may_start_after_an_index() {
    let (disk, keys) = (SimDisk::new(), sealing());
    let start = LogStart { index: 500, term: 7 };
    let mut wal = Wal::create(env(&disk, 1), &dir(), keys.clone(), METADATA, start).unwrap();
    assert_eq!((wal.last_index(), wal.term(500), wal.hard_state().commit), (500, Some(7), 500));
    append(&mut wal, &entries(501, 7, 1, 10));
    wal.sync().unwrap();
    let recovered = read(&disk, &keys).unwrap();
    assert_eq!((recovered.start, recovered.hard_state.commit), (start, 500));
    assert_eq!(recovered.entries, entries(501, 7, 1, 10));
}

#[test]
fn every_opening_begins_a_new_file_with_a_fresh_salt() {
    let (disk, keys) = (SimDisk::new(), sealing());
    drop(create(&disk, &keys).unwrap());
    let mut headers = BTreeSet::new();
    for restart in 0..5 {
        // Sequence numbers rise even when an empty segment is replaced.
        let (mut wal, _) = open(&disk, &keys, 50 + restart).unwrap();
        let active = wal.segments().pop().unwrap();
        headers.insert(bytes_of(&disk, &active.path)[..FILE_HEADER_LEN].to_vec());
        if restart % 2 == 0 {
            let next = wal.last_index() + 1;
            append(&mut wal, &entries(next, 1, 1, 10));
        }
    }
    assert_eq!(headers.len(), 5);
}

#[test]
fn restarts_without_writes_do_not_pile_up_files() {
    let (disk, keys) = (SimDisk::new(), FileKeys::plain());
    let mut wal = create(&disk, &keys).unwrap();
    append(&mut wal, &entries(1, 1, 3, 10));
    wal.close().unwrap();
    for restart in 0..10 {
        let (wal, recovered) = open(&disk, &keys, restart).unwrap();
        assert_eq!(recovered.entries.len(), 3);
        wal.close().unwrap();
    }
    assert_eq!(segment_paths(&disk).len(), 2);
}

#[test]
fn nothing_is_plain_on_the_disk() {
    let canary = b"a secret that must not be found";
    let mut secret = entry(1, 1, 0);
    secret.data = canary.to_vec().into();
    for (keys, is_found) in [(sealing(), false), (FileKeys::plain(), true)] {
        let disk = SimDisk::new();
        let mut wal = create(&disk, &keys).unwrap();
        append(&mut wal, std::slice::from_ref(&secret));
        wal.sync().unwrap();
        assert_eq!(disk.find(canary).is_some(), is_found);
        assert_eq!(disk.find(METADATA).is_some(), is_found);
    }
}

#[test]
fn a_log_of_another_key_is_refused_by_name() {
    let disk = SimDisk::new();
    drop(create(&disk, &sealing()).unwrap());
    let error = read(&disk, &FileKeys::plain()).unwrap_err();
    assert!(matches!(error, Error::Unreadable { .. }));
    assert!(error.to_string().contains("data key 1"), "{error}");
}

#[test]
fn a_large_batch_is_cut_into_frames_and_a_large_entry_has_its_own() {
    let (disk, keys) = (SimDisk::new(), sealing());
    let mut wal = create(&disk, &keys).unwrap();
    let mut all = entries(1, 1, 20, 100);
    all.push(entry(21, 1, 5000));
    all.push(entry(22, 1, 3));
    let hard_state = HardState { term: 1, vote: 2, commit: 22 };
    wal.append(&Batch { entries: &all, hard_state: Some(hard_state) }).unwrap();
    let frames: Vec<usize> = Dump::new(env(&disk, 1), &dir(), keys.clone())
        .unwrap()
        .filter_map(|frame| match frame.unwrap().record {
            Record::Batch(batch) => Some(batch.entries.len()),
            _ => None,
        })
        .collect();
    assert_eq!(frames, [2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1]);
    let recovered = read(&disk, &keys).unwrap();
    assert_eq!((recovered.entries, recovered.hard_state), (all, hard_state));
}

#[test]
fn an_entry_beyond_a_frame_is_refused_and_nothing_is_written() {
    let (disk, keys) = (SimDisk::new(), FileKeys::plain());
    let mut wal = create(&disk, &keys).unwrap();
    let huge = Entry { index: 1, term: 1, data: vec![0; 64 << 20].into(), ..Entry::default() };
    let before = disk.calls();
    let batch = Batch { entries: &[huge], hard_state: None };
    assert!(matches!(wal.append(&batch), Err(Error::EntryTooLarge { index: 1, .. })));
    assert_eq!(disk.calls(), before);
}

#[test]
fn an_installed_snapshot_replaces_the_log() {
    let (disk, keys) = (SimDisk::new(), FileKeys::plain());
    let mut wal = create(&disk, &keys).unwrap();
    append(&mut wal, &entries(1, 1, 30, 200));
    wal.release(20, 3).unwrap();
    assert_eq!((wal.last_index(), wal.term(20), wal.term(21)), (20, Some(3), None));
    append(&mut wal, &entries(21, 3, 1, 10));
    wal.sync().unwrap();
    let recovered = read(&disk.crash(CrashMode::LoseUnsynced), &keys).unwrap();
    assert_eq!(recovered.start, LogStart { index: 20, term: 3 });
    assert_eq!(recovered.entries, entries(21, 3, 1, 10));
    assert_eq!(recovered.hard_state.commit, 20);
}

#[test]
fn released_segments_give_their_space_back() {
    let (disk, keys) = (SimDisk::new(), FileKeys::plain());
    let mut wal = create(&disk, &keys).unwrap();
    for batch in 0..50 {
        append(&mut wal, &entries(1 + 2 * batch, 1, 2, 150));
        wal.sync().unwrap();
    }
    assert!(wal.segments().len() > 5);
    wal.release(100, 1).unwrap();
    wal.rotate().unwrap();
    wal.release(100, 1).unwrap();
    assert_eq!(wal.segments().len(), 1);
    assert_eq!(segment_paths(&disk), [wal.segments()[0].path.clone()]);
    let recovered = read(&disk.crash(CrashMode::LoseUnsynced), &keys).unwrap();
    assert_eq!((recovered.start.index, recovered.entries.len()), (100, 0));
}

#[test]
fn the_dump_shows_overwritten_entries_and_goes_on_after_damage() {
    let (disk, keys) = (SimDisk::new(), sealing());
    let mut wal = create(&disk, &keys).unwrap();
    append(&mut wal, &entries(1, 1, 2, 20));
    append(&mut wal, &entries(2, 2, 1, 20));
    wal.rotate().unwrap();
    append(&mut wal, &entries(3, 2, 1, 20));
    wal.close().unwrap();
    let dump = || Dump::new(env(&disk, 1), &dir(), keys.clone()).unwrap();
    let frames: Vec<_> = dump().map(Result::unwrap).collect();
    let shown: Vec<u64> = frames
        .iter()
        .flat_map(|frame| match &frame.record {
            Record::Batch(batch) => batch.entries.iter().map(|e| e.index).collect(),
            _ => Vec::new(),
        })
        .collect();
    assert_eq!(shown, [1, 2, 2, 3]);
    assert!(matches!(frames.last().unwrap().record, Record::Closed(_)));
    let second = &frames[1];
    assert!(disk.flip(&second.path, second.offset + 20, 1));
    let results: Vec<_> = dump().collect();
    let errors = results.iter().filter(|result| result.is_err()).count();
    assert_eq!((results.len(), errors), (frames.len() - 1, 1));
}

#[test]
fn the_log_works_on_the_machines_own_disk() {
    let root = std::env::temp_dir().join(format!("keepd-wal-{}", std::process::id()));
    let dir = root.join("wal");
    let env = Env::real();
    let keys = FileKeys::ephemeral(env.random.as_ref());
    let start = LogStart::default();
    let mut wal = Wal::create(env.clone(), &dir, keys.clone(), METADATA, start).unwrap();
    append(&mut wal, &entries(1, 1, 100, 1000));
    wal.sync().unwrap();
    drop(wal);
    let (wal, recovered) = Wal::open(env.clone(), &dir, keys).unwrap();
    assert_eq!(recovered.entries, entries(1, 1, 100, 1000));
    wal.close().unwrap();
    env.disk.remove_dir_all(&root).unwrap();
}

#[test]
fn a_reset_begins_a_new_log_and_keeps_the_vote() {
    let (disk, keys) = (SimDisk::new(), sealing());
    let mut wal = create(&disk, &keys).unwrap();
    let voted = HardState { term: 4, vote: 7, commit: 3 };
    for first in [1, 6, 11] {
        let entries = entries(first, 2, 5, 400);
        wal.append(&Batch { entries: &entries, hard_state: Some(voted) }).unwrap();
    }
    wal.reset(12, 4).unwrap();
    assert_eq!(segment_paths(&disk).len(), 1, "the older segments are gone");
    let expected = |term, vote, index| State {
        start: LogStart { index, term },
        hard_state: HardState { term, vote, commit: index },
        entries: Vec::new(),
    };
    let found = || State::of(&read(&disk, &keys).unwrap());
    assert_eq!(found(), expected(4, 7, 12));
    // It starts there already: what was appended since is not touched.
    let more = entries(13, 4, 2, 9);
    wal.append(&Batch { entries: &more, hard_state: None }).unwrap();
    wal.sync().unwrap();
    wal.reset(12, 4).unwrap();
    wal.reset(5, 4).unwrap();
    assert_eq!(found().entries, more);
    // In a term that it did not know it has given no vote.
    wal.reset(20, 6).unwrap();
    assert_eq!(found(), expected(6, 0, 20));
}

#[test]
fn a_reset_to_an_entry_of_the_log_keeps_what_follows_it() {
    let (disk, keys) = (SimDisk::new(), sealing());
    let mut wal = create(&disk, &keys).unwrap();
    let all = entries(1, 2, 5, 40);
    wal.append(&Batch { entries: &all, hard_state: None }).unwrap();
    wal.reset(3, 2).unwrap();
    assert_eq!(read(&disk, &keys).unwrap().entries, all[3..]);
}
