//! The hub part: owns the watch hub.
//!
//! Receives applied batches from the apply part and requests from the streams' tasks; gives messages
//! to the streams' bounded queues. When applied batches come faster than it takes them, some are
//! dropped and every watcher catches up from the store's history instead.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keepd_env::mutants::{self, Mutant};
use keepd_watch::{Hub, Limits, Work};

use crate::driver::{Next, Part};
use crate::messages::{HubEvent, Opened, Request};
use crate::shared::Shared;

/// The longest sleep when every watcher is synced; without a watcher applied batches wait for it.
const IDLE: Duration = Duration::from_millis(100);
/// The sleep when some stream takes nothing.
const BLOCKED: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(crate) struct HubThread {
    shared: Arc<Shared>,
    hub: Hub,
}

impl HubThread {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let hub = Hub::new(Limits::default(), shared.views.clone());
        Self { shared, hub }
    }

    fn handle(&mut self, event: HubEvent, now: Duration) {
        match event {
            HubEvent::Publish(_) if self.shared.corruption.serves_nothing() => {
                self.shared.hub_missed.store(true, Ordering::Release);
            }
            HubEvent::Publish(batch) => {
                // ORDER: a dropped batch sets the flag before a later batch is queued.
                self.resync_if_missed();
                let is_lost = mutants::is_active(Mutant::LostEvent)
                    && batch.view.applied().index.is_multiple_of(64);
                if !is_lost {
                    self.hub.publish(&batch);
                }
            }
            HubEvent::Close(stream) => self.hub.close_stream(stream),
            HubEvent::Request(request, _place) => self.answer(request, now),
        }
    }

    fn answer(&mut self, request: Request, now: Duration) {
        match request {
            Request::Open { sink, progress_interval, reply } => {
                let stream = Some(self.hub.open_stream(sink, now, progress_interval));
                // If nobody waits any more it is closed by being dropped.
                let _ = reply.send(Opened { stream, hub: Arc::clone(&self.shared.mailboxes.hub) });
            }
            Request::Create(stream, spec) => {
                self.hub.create(stream, *spec);
            }
            Request::Cancel(stream, watch) => {
                self.hub.cancel(stream, watch);
            }
            Request::Progress(stream) => self.hub.progress_request(stream),
        }
    }

    fn resync_if_missed(&mut self) {
        if self.shared.hub_missed.swap(false, Ordering::AcqRel) {
            self.hub.resync(self.shared.views.clone());
        }
    }

    /// Sends what watchers have not got yet; how long until there is more to do.
    fn catch_up(&mut self, now: Duration) -> Duration {
        match self.hub.catch_up(now) {
            Ok(Work::Idle) => IDLE,
            Ok(Work::Blocked) => BLOCKED,
            Ok(Work::More) => Duration::ZERO,
            Err(error) if error.is_damage() => {
                // The damage itself is logged once, by the job scheduler; clients may ask
                // again and again.
                tracing::debug!(%error, "watches are cancelled: their history is damaged");
                Duration::ZERO
            }
            Err(error) => {
                tracing::error!(%error, "watches are cancelled: the history that they need cannot be read");
                Duration::ZERO
            }
        }
    }

    fn publish_stats(&self) {
        let stats = self.hub.stats();
        let metrics = &self.shared.metrics;
        metrics.watch_streams.store(stats.streams as u64, Ordering::Relaxed);
        // ORDER: before this thread sleeps; see where the apply part publishes.
        metrics.watchers.store(stats.watchers as u64, Ordering::SeqCst);
        metrics.slow_watchers.store(stats.unsynced as u64, Ordering::Relaxed);
    }
}

impl Part for HubThread {
    type Event = HubEvent;

    fn react(&mut self, batch: &mut Vec<HubEvent>, now: Duration) {
        for event in batch.drain(..) {
            self.handle(event, now);
        }
    }

    fn turn(&mut self, now: Duration) -> Next {
        if self.shared.mailboxes.hub.is_closed() {
            return Next::End;
        }
        if self.shared.corruption.serves_nothing() {
            // The history of this member is not to be believed: watchers go on when it is again.
            return Next::At(now + IDLE);
        }
        // A dropped batch may have been the last of its burst.
        self.resync_if_missed();
        self.hub.tick(now);
        let pause = self.catch_up(now);
        self.publish_stats();
        Next::At(now + pause)
    }
}
