//! Opening a directory: what was durable, and nothing else.
//!
//! Manifest, segments up to the last commit, the newest checkpoint that can be read, the records
//! after it. What is broken at the very end of the active segment was being written when the power
//! went and is dropped; anything else that does not fit is reported with its file and place, and
//! nothing is cut or removed then. Afterwards a new manifest is begun, and the next flush begins a
//! new segment: no file is written under a sealer that was opened.
//!
//! A part that is damaged is done without if the Raft log holds all that was written since: see
//! [`rewind`].
//!
//! Data that can be read need not be durable: the process may have died between a write and its sync, or
//! of a sync that failed, after which no further one proves anything. What the manifest names was
//! synced before it was named, and a flush before the next one began. Only the last flush of the
//! active segment is in doubt, unless a checkpoint was taken of it: see [`carry`].

mod carry;
mod inspect;
mod rewind;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keepd_crypto::{FILE_HEADER_LEN, FileKeys, FileKind};
use keepd_env::Env;
use keepd_types::{KeyValue, Revision};

use crate::durable::Durable;
use crate::error::Error;
use crate::index::{KeyIndex, State};
use crate::jobs::checkpoint::{self, CheckpointRef};
use crate::meta::Meta;
use crate::record::Entry;
use crate::record_iter::RecordIter;
use crate::revlog::directory::{Directory, FileName};
use crate::revlog::files::Files;
use crate::revlog::format::{FlushCommit, Origin};
use crate::revlog::manifest::{Closed, Manifest, SegmentEntry, State as Live};
use crate::revlog::segment::{Segment, Segments};
use crate::revlog::segment_recovery::{Before, End, Grown, scan};
use crate::tail::Tail;

pub use inspect::inspect;
pub use rewind::LogSpan;

/// Leaves of the index that are trimmed in one pass.
const TRIM_LEAVES: usize = 1024;

/// The content of a directory.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) files: Arc<Files>,
    pub(crate) segments: Arc<Segments>,
    pub(crate) durable: Durable,
    /// Kept checkpoints, oldest first.
    pub(crate) checkpoints: Vec<CheckpointRef>,
    /// Records that nothing names, by segment.
    pub(crate) dead: BTreeMap<u64, u64>,
    /// Damage that is done without: the log is applied again from before it.
    pub(crate) rewound: Option<Error>,
}

/// Opens or creates the store in `path`; `log` tells what of the Raft log can be applied again, and is
/// asked only about damage.
pub(crate) fn open(
    env: Env,
    path: &Path,
    keys: FileKeys,
    block_bytes: usize,
    log: &dyn Fn() -> Option<LogSpan>,
) -> Result<Recovered, Error> {
    let dir = Directory::new(env, path.to_owned(), keys);
    dir.env.disk.create_dir(path)?;
    let names: Vec<FileName> =
        dir.env.disk.list(path)?.iter().filter_map(|name| FileName::parse(name)).collect();
    let number = names.iter().filter_map(|name| match name {
        FileName::Manifest(number) => Some(*number),
        _ => None,
    });
    let Some(number) = number.max() else { return create(dir, &names) };
    let mut live = Manifest::load(&dir, number)?;
    let unnamed = unnamed(&names, number, &live);
    let mut rewound = None;
    let (segments, doubt, torn) = match open_segments(&dir, &mut live) {
        Err(damage @ Error::Corrupt { .. }) => {
            rewound = Some(rewind::before_damage(&dir, &mut live, damage, log)?);
            open_segments(&dir, &mut live)?
        }
        found => found?,
    };
    let mut segments = Arc::new(segments);
    rewound = rewound.or(rewind::behind_torn(&dir, &mut live, &segments, torn.as_ref(), log)?);
    check_orphans(&dir, &names, &live)?;
    let commit = segments.list.last().map_or(FlushCommit::NONE, |last| last.table.commit);
    let (durable, checkpoints) = read_checkpoints(&dir, &mut live, commit)?;
    let mut durable = replay(&segments, durable, commit)?;
    trim(&mut durable);
    let garbage = Garbage { unnamed, torn };
    let mut next_id = next_id(&names);
    let mut carried = None;
    if let Some(before) = doubt.filter(|before| !is_synced(&segments, before, &checkpoints)) {
        let kept = before.as_ref().map(|before| before.len);
        carried = segments.list.last().zip(kept).map(|(grown, len)| (grown.path.clone(), len));
        let carry =
            || carry::write_anew(&dir, &mut live, &segments, before.clone(), next_id, block_bytes);
        segments = Arc::new(without_garbage(&dir, &garbage, carry)?);
        next_id += 1;
    }
    let dead = count_dead(&segments, &durable.index);
    live.relied.get_or_insert(commit.applied.index);
    live.removed.retain(|id| names.contains(&FileName::Segment(*id)));
    // ORDER: all that the manifest names is durable.
    let create = || Manifest::create(&dir, number + 1, live.clone());
    let mut manifest = without_garbage(&dir, &garbage, create)?;
    if let Some((path, len)) = &carried {
        // ORDER: the manifest names the copy. On a full disk it must not take space twice.
        dir.env.disk.cut(path, *len)?;
    }
    remove_orphans(&dir, &names, &mut manifest)?;
    let files = Arc::new(Files::new(dir, manifest, next_id));
    Ok(Recovered { files, segments, durable, checkpoints, dead, rewound })
}

