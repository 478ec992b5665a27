//! Choosing what to rewrite.

use std::sync::Arc;

use crate::revlog::rewrite::{Limits, RewriteDone, RewriteJob, Urgency};
use crate::revlog::segment::{Segment, Segments};
use crate::store::Store;

/// Segments shorter than this share of a full one are merged: every start leaves one behind.
const SMALL_SHARE: u64 = 4;
/// That many small neighbours are worth a merge without a dead record among them.
const SMALL_RUN: usize = 4;
/// A run of several segments reads no more than so many full ones: what lives is estimated by the
/// number of records, so this also bounds the copy if the large ones are those that live.
const RUN_SEGMENTS_MAX: u64 = 16;

/// Neighbouring segments that would be rewritten together.
#[derive(Debug, Default)]
struct Run {
    start: usize,
    end: usize,
    bytes: u64,
    /// What is dead, in bytes.
    gain: u64,
    live_bytes: u64,
    is_worth_it: bool,
}

impl Store {
    /// The rewrite that frees the most; `None` if none is worth it at this urgency, or one is out.
    pub fn take_rewrite(&mut self, urgency: Urgency) -> Option<RewriteJob> {
        if self.jobs.rewrite_token.strong_count() > 0 {
            return None;
        }
        let run = self.best_run(urgency)?;
        Some(self.rewrite(&run))
    }

    /// A rewrite of the complete segment at `position`; `None` if a rewrite is out.
    pub(crate) fn rewrite_of_one(&mut self, position: usize) -> Option<RewriteJob> {
        if self.jobs.rewrite_token.strong_count() > 0 {
            return None;
        }
        Some(self.rewrite(&Run { start: position, end: position + 1, ..Run::default() }))
    }

    fn rewrite(&mut self, run: &Run) -> RewriteJob {
        let before = run.start.checked_sub(1).map(|at| &self.segments.list[at]);
        let before = before.map(|segment| segment.table.commit.revision);
        let marks = self.jobs.recovery_points();
        let limits = Limits {
            compact_revision: marks.iter().map(|it| it.compact_revision).min().unwrap_or(i64::MAX),
            applied_index: marks.iter().map(|it| it.applied.index).min().unwrap_or(u64::MAX),
            before,
        };
        let token = Arc::new(());
        self.jobs.rewrite_token = Arc::downgrade(&token);
        RewriteJob {
            files: Arc::clone(&self.jobs.files),
            options: self.jobs.options.clone(),
            run: self.segments.list[run.start..run.end].to_vec(),
            index: self.index.clone(),
            compact_revision: self.jobs.durable.commit.compact_revision,
            limits,
            token,
        }
    }

    /// Takes in a rewrite: from now on the new segment is read.
    pub fn finish_rewrite(&mut self, done: RewriteDone) {
        let RewriteDone { removed, added, dropped, pinned, .. } = done;
        let mut list = self.segments.list.clone();
        let Some(at) = list.iter().position(|it| removed.first() == Some(&it.id)) else { return };
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
        self.segments = Arc::new(Segments { list });
        self.publish_files();
    }

    fn best_run(&self, urgency: Urgency) -> Option<Run> {
        // The last segment may still grow, and holds the last commit.
        let (_, complete) = self.segments.list.split_last()?;
        let mut best: Option<Run> = None;
        let mut run = Run::default();
        for (position, segment) in complete.iter().enumerate() {
            let share = self.share(segment);
            let is_dead_enough = share.is_worth(urgency);
            let is_small = segment.len < self.jobs.options.segment_bytes / SMALL_SHARE;
            let full = self.jobs.options.segment_bytes;
            let fits = run.live_bytes + share.live_bytes <= full
                && run.bytes + segment.len <= full.saturating_mul(RUN_SEGMENTS_MAX);
            if !(is_dead_enough || is_small) || !fits {
                run = Run { start: position + 1, end: position + 1, ..Run::default() };
                if !(is_dead_enough || is_small) {
                    continue;
                }
                run.start = position;
            }
            run.end = position + 1;
            run.bytes += segment.len;
            run.gain += segment.len - share.live_bytes.min(segment.len);
            run.live_bytes += share.live_bytes;
            run.is_worth_it |= is_dead_enough || run.end - run.start >= SMALL_RUN;
            let is_best = best.as_ref().is_none_or(|best| run.gain >= best.gain);
            if run.is_worth_it && is_best {
                best = Some(Run { ..run });
            }
        }
        best
    }

    fn share(&self, segment: &Segment) -> Share {
        let records = segment.table.commit.records;
        let count = |of: &std::collections::BTreeMap<u64, u64>| {
            of.get(&segment.id).copied().unwrap_or(0).min(records)
        };
        let gone = count(&self.dead).saturating_sub(count(&self.pinned));
        let live = u128::from(segment.len) * u128::from(records - gone);
        let live_bytes = live.checked_div(u128::from(records)).unwrap_or_default();
        let live_bytes = u64::try_from(live_bytes).unwrap_or(segment.len);
        Share { records, gone, live_bytes }
    }
}

/// How much of a segment is dead.
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
