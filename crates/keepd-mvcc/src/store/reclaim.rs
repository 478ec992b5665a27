//! Choosing what to rewrite.
//!
//! Segments that need no copy come first. A copy is begun only if it fits into the room that is
//! given for it; one that did not fit is not tried again before there is more room or less to copy.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::jobs::checkpoint::CheckpointJob;
use crate::jobs::reclaim::{Reclaim, Urgency};
use crate::jobs::rewrite::{DropBounds, RewriteDone, RewriteJob};
use crate::revlog::segment::{Segment, Segments};
use crate::store::Store;

/// Segments shorter than this share of a full one are merged: every start leaves one.
const SMALL_SHARE: u64 = 4;
/// That many small neighbours are worth a merge without a dead record among them.
const SMALL_RUN: usize = 4;
/// A run of several segments reads no more than this number of full ones: what lives is estimated by the
/// number of records, so this also bounds the copy if the large ones are those that live.
const RUN_SEGMENTS_MAX: u64 = 16;

/// A rewrite, by its first segment, and the number of dead records that it was to leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Attempt {
    first: u64,
    gone: u64,
}

/// Facts at the time when a rewrite of a damaged segment was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Evidence {
    /// Dead records in it.
    dead: u64,
    /// Nothing before it is dead.
    is_first: bool,
    /// The lowest compact revision that recovery may begin from.
    compact_revision: Option<i64>,
}

/// Rewrites that found no room, or needed what cannot be read.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// The rewrite that was handed out last, and the room that it was given.
    out: Option<(Attempt, u64)>,
    /// The room with which each was refused. BOUND: one of each segment that there is.
    refused: BTreeMap<Attempt, u64>,
    /// Damaged segments that were tried. BOUND: the segments that there are.
    damaged: BTreeMap<u64, Evidence>,
}

impl Refusals {
    fn is_refused(&self, run: &Run, room: u64) -> bool {
        self.refused.get(&run.attempt()).is_some_and(|refused| room <= *refused)
    }
}

/// Neighbouring segments that would be rewritten together.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    /// The id of the first one.
    first: u64,
    start: usize,
    end: usize,
    /// Dead records that may go.
    gone: u64,
    bytes: u64,
    /// Bytes that rewriting this run would free.
    gain: u64,
    live_bytes: u64,
    is_worth_it: bool,
}

impl Run {
    const fn attempt(&self) -> Attempt {
        Attempt { first: self.first, gone: self.gone }
    }
}

impl Store {
    /// The next rewrite; `None` if none is worth it and fits.
    pub(super) fn reclaim(&mut self, reclaim: &Reclaim) -> Option<RewriteJob> {
        let run = self.next_run(reclaim)?;
        Some(self.rewrite(&run, reclaim.room))
    }

    /// Notes that the rewrite that was handed out last found no room: it is not taken again before
    /// there is more, or more of it is dead.
    pub(super) fn refuse_rewrite(&mut self) {
        let refusals = &mut self.jobs.refusals;
        if let Some((attempt, room)) = refusals.out.take() {
            refusals.refused.retain(|other, _| other.first != attempt.first);
            refusals.refused.insert(attempt, room);
        }
    }

    /// Has the next flush begin a new segment if a rewrite of the last one would be worth it: only
    /// complete ones are rewritten.
    pub fn close_segment(&mut self, urgency: Urgency) {
        let Some(last) = self.now.segments.list.last() else { return };
        if self.may_flush() && self.share(last).is_worth(urgency) {
            self.jobs.closes = true;
        }
    }

    /// Whether [`Self::close_segment`] waits for a flush.
    #[must_use]
    pub const fn is_closing(&self) -> bool {
        self.jobs.closes
    }

    /// The lowest id that no segment has yet.
    #[must_use]
    pub fn next_file(&self) -> u64 {
        self.jobs.files.next_id()
    }

    /// A checkpoint that lets rewrites drop what died since the kept ones, of which at most `kept` are
    /// left; `None` if they know of every durable compaction.
    pub(super) fn reclaiming_checkpoint(&mut self, kept: usize) -> Option<CheckpointJob> {
        let compacted = self.jobs.durable.commit.compact_revision;
        let is_behind =
            self.jobs.recovery_points().iter().any(|it| it.compact_revision < compacted);
        if is_behind { self.checkpoint_and_keep(kept) } else { None }
    }

