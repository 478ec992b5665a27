//! Damage to every byte, length and block of a small log: detected or harmless, never silent.

use std::ops::Range;
use std::path::{Path, PathBuf};

use keepd_crypto::{FILE_HEADER_LEN, FileKeys, FileKind, FrameError};
use keepd_env::sim::CrashMode;
use keepd_env::{SeededRandom, SimDisk};
use keepd_types::varint::write_u64;
use keepd_wal::{
    Batch, BatchRecord, Dump, DumpedFrame, Error, HardState, LogStart, Record, RecordError,
    SegmentHeader,
};

use super::world::{
    State, bytes_of, create, create_seeded, dir, entries, env, open, read, sealing, segment_paths,
};

/// A log of several segments, with restarts and overwrites; everything in it is synced.
struct Sample {
    disk: SimDisk,
    keys: FileKeys,
    state: State,
    segments: Vec<PathBuf>,
    /// The frames of the last segment: where each begins and ends, and the state before it.
    tail: Vec<(Range<usize>, State)>,
}

impl Sample {
    fn new(keys: FileKeys, is_closed: bool) -> Self {
        Self::with_seed(keys, is_closed, 1)
    }

    fn with_seed(keys: FileKeys, is_closed: bool, seed: u64) -> Self {
        let disk = SimDisk::new();
        let mut wal = create_seeded(&disk, &keys, seed).unwrap();
        let mut state = State::default();
        let mut next = 1;
        for step in 0_u64..16 {
            let term = 1 + step / 4;
            let batch = entries(next, term, 1 + step % 3, 40 + 9 * usize::try_from(step).unwrap());
            let hard_state = (step % 2 == 0).then_some(HardState {
                term,
                vote: 1,
                commit: next.saturating_sub(4),
            });
            let batch = Batch { entries: &batch, hard_state };
            wal.append(&batch).unwrap();
            wal.sync().unwrap();
            state = state.after(&batch, batch.entries.len());
            // Now and then the last entry is replaced in the next step.
            next = state.last_index() + 1 - u64::from(step % 5 == 4);
            if step == 9 {
                drop(wal);
                wal = open(&disk, &keys, seed + 100).unwrap().0;
            }
        }
        if is_closed {
            wal.close().unwrap();
        }
        let segments = segment_paths(&disk);
        assert!(segments.len() >= 3);
        let last = segments.last().unwrap();
        let dump = Dump::new(env(&disk, 1), &dir(), keys.clone()).unwrap();
        let (mut tail, mut before): (Vec<(Range<usize>, State)>, _) =
            (Vec::new(), State::default());
        for frame in dump.map(Result::unwrap) {
            let start = usize::try_from(frame.offset).unwrap();
            if let Some((previous, _)) = tail.last_mut() {
                previous.end = start;
            }
            if frame.path == *last && frame.frame > 0 {
                tail.push((start..content_len(&bytes_of(&disk, last)), before.clone()));
            }
            if let Record::Batch(BatchRecord { entries, hard_state, .. }) = &frame.record {
                let batch = Batch { entries, hard_state: *hard_state };
                before = before.after(&batch, entries.len());
            }
        }
        assert_eq!(before, state);
        assert!(tail.len() > 1);
        Self { disk, keys, state, segments, tail }
    }

    /// Place of the last batch in the last segment, which nothing after it proves to have been
    /// synced; after an orderly end, the closing frame.
    fn zone(&self) -> Range<usize> {
        self.tail.last().unwrap().0.clone()
    }

    /// Reads the log with the bytes of one file changed within `damage`. `true` if that was
    /// detected. Only damage that reaches the zone may cost batches, and none in front of it.
    fn check(&self, path: &Path, bytes: &[u8], damage: Range<usize>, what: &str) -> bool {
        let original = bytes_of(&self.disk, path);
        self.disk.poke(path, bytes);
        let result = read(&self.disk, &self.keys);
        self.disk.poke(path, &original);
        let Ok(recovered) = result else { return true };
        let state = State::of(&recovered);
        if state == self.state {
            return false;
        }
        assert!(self.touches_zone(path, &damage), "{what}: silently lost");
        let mut hit = self.tail.iter().filter(|(frame, _)| frame.end > damage.start);
        assert!(hit.any(|(_, before)| *before == state), "{what}: {state:?}");
        true
    }

