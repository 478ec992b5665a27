//! Going back to before the damage, where the Raft log holds everything after it.
//!
//! The log is what the store follows: a store that ends at an earlier commit is the state of then, and
//! applying the log again makes of it what it was. Two things forbid it. The log may have been released
//! up to a later index. And a rewrite may have dropped records that were dead later but live then: the
//! manifest tells the applied index that rewrites rely on. Then the start is refused, and nothing is
//! changed.

use keepd_crypto::FileKind;

use super::{Live, Torn, open_segments};
use crate::error::Error;
use crate::jobs::checkpoint;
use crate::revlog::directory::{Directory, FileName};
use crate::revlog::format::FlushCommit;
use crate::revlog::manifest::SegmentEntry;
use crate::revlog::segment::Segments;
use crate::revlog::segment_recovery::{self, End};

/// The part of the Raft log that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSpan {
    /// It begins after this index.
    pub mark: u64,
    /// Its last index.
    pub last: u64,
}

/// Takes everything after the damage out of the live files; returns the damage.
pub(super) fn before_damage(
    dir: &Directory,
    live: &mut Live,
    damage: Error,
    log: &dyn Fn() -> Option<LogSpan>,
) -> Result<Error, Error> {
    let opens = |count: &usize| {
        let segments = live.segments[..*count].to_vec();
        open_segments(dir, &mut Live { segments, ..live.clone() }).is_ok()
    };
    let counts: Vec<usize> = (1..=live.segments.len()).collect();
    let at = counts.partition_point(opens);
    let Some(damaged) = live.segments.get(at).copied() else { return Err(damage) };
    // What is whole of the damaged segment itself.
    let opened = dir.open(FileKind::Segment, damaged.id(), FileName::Segment(damaged.id())).ok();
    let len_max = match damaged {
        SegmentEntry::Active(_) => u64::MAX,
        SegmentEntry::Closed(closed) => closed.len,
    };
    let whole = opened.and_then(|opened| {
        let len = opened.len.min(len_max);
        segment_recovery::scan(damaged.id(), opened, len, End::Damaged).ok().flatten()
    });
    let mut rest = live.clone();
    rest.segments.truncate(at);
    rest.removed.extend(live.segments[at..].iter().map(SegmentEntry::id));
    if let Some(whole) = &whole {
        rest.removed.remove(&damaged.id());
        rest.segments.push(SegmentEntry::Closed(whole.closed));
    }
    let mut last = last_known(dir, live);
    let (segments, ..) = open_segments(dir, &mut rest.clone())?;
    let kept = segments.list.last().map_or(FlushCommit::NONE, |last| last.table.commit);
    if last.applied.index < kept.applied.index {
        last = kept;
    }
    let damage = allow(live.relied, &kept, &last, damage, log)?;
    forget_newer_checkpoints(dir, &mut rest, &kept);
    *live = rest;
    Ok(damage)
}

/// Looks at a last flush that is broken: mostly it was being written when the power went, and the log
/// has it. Returns the damage if it had been whole before.
pub(super) fn behind_torn(
    dir: &Directory,
    live: &mut Live,
    segments: &Segments,
    torn: Option<&Torn>,
    log: &dyn Fn() -> Option<LogSpan>,
) -> Result<Option<Error>, Error> {
    let kept = segments.list.last().map_or(FlushCommit::NONE, |last| last.table.commit);
    let last = last_of(marks(dir, live));
    let is_relied_on = live.relied.is_some_and(|relied| relied > kept.applied.index);
    let is_lost = last.applied.index > kept.applied.index || is_relied_on;
    let place = torn.map(|torn| (torn.path.clone(), torn.len)).or_else(|| {
        segments.list.last().filter(|_| is_lost).map(|last| (last.path.clone(), last.len))
    });
    let Some((file, offset)) = place else { return Ok(None) };
    let reason = "the last flush cannot be read";
    let damage = Error::Corrupt { file, offset, reason };
    if is_lost {
        let damage = allow(live.relied, &kept, &last, damage, log)?;
        forget_newer_checkpoints(dir, live, &kept);
        return Ok(Some(damage));
    }
    match log() {
        // It was released after a flush that was durable.
        Some(log) if log.mark > kept.applied.index => Err(lost(damage, &kept, &last, log)),
        _ => Ok(None),
    }
}

/// The damage, if the log can make good for it.
fn allow(
    relied: Option<u64>,
    kept: &FlushCommit,
    last: &FlushCommit,
    damage: Error,
    log: &dyn Fn() -> Option<LogSpan>,
) -> Result<Error, Error> {
    let Some(log) = log() else { return Err(damage) };
    let is_held = log.mark <= kept.applied.index && last.applied.index <= log.last;
    let is_whole = relied.is_some_and(|relied| relied <= kept.applied.index);
    if is_held && is_whole { Ok(damage) } else { Err(lost(damage, kept, last, log)) }
}

fn lost(damage: Error, kept: &FlushCommit, last: &FlushCommit, log: LogSpan) -> Error {
    Error::Lost {
        damage: Box::new(damage),
        revision: kept.revision,
        index: kept.applied.index,
        last_revision: last.revision.max(kept.revision),
        log_mark: log.mark,
    }
}

/// The last commit that any file tells of.
fn last_known(dir: &Directory, live: &Live) -> FlushCommit {
    let in_segments = live.segments.iter().filter_map(|entry| {
        let opened = dir.open(FileKind::Segment, entry.id(), FileName::Segment(entry.id())).ok()?;
        segment_recovery::last_commit(&opened)
    });
    last_of(in_segments.chain(marks(dir, live)))
}

/// The commits of the checkpoints.
fn marks(dir: &Directory, live: &Live) -> impl Iterator<Item = FlushCommit> {
    let marks = live.checkpoints.iter().filter_map(|id| checkpoint::read_mark(dir, *id).ok());
    marks.map(|mark| mark.commit)
}

fn last_of(commits: impl Iterator<Item = FlushCommit>) -> FlushCommit {
    commits.max_by_key(|commit| commit.applied.index).unwrap_or(FlushCommit::NONE)
}

fn forget_newer_checkpoints(dir: &Directory, live: &mut Live, kept: &FlushCommit) {
    let is_older = |id: &u64| {
        let mark = checkpoint::read_mark(dir, *id);
        mark.is_ok_and(|mark| mark.commit.applied.index <= kept.applied.index)
    };
    live.checkpoints.retain(is_older);
}