    /// A rewrite of the complete segment at `position`.
    pub(super) fn rewrite_of_one(&mut self, position: usize) -> RewriteJob {
        let run = self.run_of_one(position);
        self.rewrite(&run, u64::MAX)
    }

    fn rewrite(&mut self, run: &Run, room: u64) -> RewriteJob {
        let before = run.start.checked_sub(1).map(|at| &self.now.segments.list[at]);
        let before = before.map(|segment| segment.table.commit.revision);
        let marks = self.jobs.recovery_points();
        self.note_attempt(run);
        let limits = DropBounds {
            is_first: self.dead_before(run.start) == 0,
            compact_revision: marks.iter().map(|it| it.compact_revision).min().unwrap_or(i64::MAX),
            applied_index: marks.iter().map(|it| it.applied.index).min().unwrap_or(u64::MAX),
            before,
        };
        // Without a bound nothing can be said of what would be enough.
        self.jobs.refusals.out = (room < u64::MAX).then(|| (run.attempt(), room));
        RewriteJob {
            files: Arc::clone(&self.jobs.files),
            options: self.jobs.options.clone(),
            run: self.now.segments.list[run.start..run.end].to_vec(),
            index: self.now.index.clone(),
            durable_index: self.jobs.durable.commit.applied.index,
            compact_revision: self.jobs.durable.commit.compact_revision,
            limits,
            room,
            copied_bytes: run.live_bytes,
        }
    }

    /// Takes in a rewrite: from now on the new segment is read.
    pub(super) fn rewritten(&mut self, done: RewriteDone) {
        let RewriteDone { removed, added, dropped, pinned } = done;
        let mut list = self.now.segments.list.clone();
        let Some(at) = list.iter().position(|it| removed.first() == Some(&it.id)) else { return };
        let replaced = list[at..].iter().map(|segment| segment.id).take(removed.len());
        assert!(replaced.eq(removed.iter().copied()), "a rewrite replaces neighbours");
        let dead_now: u64 = removed.iter().filter_map(|id| self.dead.remove(id)).sum();
        if let Some(added) = &added {
            // What died meanwhile was live when the job looked, so it was copied.
            self.dead.insert(added.id, dead_now.saturating_sub(dropped));
            self.pinned.insert(added.id, pinned);
        }
        for id in &removed {
            self.pinned.remove(id);
        }
        list.splice(at..at + removed.len(), added.map(Arc::new));
        self.now.segments = Arc::new(Segments { list });
        self.publish_files();
    }

    fn next_run(&self, reclaim: &Reclaim) -> Option<Run> {
        // The last segment may still grow, and holds the last commit.
        let (_, complete) = self.now.segments.list.split_last()?;
        let fits = |run: &Run| {
            run.live_bytes <= reclaim.room && !self.jobs.refusals.is_refused(run, reclaim.room)
        };
        let ones = (0..complete.len()).map(|position| self.run_of_one(position));
        let ones = ones.zip(complete).filter(|(run, segment)| {
            let is_worth_it = self.share(segment).is_worth(reclaim.urgency);
            is_worth_it && segment.id < reclaim.below && !self.is_damaged(segment) && fits(run)
        });
        let ones = ones.map(|(run, _)| run);
        let mut damaged = (0..complete.len()).filter(|at| self.is_worth_trying(*at));
        if let Some(run) = damaged.find_map(|at| Some(self.run_of_one(at)).filter(fits)) {
            return Some(run);
        }
        let cheapest = ones.min_by_key(|run| (run.live_bytes, Reverse(run.gain)));
        let is_free = cheapest.is_some_and(|run| run.live_bytes == 0);
        if is_free || (reclaim.is_short && cheapest.is_some()) {
            return cheapest;
        }
        self.best_run(complete, reclaim).filter(fits).or(cheapest)
    }

    /// Whether a damaged segment may hold nothing any more in what cannot be read, so that a rewrite
    /// can do without it. Only the rewrite knows: it looks at the whole index.
    pub(crate) fn is_worth_trying(&self, position: usize) -> bool {
        let segment = &self.now.segments.list[position];
        let is_trimmed = self.trim.pass.is_none() && self.trim.done >= self.trim_target();
        self.is_damaged(segment)
            && is_trimmed
            && self.jobs.refusals.damaged.get(&segment.id) != Some(&self.evidence(position))
    }