    /// Valid length of a segment. What a start carried over lies after that, and nobody reads it.
    fn used(&self, path: &Path) -> usize {
        let position = self.segments.iter().position(|other| other == path).unwrap();
        let Some(next) = self.segments.get(position + 1) else {
            return content_len(&bytes_of(&self.disk, path));
        };
        let mut dump = Dump::new(env(&self.disk, 1), &dir(), self.keys.clone()).unwrap();
        let head = dump.find_map(|frame| match frame.unwrap() {
            DumpedFrame { path, record: Record::Head(head), .. } if path == *next => Some(head),
            _ => None,
        });
        let link = head.and_then(|head| head.previous).unwrap();
        usize::try_from(link.end.offset).unwrap()
    }

    fn touches_zone(&self, path: &Path, range: &Range<usize>) -> bool {
        let is_last = self.segments.last().is_some_and(|last| last == path);
        let zone = self.zone();
        is_last && range.start < zone.end && zone.start < range.end
    }
}

/// The length without the zeros at the end.
fn content_len(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

fn samples() -> impl Iterator<Item = Sample> {
    let choices = [(false, false), (false, true), (true, false), (true, true)];
    choices.into_iter().map(|(is_sealed, is_closed)| {
        Sample::new(if is_sealed { sealing() } else { FileKeys::plain() }, is_closed)
    })
}

#[test]
fn every_changed_byte_is_detected_or_harmless() {
    for sample in samples() {
        for path in &sample.segments {
            let original = bytes_of(&sample.disk, path);
            let used = sample.used(path);
            for at in 0..original.len() {
                for change in [|b: u8| b ^ 1, |b: u8| b ^ 0xff, |_: u8| 0] {
                    let mut bytes = original.clone();
                    bytes[at] = change(bytes[at]);
                    if bytes == original {
                        continue;
                    }
                    let is_in_zone = sample.touches_zone(path, &(at..at + 1));
                    let what = format!("{} byte {at}", path.display());
                    let is_detected = sample.check(path, &bytes, at..at + 1, &what);
                    assert!(is_detected || is_in_zone || at >= used, "{what}: not detected");
                }
            }
        }
    }
}

#[test]
fn after_an_orderly_end_every_batch_is_proven() {
    let sample = Sample::new(sealing(), true);
    let last = sample.segments.last().unwrap();
    let original = bytes_of(&sample.disk, last);
    // The zone is the closing frame alone: a flip before it is an error, one in it costs nothing.
    for at in [sample.zone().start - 1, sample.zone().start - 40, 100] {
        let mut bytes = original.clone();
        bytes[at] ^= 4;
        assert!(sample.check(last, &bytes, at..at + 1, "before the closing frame"));
    }
    for at in sample.zone() {
        let mut bytes = original.clone();
        bytes[at] ^= 4;
        assert!(!sample.check(last, &bytes, at..at + 1, "in the closing frame"));
    }
}

#[test]
fn every_shortened_file_is_detected_or_harmless() {
    for sample in samples() {
        for path in &sample.segments {
            let original = bytes_of(&sample.disk, path);
            let used = sample.used(path);
            for len in 0..original.len() {
                let what = format!("{} cut to {len}", path.display());
                let is_detected = sample.check(path, &original[..len], len..used, &what);
                assert!(is_detected || len >= used, "{what}: not detected");
            }
        }
    }
}

#[test]
fn zeroed_swapped_and_repeated_blocks_are_detected_or_harmless() {
    const BLOCK: usize = 128;
    for sample in samples() {
        for path in &sample.segments {
            let original = bytes_of(&sample.disk, path);
            let blocks = original.len() / BLOCK;
            for (from, to) in (0..blocks).flat_map(|a| (0..blocks).map(move |b| (a, b))) {
                let (a, b) = (from * BLOCK..(from + 1) * BLOCK, to * BLOCK..(to + 1) * BLOCK);
                let damage = a.start.min(b.start)..a.end.max(b.end);
                let mut repeated = original.clone();
                repeated.copy_within(a.clone(), b.start);
                let what = format!("{} block {from} over {to}", path.display());
                sample.check(path, &repeated, b.clone(), &what);
                let mut swapped = repeated;
                swapped[a.clone()].copy_from_slice(&original[b.clone()]);
                sample.check(path, &swapped, damage, &format!("{what}, swapped"));
                let mut zeroed = original.clone();
                zeroed[a.clone()].fill(0);
                sample.check(path, &zeroed, a, &format!("{what}, zeroed"));
            }
        }
    }
}

#[test]
fn removed_and_inserted_bytes_are_detected_or_harmless() {
    for sample in samples() {
        for path in &sample.segments {
            let original = bytes_of(&sample.disk, path);
            for at in 0..content_len(&original) {
                let damage = at..original.len();
                let mut removed = original.clone();
                removed.remove(at);
                removed.push(0);
                sample.check(path, &removed, damage.clone(), &format!("byte {at} removed"));
                let mut inserted = original.clone();
                inserted.insert(at, 0x55);
                sample.check(path, &inserted, damage, &format!("byte {at} inserted"));
            }
        }
    }
}

#[test]
fn a_missing_swapped_or_older_segment_is_detected() {
    for sample in samples() {
        let (disk, keys, paths) = (&sample.disk, &sample.keys, &sample.segments);
        let (last, older) = paths.split_last().unwrap();
        for path in older {
            let copy = disk.crash(CrashMode::WrittenBack);
            keepd_env::Disk::remove(&copy, path).unwrap();
            assert!(matches!(read(&copy, keys), Err(Error::MissingSegment { .. })));
            let other = bytes_of(disk, last);
            assert!(sample.check(path, &other, 0..0, "another segment's content"));
        }
    }
    // The same log written once more has other salts, so its files cannot stand in.
    let keys = sealing();
    let (sample, twin) =
        (Sample::with_seed(keys.clone(), false, 1), Sample::with_seed(keys, false, 2));
    assert_eq!((&sample.state, &sample.segments), (&twin.state, &twin.segments));
    for path in &sample.segments {
        assert!(sample.check(path, &bytes_of(&twin.disk, path), 0..0, "a twin's"));
    }
}

/// A log with one synced batch, and its file.
fn one_batch(keys: &FileKeys) -> (SimDisk, PathBuf, Vec<u8>) {
    let disk = SimDisk::new();
    let mut wal = create(&disk, keys).unwrap();
    wal.append(&Batch { entries: &entries(1, 1, 1, 50), hard_state: None }).unwrap();
    wal.sync().unwrap();
    let path = segment_paths(&disk).pop().unwrap();
    let bytes = bytes_of(&disk, &path);
    (disk, path, bytes)
}

#[test]
fn a_whole_frame_in_a_wrong_place_is_damage_even_at_the_end() {
    for keys in [FileKeys::plain(), sealing()] {
        let (disk, path, bytes) = one_batch(&keys);
        let frames = Dump::new(env(&disk, 1), &dir(), keys.clone()).unwrap();
        let start = usize::try_from(frames.last().unwrap().unwrap().offset).unwrap();
        let mut moved = bytes.clone();
        moved.insert(start, 1);
        disk.poke(&path, &moved);
        assert!(matches!(read(&disk, &keys), Err(Error::Corrupt { frame: 1, .. })), "moved");

        let sealer = keys.open(FileKind::Wal, 1, &bytes).unwrap();
        let mut later = Vec::new();
        sealer.seal_frame(3, 2, &[0, 0, 0, 0], &mut later).unwrap();
        let end = content_len(&bytes);
        let mut skipped = bytes.clone();
        skipped[end..end + later.len()].copy_from_slice(&later);
        disk.poke(&path, &skipped);
        assert!(matches!(read(&disk, &keys), Err(Error::Corrupt { frame: 2, .. })), "skipped");
    }
}

/// A header frame's payload, as `docs/formats/wal.md` says.
fn head_payload(head: &SegmentHeader) -> Vec<u8> {
    let mut out = vec![1];
    let number = |number: u64, out: &mut Vec<u8>| write_u64(number, out);
    for field in [head.reserved, head.first_index, head.start.index, head.start.term] {
        number(field, &mut out);
    }
    let HardState { term, vote, commit } = head.hard_state;
    [term, vote, commit].into_iter().for_each(|field| number(field, &mut out));
    let link = head.previous.unwrap();
    out.push(1);
    number(link.sequence, &mut out);
    out.extend(link.header);
    number(link.end.frames, &mut out);
    number(link.end.offset, &mut out);
    out.extend(link.end.chain.to_le_bytes());
    number(head.metadata.len() as u64, &mut out);
    out.extend(&head.metadata);
    out
}

#[test]
fn a_head_that_says_something_else_than_the_segments_before_it_is_refused() {
    let (disk, keys) = (SimDisk::new(), sealing());
    let mut wal = create(&disk, &keys).unwrap();
    let hard_state = HardState { term: 3, vote: 1, commit: 2 };
    let batch = Batch { entries: &entries(1, 3, 4, 20), hard_state: Some(hard_state) };
    wal.append(&batch).unwrap();
    wal.rotate().unwrap();
    wal.append(&Batch { entries: &entries(5, 3, 1, 20), hard_state: None }).unwrap();
    wal.close().unwrap();
    let last = segment_paths(&disk).pop().unwrap();
    let mut dump = Dump::new(env(&disk, 1), &dir(), keys.clone()).unwrap();
    let head = dump.find_map(|frame| match frame.unwrap() {
        DumpedFrame { path, record: Record::Head(head), .. } if path == last => Some(*head),
        _ => None,
    });
    let head = head.unwrap();
    let original = bytes_of(&disk, &last);
    let sealer = keys.open(FileKind::Wal, 2, &original).unwrap();
    let with = |head: &SegmentHeader| {
        let (mut bytes, mut frame) = (original.clone(), Vec::new());
        sealer.seal_frame(0, 1, &head_payload(head), &mut frame).unwrap();
        bytes[FILE_HEADER_LEN..FILE_HEADER_LEN + frame.len()].copy_from_slice(&frame);
        disk.poke(&last, &bytes);
        read(&disk, &keys)
    };
    assert!(with(&head).is_ok(), "the payload is built as the log does");
    let HardState { term, vote, commit } = hard_state;
    let start = LogStart { index: 1, term: 3 };
    let others = [
        SegmentHeader { hard_state: HardState { term: term + 1, ..hard_state }, ..head.clone() },
        SegmentHeader { hard_state: HardState { vote: vote + 1, ..hard_state }, ..head.clone() },
        SegmentHeader {
            hard_state: HardState { commit: commit + 1, ..hard_state },
            ..head.clone()
        },
        SegmentHeader { start, ..head },
    ];
    for other in others {
        let error = with(&other).unwrap_err();
        let is_told = matches!(error, Error::Record { source: RecordError::Contradiction, .. });
        assert!(is_told, "{other:?}: {error}");
    }
}

#[test]
fn a_frame_that_another_key_sealed_is_damage_even_at_the_end() {
    let (keys, other) = (sealing(), FileKeys::ephemeral(&SeededRandom::new(5)));
    let (disk, path, bytes) = one_batch(&keys);
    let mut frame = Vec::new();
    other.open(FileKind::Wal, 1, &bytes).unwrap().seal_frame(2, 2, &[0; 4], &mut frame).unwrap();
    let end = content_len(&bytes);
    let mut forged = bytes;
    forged[end..end + frame.len()].copy_from_slice(&frame);
    disk.poke(&path, &forged);
    let error = read(&disk, &keys).unwrap_err();
    assert!(matches!(error, Error::Corrupt { source: FrameError::BadSeal, .. }), "{error}");
}

#[test]
fn a_log_that_ends_below_its_commit_is_refused() {
    let (disk, keys) = (SimDisk::new(), FileKeys::plain());
    let mut wal = create(&disk, &keys).unwrap();
    let batch = entries(1, 1, 4, 10);
    let hard_state = HardState { term: 1, vote: 1, commit: 4 };
    wal.append(&Batch { entries: &batch, hard_state: Some(hard_state) }).unwrap();
    wal.sync().unwrap();
    // Only a program's error could write this: the entries are cut away below the commit.
    let path = segment_paths(&disk).pop().unwrap();
    let mut bytes = bytes_of(&disk, &path);
    let sealer = keys.open(FileKind::Wal, 1, &bytes).unwrap();
    let mut frames = Vec::new();
    let end = content_len(&bytes);
    // Watermark 2 frames; no hard state; one entry, index 2, term 2, kind 0, no data.
    sealer.seal_frame(2, 2, &[2, 0, 0, 1, 2, 2, 0, 0], &mut frames).unwrap();
    bytes[end..end + frames.len()].copy_from_slice(&frames);
    disk.poke(&path, &bytes);
    let error = read(&disk, &keys).unwrap_err();
    assert!(matches!(error, Error::EndsBelowCommit { last_index: 2, commit: 4, .. }));
    let text = error.to_string();
    assert!(text.contains("index 4 was committed") && text.contains("0001.wal"), "{text}");
}
