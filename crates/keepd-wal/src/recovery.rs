//! Reading the log back: which segments belong to it, and what they say together.
//!
//! The newest segment knows the log's start. From it the links lead back to the newest segment that
//! begins at the start or before it; older files are left over from an interrupted release. The
//! segments are then replayed forward. Every step that does not fit is an error; nothing on the
//! disk is changed here.
//!
//! What can be read need not be durable. The last frames of the newest segment, which no later one
//! says were synced, may be in the page cache only, and after a failed sync no further sync of that
//! file brings them to the disk. So they do not count where they lie: the new segment continues in
//! front of them and carries them itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use keepd_crypto::FileKeys;
use keepd_env::Env;
use keepd_env::mutants::{self, Mutant};
use keepd_types::{Entry, HardState};

use crate::error::{Error, RecordError, Result};
use crate::record::{BatchRecord, PreviousSegment, Record, StartRecord};
use crate::segment::{SegmentName, Span};
use crate::segment_reader::{PlacedRecord, SegmentRecords, read_segment};
use crate::types::{LogStart, Recovered, SegmentPosition, SegmentSummary};

/// A log that was read.
pub(crate) struct RecoveredLog {
    pub(crate) recovered: Recovered,
    pub(crate) next_index: u64,
    /// The log that the new segment continues: without the records it carries over.
    pub(crate) base: LogBase,
    /// Records that the new segment carries over, in order.
    pub(crate) carried: Vec<Record>,
    /// The segments that a new one continues, oldest first.
    pub(crate) segments: Vec<SegmentSummary>,
    /// Their frames, for those who read them later.
    pub(crate) spans: Vec<Span>,
    /// The segment that the new one continues, for its header.
    pub(crate) previous: Option<PreviousSegment>,
    /// The highest number that a segment has.
    pub(crate) last_sequence: u64,
    /// Files that the log does not need, once there is a new segment.
    pub(crate) leftovers: Vec<PathBuf>,
}

/// State of the log before a segment, as the segment's header has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogBase {
    pub(crate) start: LogStart,
    pub(crate) hard_state: HardState,
    pub(crate) next_index: u64,
}

/// The segments in a directory, by number.
pub(crate) fn list_segments(env: &Env, dir: &Path) -> Result<BTreeMap<u64, SegmentName>> {
    let mut segments = BTreeMap::new();
    for name in env.disk.list(dir)?.iter().filter_map(|name| SegmentName::parse(name)) {
        let sequence = name.sequence;
        if segments.insert(sequence, name).is_some() {
            return Err(Error::DuplicateSegment { dir: dir.to_owned(), sequence });
        }
    }
    Ok(segments)
}

/// Reads the whole log.
pub(crate) fn recover(env: &Env, dir: &Path, keys: &FileKeys) -> Result<RecoveredLog> {
    let names = list_segments(env, dir)?;
    let mut chain = read_chain(env, dir, keys, &names)?;
    let last = chain.last_mut().expect("a chain has its newest segment");
    let (last_sequence, torn_tail) = (last.name.sequence, last.torn_tail.clone());
    let (last_path, last_end) = (last.summary.path.clone(), last.end);
    let kept_after = final_start(last).index;
    let unproven = match mutants::is_active(Mutant::ForgottenTail) {
        true => Vec::new(),
        false => last.take_unproven(),
    };
    let last = &*last;
    let metadata = Bytes::copy_from_slice(&last.head.metadata);

    let previous = link_to(last);
    let is_empty = last.records.is_empty();
    let mut segments: Vec<SegmentSummary> = chain.iter().map(|s| s.summary.clone()).collect();
    let span = |s: &SegmentRecords| Span { name: s.name.clone(), end: s.end };
    let mut spans: Vec<Span> = chain.iter().map(span).collect();
    if is_empty {
        // It says nothing that its successor's header does not, so restarts do not pile up files.
        segments.pop();
        spans.pop();
    }
    let mut leftovers: Vec<PathBuf> = names
        .into_values()
        .filter(|name| segments.iter().all(|kept| kept.sequence != name.sequence))
        .map(|name| name.path(dir))
        .collect();
    let temporary = env.disk.list(dir)?.into_iter().filter(|name| SegmentName::is_temporary(name));
    leftovers.extend(temporary.map(|name| dir.join(name)));

    let mut replay = Replay::run(chain, kept_after)?;
    let Replay { start, hard_state, next_index, .. } = replay;
    let base = LogBase { start, hard_state, next_index };
    let mut carried = Vec::with_capacity(unproven.len());
    for placed in unproven {
        if !matches!(placed.record, Record::Closed(_)) {
            carried.push(placed.record.clone());
        }
        replay.place(&last_path, placed)?;
    }
    let Replay { start, hard_state, next_index, entries, .. } = replay;
    if hard_state.commit >= next_index {
        return Err(Error::EndsBelowCommit {
            path: last_path,
            offset: last_end.offset,
            last_index: next_index - 1,
            commit: hard_state.commit,
        });
    }
    let recovered = Recovered { metadata, start, hard_state, entries, torn_tail };
    Ok(RecoveredLog {
        recovered,
        next_index,
        base,
        carried,
        segments,
        spans,
        previous,
        last_sequence,
        leftovers,
    })
}