    /// The facts that decide whether a damaged segment can do without what cannot be read: while they
    /// are the same, so is the outcome.
    fn evidence(&self, position: usize) -> Evidence {
        let marks = self.jobs.recovery_points();
        let dead = self.dead.get(&self.now.segments.list[position].id).copied().unwrap_or(0);
        Evidence {
            dead,
            is_first: self.dead_before(position) == 0,
            compact_revision: marks.iter().map(|it| it.compact_revision).min(),
        }
    }

    /// Dead records before the segment at `position`.
    fn dead_before(&self, position: usize) -> u64 {
        self.now.segments.list[..position].iter().filter_map(|it| self.dead.get(&it.id)).sum()
    }

    /// A damaged segment is not tried twice with the same evidence.
    fn note_attempt(&mut self, run: &Run) {
        let segments = &self.now.segments.list;
        let exists = |id: &u64| segments.iter().any(|segment| segment.id == *id);
        self.jobs.refusals.damaged.retain(|id, _| exists(id));
        if self.is_damaged(&self.now.segments.list[run.start]) {
            let evidence = self.evidence(run.start);
            self.jobs.refusals.damaged.insert(run.first, evidence);
        }
    }

    fn run_of_one(&self, position: usize) -> Run {
        let segment = &self.now.segments.list[position];
        let Share { gone, live_bytes, .. } = self.share(segment);
        let (first, bytes) = (segment.id, segment.len);
        let gain = bytes - live_bytes.min(bytes);
        let (start, end) = (position, position + 1);
        Run { first, start, end, gone, bytes, gain, live_bytes, is_worth_it: true }
    }

    fn best_run(&self, complete: &[Arc<Segment>], reclaim: &Reclaim) -> Option<Run> {
        let mut best: Option<Run> = None;
        let mut run = Run::default();
        for (position, segment) in complete.iter().enumerate() {
            let share = self.share(segment);
            let is_dead_enough = share.is_worth(reclaim.urgency);
            let is_small = segment.len < self.jobs.options.segment_bytes / SMALL_SHARE;
            if self.is_damaged(segment) {
                run = Run { start: position + 1, end: position + 1, ..Run::default() };
                continue;
            }
            let is_taken = (is_dead_enough || is_small) && segment.id < reclaim.below;
            let full = self.jobs.options.segment_bytes;
            let fits = run.live_bytes + share.live_bytes <= full
                && run.bytes + segment.len <= full.saturating_mul(RUN_SEGMENTS_MAX);
            if !is_taken || !fits {
                run = Run { start: position + 1, end: position + 1, ..Run::default() };
                if !is_taken {
                    continue;
                }
                run.start = position;
            }
            if run.end <= run.start {
                run.first = segment.id;
            }
            run.end = position + 1;
            run.gone += share.gone;
            run.bytes += segment.len;
            run.gain += segment.len - share.live_bytes.min(segment.len);
            run.live_bytes += share.live_bytes;
            run.is_worth_it |= is_dead_enough || run.end - run.start >= SMALL_RUN;
            let is_best = best.as_ref().is_none_or(|best| run.gain >= best.gain);
            if run.is_worth_it && is_best {
                best = Some(run);
            }
        }
        best
    }

    fn share(&self, segment: &Segment) -> Share {
        let records = segment.table.commit.records;
        let count =
            |of: &BTreeMap<u64, u64>| of.get(&segment.id).copied().unwrap_or(0).min(records);
        let gone = count(&self.dead).saturating_sub(count(&self.pinned));
        let live = u128::from(segment.len) * u128::from(records - gone);
        let live_bytes = live.checked_div(u128::from(records)).unwrap_or_default();
        let live_bytes = u64::try_from(live_bytes).unwrap_or(segment.len);
        Share { records, gone, live_bytes }
    }
}

/// The dead and the live part of a segment.
struct Share {
    records: u64,
    /// Dead and not pinned.
    gone: u64,
    live_bytes: u64,
}

impl Share {
    const fn is_worth(&self, urgency: Urgency) -> bool {
        self.gone > 0 && self.gone * 100 >= self.records * urgency.dead_percent()
    }
}