/// Remains of an earlier process that nobody reads.
#[derive(Debug)]
struct Garbage {
    /// Files that the manifest does not name.
    unnamed: Vec<FileName>,
    torn: Option<Torn>,
}

fn unnamed(names: &[FileName], manifest: u64, live: &Live) -> Vec<FileName> {
    let is_named = |name: &FileName| match name {
        FileName::Manifest(number) => *number == manifest,
        FileName::Segment(id) => live.segments.iter().any(|entry| entry.id() == *id),
        FileName::Checkpoint(id) => live.checkpoints.contains(id),
        FileName::Unfinished => false,
    };
    names.iter().copied().filter(|name| !is_named(name)).collect()
}

/// Makes a call that needs space, again without the garbage if there is none: a flush or a rewrite
/// that filled the disk leaves nothing else to go on with.
fn without_garbage<T>(
    dir: &Directory,
    garbage: &Garbage,
    mut call: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    match call() {
        Err(error) if error.is_out_of_space() => {
            for name in &garbage.unnamed {
                dir.remove(*name)?;
            }
            if let Some(Torn { path, len }) = &garbage.torn {
                dir.env.disk.cut(path, *len)?;
            }
            call()
        }
        result => result,
    }
}

/// Whether a checkpoint was taken after the last flush: they are taken of what was synced.
fn is_synced(segments: &Segments, before: &Doubt, checkpoints: &[CheckpointRef]) -> bool {
    let mut commits = segments.list.iter().rev().map(|segment| segment.table.commit);
    let Some(last) = commits.next() else { return true };
    let before = before.as_ref().map(|before| before.table.commit).or_else(|| commits.next());
    // A flush that changed nothing cannot be told from the one before.
    let is_told_apart = before.is_none_or(|before| !before.is_same_state(&last));
    is_told_apart && checkpoints.iter().any(|mark| mark.commit.is_same_state(&last))
}

fn create(dir: Directory, names: &[FileName]) -> Result<Recovered, Error> {
    // The manifest is there before the first segment or checkpoint is.
    if names.iter().any(|name| !matches!(name, FileName::Unfinished)) {
        return Err(Error::Missing { file: dir.file(FileName::Manifest(1)) });
    }
    if let Some(parent) = dir.path.parent() {
        dir.env.disk.sync_dir(parent)?;
    }
    let manifest = Manifest::create(&dir, 1, Live { relied: Some(0), ..Live::default() })?;
    Ok(Recovered {
        files: Arc::new(Files::new(dir, manifest, 1)),
        segments: Arc::new(Segments::default()),
        durable: Durable::nothing(),
        checkpoints: Vec::new(),
        dead: BTreeMap::new(),
        rewound: None,
    })
}

fn next_id(names: &[FileName]) -> u64 {
    let ids = names.iter().map(|name| match name {
        FileName::Segment(id) | FileName::Checkpoint(id) => *id,
        FileName::Manifest(_) | FileName::Unfinished => 0,
    });
    ids.max().unwrap_or(0) + 1
}

/// The last flush of the active segment may not be durable; what the segment was before it, if it
/// was anything.
type Doubt = Option<Before>;

/// A file that ends with what was being written when the process ended, and where it begins.
#[derive(Debug)]
struct Torn {
    path: PathBuf,
    len: u64,
}

/// The segments, the doubt about the last flush, and what is torn.
type Found = (Segments, Option<Doubt>, Option<Torn>);