/// The link of the segment that will follow `last`.
fn link_to(last: &SegmentRecords) -> Option<PreviousSegment> {
    if last.records.is_empty() {
        return last.head.previous;
    }
    Some(PreviousSegment { sequence: last.name.sequence, header: last.header, end: last.end })
}

/// Reads the segments that the log consists of, oldest first.
fn read_chain(
    env: &Env,
    dir: &Path,
    keys: &FileKeys,
    names: &BTreeMap<u64, SegmentName>,
) -> Result<Vec<SegmentRecords>> {
    let (_, newest) =
        names.last_key_value().ok_or_else(|| Error::NotFound { dir: dir.to_owned() })?;
    let mut segment = read_segment(env, dir, newest, keys, None)?;
    let start = final_start(&segment);
    let mut chain = Vec::new();
    loop {
        let is_enough = segment.head.first_index <= start.index.saturating_add(1);
        let previous = segment.head.previous;
        let path = segment.summary.path.clone();
        let misread = Error::Record {
            path: path.clone(),
            offset: SegmentPosition::start().offset,
            frame: 0,
            source: RecordError::Contradiction,
        };
        chain.push(segment);
        if is_enough {
            break;
        }
        // The links lead to ever smaller numbers, or the walk would not end.
        let link = previous
            .filter(|link| chain.iter().all(|next| next.name.sequence > link.sequence))
            .ok_or(misread)?;
        let name = names
            .get(&link.sequence)
            .ok_or_else(|| Error::MissingSegment { sequence: link.sequence, next: path.clone() })?;
        segment = read_segment(env, dir, name, keys, Some((&link, &path)))?;
    }
    chain.reverse();
    Ok(chain)
}

/// The start at the end of a segment.
fn final_start(segment: &SegmentRecords) -> LogStart {
    let mut starts = segment.records.iter().filter_map(|placed| match &placed.record {
        Record::Start(record) => Some(record.start),
        _ => None,
    });
    starts.next_back().unwrap_or(segment.head.start)
}

/// The state that the frames build up.
struct Replay {
    /// The log's final start; entries up to it are not kept.
    kept_after: u64,
    start: LogStart,
    hard_state: HardState,
    next_index: u64,
    entries: Vec<Entry>,
}

impl Replay {
    fn run(chain: Vec<SegmentRecords>, kept_after: u64) -> Result<Self> {
        let first = &chain.first().expect("a chain has its newest segment").head;
        let mut replay = Self {
            kept_after,
            start: first.start,
            hard_state: first.hard_state,
            next_index: first.first_index,
            entries: Vec::new(),
        };
        for segment in chain {
            let path = &segment.summary.path;
            let offset = SegmentPosition::start().offset;
            replay.check_head(&segment).map_err(|source| Error::Record {
                path: path.clone(),
                offset,
                frame: 0,
                source,
            })?;
            for placed in segment.records {
                replay.place(path, placed)?;
            }
        }
        Ok(replay)
    }

    fn place(&mut self, path: &Path, placed: PlacedRecord) -> Result<()> {
        let PlacedRecord { offset, frame, record, .. } = placed;
        let misread = |source| Error::Record { path: path.to_owned(), offset, frame, source };
        self.apply(record).map_err(misread)
    }

    fn check_head(&self, segment: &SegmentRecords) -> std::result::Result<(), RecordError> {
        let head = &segment.head;
        let agrees = head.start == self.start
            && head.hard_state == self.hard_state
            && head.first_index == self.next_index
            && self.start.index < self.next_index;
        if agrees { Ok(()) } else { Err(RecordError::Contradiction) }
    }

    fn apply(&mut self, record: Record) -> std::result::Result<(), RecordError> {
        match record {
            Record::Head(_) => Err(RecordError::MisplacedHead),
            Record::Batch(batch) => self.apply_batch(batch),
            Record::Start(record) => self.apply_start(record),
            Record::Closed(_) => Ok(()),
        }
    }

    fn apply_batch(&mut self, batch: BatchRecord) -> std::result::Result<(), RecordError> {
        if let Some(first) = batch.entries.first() {
            let (found, next, start) = (first.index, self.next_index, self.start.index);
            if found > next || found <= start {
                return Err(RecordError::Gap { found, next, start });
            }
            self.cut(found);
            self.next_index = batch.entries.last().map_or(found, |last| last.index) + 1;
            let kept_after = self.kept_after;
            self.entries.extend(batch.entries.into_iter().filter(|e| e.index > kept_after));
        }
        if let Some(state) = batch.hard_state {
            let commit = state.commit.max(self.start.index);
            self.hard_state = HardState { commit, ..state };
        }
        Ok(())
    }

    fn apply_start(&mut self, record: StartRecord) -> std::result::Result<(), RecordError> {
        let StartRecord { start, next_index, .. } = record;
        let is_kept = next_index == self.next_index && next_index > start.index;
        let is_dropped = start.index.checked_add(1) == Some(next_index);
        if start.index < self.start.index || !(is_kept || is_dropped) {
            return Err(RecordError::Contradiction);
        }
        self.cut(next_index);
        self.start = start;
        self.next_index = next_index;
        self.hard_state.commit = self.hard_state.commit.max(start.index);
        Ok(())
    }

    /// Drops the entries from `index` on.
    fn cut(&mut self, index: u64) {
        let kept = self.entries.partition_point(|entry| entry.index < index);
        self.entries.truncate(kept);
    }
}
