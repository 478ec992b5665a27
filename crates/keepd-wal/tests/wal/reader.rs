//! Entries read back while the log is written: always those that a sync confirmed, in their newest
//! version.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use keepd_crypto::FileKeys;
use keepd_env::{Random, SeededRandom, SimDisk};
use keepd_wal::{Batch, Entry, Error, HardState, Page, Wal, WalReader};
use proptest::prelude::*;

use super::world::{State, create, entries, open, script, sealing, segment_paths};

/// Reads a whole range page by page; `None` if it is not in the log any more.
fn read_all(reader: &mut WalReader, range: Range<u64>, bytes_max: usize) -> Option<Vec<Entry>> {
    let mut found: Vec<Entry> = Vec::new();
    let mut low = range.start;
    while low < range.end {
        match reader.read(low..range.end, bytes_max).unwrap() {
            Page::Compacted => return None,
            Page::Entries(page) if page.is_empty() => break,
            Page::Entries(page) => {
                let bytes: usize = page.iter().map(|entry| entry.data.len()).sum();
                assert!(bytes <= bytes_max || page.len() == 1, "a page is bounded");
                low += page.len() as u64;
                found.extend(page);
            }
        }
    }
    Some(found)
}

fn append(wal: &mut Wal, entries: &[Entry]) {
    wal.append(&Batch { entries, hard_state: None }).unwrap();
}

#[test]
fn only_what_is_synced_is_read() {
    let disk = SimDisk::new();
    let mut wal = create(&disk, &sealing()).unwrap();
    let mut reader = wal.reader();
    append(&mut wal, &entries(1, 1, 3, 10));
    assert_eq!(reader.read(1..4, 1000).unwrap(), Page::Entries(vec![]));
    wal.sync().unwrap();
    assert_eq!(reader.read(1..4, 1000).unwrap(), Page::Entries(entries(1, 1, 3, 10)));
    assert_eq!(reader.read(2..3, 1000).unwrap(), Page::Entries(entries(2, 1, 1, 10)));
    assert_eq!(reader.read(0..4, 1000).unwrap(), Page::Compacted);
    assert_eq!(reader.read(4..9, 1000).unwrap(), Page::Entries(vec![]));
}

#[test]
fn an_entry_that_was_replaced_is_read_in_its_newest_version() {
    let disk = SimDisk::new();
    let mut wal = create(&disk, &sealing()).unwrap();
    let mut reader = wal.reader();
    append(&mut wal, &entries(1, 1, 40, 100));
    wal.sync().unwrap();
    assert_eq!(read_all(&mut reader, 1..41, 500), Some(entries(1, 1, 40, 100)));
    append(&mut wal, &entries(5, 2, 3, 100));
    wal.sync().unwrap();
    let newest = [entries(1, 1, 4, 100), entries(5, 2, 3, 100)].concat();
    assert_eq!(read_all(&mut reader, 1..41, 500), Some(newest));
}

#[test]
fn one_entry_is_read_however_large() {
    let disk = SimDisk::new();
    let mut wal = create(&disk, &FileKeys::plain()).unwrap();
    append(&mut wal, &entries(1, 1, 2, 1_000_000));
    wal.sync().unwrap();
    let page = wal.reader().read(1..3, 1).unwrap();
    assert_eq!(page, Page::Entries(entries(1, 1, 1, 1_000_000)));
}

#[test]
fn a_released_segment_is_compacted_and_a_missing_one_is_an_error() {
    let disk = SimDisk::new();
    let mut wal = create(&disk, &sealing()).unwrap();
    let mut reader = wal.reader();
    for first in 1..60 {
        append(&mut wal, &entries(first, 1, 1, 200));
        wal.sync().unwrap();
    }
    assert!(segment_paths(&disk).len() > 3, "there are several segments");
    assert_eq!(read_all(&mut reader, 1..9, 300), Some(entries(1, 1, 8, 200)));
    wal.release(30, 1).unwrap();
    assert_eq!(reader.read(9..20, 300).unwrap(), Page::Compacted);
    assert_eq!(read_all(&mut reader, 31..60, 300), Some(entries(31, 1, 29, 200)));
    let gone = segment_paths(&disk).remove(0);
    super::world::env(&disk, 1).disk.remove(&gone).unwrap();
    let error = reader.read(31..60, 300).unwrap_err();
    assert!(matches!(&error, Error::Io(error) if error.is_not_found()), "{error}");
}