/// Opens all segments; the active one is closed where its last commit ends, and its last flush is in
/// doubt.
fn open_segments(dir: &Directory, live: &mut Live) -> Result<Found, Error> {
    let (mut segments, mut doubt, mut torn) = (Segments::default(), None, None);
    let count = live.segments.len();
    let mut kept = Vec::with_capacity(count);
    for (position, entry) in live.segments.iter().enumerate() {
        let opened = match entry {
            SegmentEntry::Closed(closed) => Some((open_closed(dir, closed)?, *closed)),
            SegmentEntry::Active(id) => {
                if position + 1 != count {
                    let file = dir.file(FileName::Segment(*id));
                    let reason = "an unfinished segment before the last one";
                    return Err(Error::Corrupt { file, offset: 0, reason });
                }
                let (grown, end) = open_active(dir, *id)?;
                torn = end;
                grown.map(|grown| {
                    doubt = Some(grown.before);
                    (grown.segment, grown.closed)
                })
            }
        };
        let Some((segment, closed)) = opened else { continue };
        let before: Option<&Arc<Segment>> = segments.list.last();
        if before.is_some_and(|before| !may_follow(before, &segment, doubt.as_ref())) {
            return Err(segment.corrupt(0, "the segment is out of order"));
        }
        kept.push(SegmentEntry::Closed(closed));
        segments.list.push(Arc::new(segment));
    }
    // A segment without a commit holds nothing; its file goes with the orphans.
    live.removed.extend(live.segments.iter().map(SegmentEntry::id));
    for entry in &kept {
        live.removed.remove(&entry.id());
    }
    live.segments = kept;
    Ok((segments, doubt, torn))
}

/// Whether a segment can lie after another one, also without its last flush, which may move into a
/// segment of its own.
fn may_follow(before: &Segment, segment: &Segment, doubt: Option<&Doubt>) -> bool {
    let commit = before.table.commit;
    let kept = doubt.and_then(Option::as_ref).map(|kept| kept.table.commit);
    before.first <= segment.first
        && commit.revision <= segment.first.main
        && kept.unwrap_or(segment.table.commit).may_follow(&commit)
}

fn open_active(dir: &Directory, id: u64) -> Result<(Option<Grown>, Option<Torn>), Error> {
    let opened = dir.open(FileKind::Segment, id, FileName::Segment(id))?;
    let (path, len) = (opened.path.clone(), opened.len);
    let head = FILE_HEADER_LEN + opened.sealer.frame_len(Origin::Flush.encode().len());
    let grown = scan(id, opened, len, End::Torn)?;
    let end = grown.as_ref().map_or(head as u64, |grown| grown.closed.len);
    Ok((grown, (end < len).then_some(Torn { path, len: end })))
}

fn open_closed(dir: &Directory, closed: &Closed) -> Result<Segment, Error> {
    let opened = dir.open(FileKind::Segment, closed.id, FileName::Segment(closed.id))?;
    if opened.len < closed.len {
        let (file, offset) = (opened.path, opened.len);
        return Err(Error::Corrupt { file, offset, reason: "the segment was cut short" });
    }
    let Some(table) = closed.table else {
        let path = opened.path.clone();
        let scanned = scan(closed.id, opened, closed.len, End::Exact)?;
        let nothing = Error::Corrupt { file: path, offset: 0, reason: "a segment without commit" };
        return scanned.map(|grown| grown.segment).ok_or(nothing);
    };
    Segment::open(closed.id, opened, closed.len, &table)
}

/// Refuses to lose a segment that holds commits and that nothing says was replaced.
fn check_orphans(dir: &Directory, names: &[FileName], live: &Live) -> Result<(), Error> {
    for name in names {
        let FileName::Segment(id) = *name else { continue };
        let is_named = live.segments.iter().any(|entry| entry.id() == id);
        if is_named || live.removed.contains(&id) {
            continue;
        }
        // A file that cannot be opened was being created: its head is synced before it is named.
        let Ok(opened) = dir.open(FileKind::Segment, id, *name) else { continue };
        let len = opened.len;
        if let Ok(Some(Grown { segment, .. })) = scan(id, opened, len, End::Torn)
            && segment.table.origin == Origin::Flush
        {
            return Err(segment.corrupt(0, "the segment holds commits, but the manifest lost it"));
        }
    }
    Ok(())
}

/// Removes what the new manifest does not name.
fn remove_orphans(
    dir: &Directory,
    names: &[FileName],
    manifest: &mut Manifest,
) -> Result<(), Error> {
    for name in names {
        let live = manifest.state();
        let is_live = match name {
            FileName::Manifest(number) => *number == manifest.number(),
            FileName::Segment(id) => live.segments.iter().any(|entry| entry.id() == *id),
            FileName::Checkpoint(id) => live.checkpoints.contains(id),
            FileName::Unfinished => false,
        };
        if !is_live {
            dir.remove(*name)?;
        }
    }
    dir.env.disk.sync_dir(&dir.path)?;
    manifest.forget_removed();
    Ok(())
}

