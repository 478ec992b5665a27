//! The hub thread: owns the watch hub.
//!
//! Receives applied batches from the apply thread and requests from the streams' tasks; hands
//! messages to the streams' bounded queues. When applied batches come faster than it takes them,
//! some are dropped here and every watcher catches up from the store's history instead.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keepd_types::RangeEnd;
use keepd_watch::{Hub, Limits, Sink, StreamId, WatchId, WatchSpec, Work};
use tokio::sync::{Semaphore, oneshot};

use crate::error::Error;
use crate::inbox::Inbox;
use crate::messages::{HUB_REQUEST_BYTES_MAX, HubEvent, Opened, Request};
use crate::shared::Shared;

/// What a request counts beside its keys.
const REQUEST_BYTES: usize = 256;
/// How long the thread sleeps when every watcher is synced.
const IDLE: Duration = Duration::from_millis(100);
/// How long it sleeps when some stream takes nothing.
const BLOCKED: Duration = Duration::from_millis(10);

/// The way into the watch hub.
#[derive(Clone, Debug)]
pub struct HubHandle {
    inbox: Arc<Inbox<HubEvent>>,
    /// Bytes that requests may have under way.
    under_way: Arc<Semaphore>,
}

impl HubHandle {
    pub(crate) const fn new(inbox: Arc<Inbox<HubEvent>>, under_way: Arc<Semaphore>) -> Self {
        Self { inbox, under_way }
    }

    /// Opens a stream that writes into `sink`.
    ///
    /// # Errors
    /// `Stopped`.
    pub async fn open_stream(
        &self,
        sink: Box<dyn Sink>,
        progress_interval: Duration,
    ) -> Result<StreamId, Error> {
        let (reply, id) = oneshot::channel();
        self.ask(Request::Open { sink, progress_interval, reply }, 0).await?;
        let mut opened = id.await.map_err(|_closed| Error::Stopped)?;
        Ok(opened.stream.take().expect("it is taken once"))
    }

    /// Ends all streams, and takes no new ones.
    pub fn close(&self) {
        self.inbox.close();
    }

    /// Whether all streams have been ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inbox.is_closed()
    }

    /// Ends a stream.
    pub fn close_stream(&self, stream: StreamId) {
        self.inbox.hand(HubEvent::Close(stream));
    }

    /// Creates a watcher; the answer comes through the sink, which has kept a place for it. Waits
    /// while too many requests are under way, as the others here do.
    ///
    /// # Errors
    /// `Stopped`.
    pub async fn create(&self, stream: StreamId, spec: WatchSpec) -> Result<(), Error> {
        let end = match &spec.range.end {
            RangeEnd::Before(end) => end.len(),
            RangeEnd::Point | RangeEnd::Open => 0,
        };
        let keys = spec.range.start.len() + end;
        self.ask(Request::Create(stream, Box::new(spec)), keys).await
    }

    /// Ends a watcher; the answer comes through the sink.
    ///
    /// # Errors
    /// `Stopped`.
    pub async fn cancel(&self, stream: StreamId, watch: WatchId) -> Result<(), Error> {
        self.ask(Request::Cancel(stream, watch), 0).await
    }

    /// Asks how far all watchers of a stream are; the answer comes through the sink.
    ///
    /// # Errors
    /// `Stopped`.
    pub async fn progress(&self, stream: StreamId) -> Result<(), Error> {
        self.ask(Request::Progress(stream), 0).await
    }

    async fn ask(&self, request: Request, key_bytes: usize) -> Result<(), Error> {
        let bytes = u32::try_from(REQUEST_BYTES.saturating_add(key_bytes)).unwrap_or(u32::MAX);
        let under_way = Arc::clone(&self.under_way);
        let place = under_way.acquire_many_owned(bytes.min(HUB_REQUEST_BYTES_MAX)).await;
        let place = place.map_err(|_closed| Error::Stopped)?;
        let handed = self.inbox.hand(HubEvent::Request(request, place));
        if handed { Ok(()) } else { Err(Error::Stopped) }
    }
}

/// The thread's loop.
pub(crate) fn run(shared: &Arc<Shared>) {
    let mut hub = Hub::new(Limits::default(), shared.views.clone());
    let mut events = Vec::new();
    let mut patience = IDLE;
    while !shared.is_halted() && !shared.hub.is_closed() {
        shared.hub.drain(&mut events, patience);
        for event in events.drain(..) {
            handle(shared, &mut hub, event);
        }
        // A dropped batch may have been the last of its burst.
        resync_if_missed(shared, &mut hub);
        let now = shared.env.clock.monotonic();
        hub.tick(now);
        patience = match hub.catch_up(now) {
            Ok(Work::Idle) => IDLE,
            Ok(Work::Blocked) => BLOCKED,
            Ok(Work::More) => Duration::ZERO,
            Err(error) if error.is_damage() => {
                // The damage itself is told once, by the housekeeping; clients may ask again and again.
                tracing::debug!(%error, "watches are cancelled: their history is damaged");
                Duration::ZERO
            }
            Err(error) => {
                tracing::error!(%error, "watches are cancelled: the history that they need cannot be read");
                Duration::ZERO
            }
        };
        let stats = hub.stats();
        let metrics = &shared.metrics;
        metrics.watch_streams.store(stats.streams as u64, Ordering::Relaxed);
        metrics.watchers.store(stats.watchers as u64, Ordering::Relaxed);
        metrics.slow_watchers.store(stats.unsynced as u64, Ordering::Relaxed);
    }
}

fn resync_if_missed(shared: &Shared, hub: &mut Hub) {
    if shared.hub_missed.swap(false, Ordering::AcqRel) {
        hub.resync(shared.views.clone());
    }
}

fn handle(shared: &Arc<Shared>, hub: &mut Hub, event: HubEvent) {
    match event {
        HubEvent::Publish(batch) => {
            // ORDER: a dropped batch sets the flag before a later batch is queued.
            resync_if_missed(shared, hub);
            hub.publish(&batch);
        }
        HubEvent::Close(stream) => hub.close_stream(stream),
        HubEvent::Request(request, _place) => answer(shared, hub, request),
    }
}

fn answer(shared: &Arc<Shared>, hub: &mut Hub, request: Request) {
    match request {
        Request::Open { sink, progress_interval, reply } => {
            let now = shared.env.clock.monotonic();
            let stream = Some(hub.open_stream(sink, now, progress_interval));
            // Nobody may wait any more: then it is closed by being dropped.
            let _ = reply.send(Opened { stream, hub: Arc::clone(&shared.hub) });
        }
        Request::Create(stream, spec) => {
            hub.create(stream, *spec);
        }
        Request::Cancel(stream, watch) => {
            hub.cancel(stream, watch);
        }
        Request::Progress(stream) => hub.progress_request(stream),
    }
}
