//! Automatic compaction, by age or by count of revisions, as etcd times it. Every member takes the
//! samples, and only the leader compacts: a new one goes on at once.

use std::collections::VecDeque;
use std::time::Duration;

use keepd_machine::Command;

use crate::context::Context;

/// The longest interval between two compactions by age.
const PERIODIC_INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// Samples of the revision per interval.
const SAMPLES_PER_INTERVAL: u32 = 10;
/// The interval between two compactions by count.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);

/// The part of history that is compacted without a request: `--auto-compaction-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Nothing.
    Off,
    /// Revisions older than this.
    Periodic(Duration),
    /// All revisions but the newest, this many.
    Revision(i64),
}

/// Compacts for as long as it is polled.
pub(crate) async fn run(context: &Context, compaction: AutoCompaction) {
    match compaction {
        AutoCompaction::Off => {}
        AutoCompaction::Periodic(retention) => periodic(context, retention).await,
        AutoCompaction::Revision(keep) => by_revision(context, keep).await,
    }
}

async fn periodic(context: &Context, retention: Duration) {
    let interval = retention.min(PERIODIC_INTERVAL_MAX).max(Duration::from_millis(10));
    let sample = interval / SAMPLES_PER_INTERVAL;
    let mut window = Window::new(retention, sample);
    let mut since_last = interval;
    loop {
        tokio::time::sleep(sample).await;
        since_last += sample;
        let oldest = window.push(context.node.view().revision());
        if since_last >= interval
            && context.node.leads()
            && let Some(revision) = oldest
        {
            since_last = Duration::ZERO;
            compact(context, revision).await;
        }
    }
}

/// Samples of the current revision over one retention.
struct Window {
    samples: VecDeque<i64>,
    len: usize,
}

impl Window {
    fn new(retention: Duration, sample: Duration) -> Self {
        let len = retention.as_nanos() / sample.as_nanos().max(1) + 1;
        Self { samples: VecDeque::new(), len: usize::try_from(len).unwrap_or(usize::MAX) }
    }

    /// Adds a sample; returns the revision one retention ago, once a whole retention has passed.
    fn push(&mut self, revision: i64) -> Option<i64> {
        self.samples.push_back(revision);
        if self.samples.len() > self.len {
            self.samples.pop_front();
        }
        (self.samples.len() == self.len).then(|| self.samples.front().copied()).flatten()
    }
}

async fn by_revision(context: &Context, keep: i64) {
    loop {
        tokio::time::sleep(REVISION_INTERVAL).await;
        if context.node.leads() {
            compact(context, context.node.view().revision() - keep).await;
        }
    }
}

async fn compact(context: &Context, revision: i64) {
    if revision <= 0 || revision <= context.node.view().compact_revision() {
        return;
    }
    tracing::info!(revision, "starting auto compaction");
    match context.node.propose(Command::Compact { revision }).await.map(|done| done.outcome.result)
    {
        Ok(Ok(_)) => tracing::info!(revision, "completed auto compaction"),
        Ok(Err(error)) => tracing::warn!(revision, %error, "failed auto compaction"),
        Err(error) => tracing::warn!(revision, %error, "failed auto compaction"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_gives_the_revision_of_one_retention_ago() {
        let mut window = Window::new(Duration::from_secs(100), Duration::from_secs(10));
        let given: Vec<_> = (0..13).map(|revision| window.push(revision)).collect();
        assert!(given[..10].iter().all(Option::is_none));
        assert_eq!(given[10..], [Some(0), Some(1), Some(2)]);
    }
}