#[test]
fn damage_is_an_error_that_names_the_place() {
    let disk = SimDisk::new();
    let mut wal = create(&disk, &sealing()).unwrap();
    append(&mut wal, &entries(1, 1, 3, 50));
    wal.sync().unwrap();
    let path = segment_paths(&disk).remove(0);
    let mut bytes = disk.peek(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[end] ^= 1;
    disk.poke(&path, &bytes);
    let error = wal.reader().read(1..4, 1000).unwrap_err();
    assert!(matches!(&error, Error::Corrupt { path: at, .. } if *at == path), "{error}");
}

#[test]
fn a_reader_keeps_up_with_a_writer_in_another_thread() {
    const LAST: u64 = 3000;
    let disk = SimDisk::new();
    let mut wal = create(&disk, &sealing()).unwrap();
    let mut readers = [wal.reader(), wal.reader()];
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (which, reader) in readers.iter_mut().enumerate() {
            let is_done = &is_done;
            scope.spawn(move || {
                let mut next = 1;
                while next <= LAST {
                    let was_done = is_done.load(Ordering::Acquire);
                    match reader.read(next..LAST + 1, 400 + which * 5000).unwrap() {
                        Page::Compacted => next += 50,
                        Page::Entries(page) => {
                            assert!(!was_done || !page.is_empty(), "all is readable at the end");
                            assert_eq!(page, entries(next, 1, page.len() as u64, 60));
                            next += page.len() as u64;
                        }
                    }
                }
            });
        }
        for first in (1..LAST).step_by(3) {
            append(&mut wal, &entries(first, 1, 3, 60));
            wal.sync().unwrap();
            if first % 500 == 1 && first > 1000 {
                wal.release(first - 1000, 1).unwrap();
            }
        }
        is_done.store(true, Ordering::Release);
    });
}

/// Random scripts against the model: after each step that makes it durable, pages from anywhere.
fn check(seed: u64, steps: usize, keys: &FileKeys) {
    let random = SeededRandom::new(seed);
    let below = |bound: u64| (random.next_u64() >> 16) % bound;
    let disk = SimDisk::new();
    let mut wal = create(&disk, keys).unwrap();
    let mut reader = wal.reader();
    let mut state = State::default();
    for (step, op) in script(seed, steps).iter().enumerate() {
        op.run(&mut wal).unwrap();
        state = op.outcomes(&state).pop().unwrap();
        if step % 17 == 16 {
            drop(wal);
            (wal, _) = open(&disk, keys, seed ^ step as u64).unwrap();
            reader = wal.reader();
        } else if wal.is_dirty() {
            continue;
        }
        for _ in 0..4 {
            let low = below(state.last_index() + 2);
            let high = low + below(20);
            let page = read_all(&mut reader, low..high, usize::try_from(below(900)).unwrap());
            if low <= state.start.index && low < high {
                assert_eq!(page, None, "{low}..{high} of {state:?}");
                continue;
            }
            let is_wanted = |entry: &&Entry| (low..high).contains(&entry.index);
            let expected: Vec<Entry> = state.entries.iter().filter(is_wanted).cloned().collect();
            assert_eq!(page, Some(expected), "{low}..{high} of {state:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn pages_are_what_the_log_holds(seed: u64, steps in 1_usize..150, is_sealed: bool) {
        let keys = if is_sealed { sealing() } else { FileKeys::plain() };
        check(seed, steps, &keys);
    }
}

/// Places where pages ended do not lead past what replaces it later.
#[test]
fn a_page_continues_where_the_last_one_ended_also_after_an_overwrite() {
    let disk = SimDisk::new();
    let mut wal = create(&disk, &sealing()).unwrap();
    let mut reader = wal.reader();
    append(&mut wal, &entries(1, 1, 30, 100));
    wal.sync().unwrap();
    assert_eq!(read_all(&mut reader, 1..11, 250), Some(entries(1, 1, 10, 100)));
    append(&mut wal, &entries(8, 2, 30, 100));
    let hard_state = Some(HardState { term: 2, vote: 0, commit: 20 });
    wal.append(&Batch { entries: &[], hard_state }).unwrap();
    wal.sync().unwrap();
    assert_eq!(read_all(&mut reader, 11..38, 250), Some(entries(11, 2, 27, 100)));
    let again = [entries(1, 1, 7, 100), entries(8, 2, 30, 100)].concat();
    assert_eq!(read_all(&mut reader, 1..38, 250), Some(again));
}