/// Loads the newest checkpoint that can be read, and forgets those that cannot.
fn read_checkpoints(
    dir: &Directory,
    live: &mut Live,
    last: FlushCommit,
) -> Result<(Option<Durable>, Vec<CheckpointRef>), Error> {
    let (mut durable, mut marks) = (None, Vec::new());
    for id in live.checkpoints.iter().rev() {
        let read = if durable.is_none() {
            checkpoint::load(dir, *id).map(|loaded| {
                let mark = CheckpointRef { id: *id, commit: loaded.commit };
                durable = Some(loaded);
                mark
            })
        } else {
            checkpoint::read_mark(dir, *id)
        };
        match read {
            Ok(mark) if mark.commit.applied.index > last.applied.index => {
                let file = dir.file(FileName::Checkpoint(*id));
                let reason = "it is newer than the segments: they lost a commit";
                return Err(Error::Corrupt { file, offset: 0, reason });
            }
            Ok(mark) => marks.insert(0, mark),
            Err(Error::Corrupt { .. } | Error::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    live.checkpoints = marks.iter().map(|mark| mark.id).collect();
    Ok((durable, marks))
}

/// Brings a checkpoint, or nothing, up to the last commit.
fn replay(
    segments: &Arc<Segments>,
    checkpoint: Option<Durable>,
    last: FlushCommit,
) -> Result<Durable, Error> {
    let Durable { commit, mut index, meta } = checkpoint.unwrap_or_else(|| Durable {
        commit: FlushCommit { revision: 0, ..FlushCommit::NONE },
        index: KeyIndex::default(),
        meta: Arc::new(Meta::default()),
    });
    let from = Revision::first(commit.revision.saturating_add(1));
    for entry in RecordIter::new(segments, &Tail::default(), from) {
        let entry = entry?;
        let state = state_of(&entry).ok_or_else(|| {
            let at = segments.position_of(entry.change.revision);
            let segment = at.map_or_else(|| &segments.list[0], |at| &segments.list[at]);
            segment.corrupt(0, "a record that is not a key-value")
        })?;
        index.update(&entry.change.key, |_| state);
    }
    let mut meta = Arc::unwrap_or_clone(meta);
    for segment in &segments.list {
        // A segment is replayed as a whole: its last writes decide, and they are not older.
        if segment.table.commit.applied.index >= commit.applied.index {
            segment.meta_ops()?.into_iter().for_each(|op| meta.apply(op));
        }
    }
    Ok(Durable { commit: last, index, meta: Arc::new(meta) })
}

fn state_of(entry: &Entry) -> Option<State> {
    let Revision { main, sub } = entry.change.revision;
    let sub = u32::try_from(sub).ok()?;
    if entry.change.record.tombstone {
        return Some(State { main, sub, create: entry.create, version: 0 });
    }
    let kv = KeyValue::decode(&entry.change.record.encoded).ok()?;
    (kv.version >= 1).then_some(State {
        main,
        sub,
        create: kv.create_revision,
        version: kv.version,
    })
}

/// Removes what the last compaction left unreachable.
fn trim(durable: &mut Durable) {
    let (mut dead, mut cursor) = (Vec::new(), Some(Vec::new()));
    // BOUND: each pass goes on where the one before ended. In parts, since nobody wants the dead.
    while let Some(from) = cursor {
        dead.clear();
        let target = durable.commit.compact_revision;
        cursor = durable.index.compact(target, &from, TRIM_LEAVES, &mut dead);
    }
}

/// Counts the records in segments that the index does not name.
pub(crate) fn count_dead(segments: &Segments, index: &KeyIndex) -> BTreeMap<u64, u64> {
    let mut dead: BTreeMap<u64, u64> =
        segments.list.iter().map(|segment| (segment.id, segment.table.commit.records)).collect();
    let mut name = |revision| {
        let segment = segments.position_of(revision).and_then(|at| segments.list.get(at));
        // What is after the last segment is in the tail.
        let segment = segment.filter(|segment| revision <= segment.table.last);
        if let Some(count) = segment.and_then(|segment| dead.get_mut(&segment.id)) {
            *count = count.saturating_sub(1);
        }
    };
    index.for_each_leaf(|leaf| {
        (0..leaf.len()).for_each(|position| name(leaf.state(position).revision()));
        leaf.for_each_past(|state| name(state.revision()));
    });
    dead
}
