//! The hub thread: owns the watch hub.
//!
//! Receives applied batches from the apply thread and requests from the streams' tasks; hands
//! messages to the streams' bounded queues. When applied batches come faster than it takes them,
//! some are dropped here and every watcher catches up from the store's history instead.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keepd_types::RangeEnd;
use keepd_watch::{Batch, Hub, Limits, Sink, StreamId, WatchId, WatchSpec, Work};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::error::Error;
use crate::shared::Shared;

/// Bytes of requests that streams may have under way here; more wait for their turn.
pub(crate) const REQUEST_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// What a request counts beside its keys.
const REQUEST_BYTES: usize = 256;
/// How long the thread sleeps when every watcher is synced.
const IDLE: Duration = Duration::from_millis(100);
/// How long it sleeps when some stream takes nothing.
const BLOCKED: Duration = Duration::from_millis(10);

/// What the hub thread reacts to.
pub(crate) enum HubEvent {
    /// Applied changes.
    Publish(Batch),
    /// The end of a stream.
    Close(StreamId),
    /// What a client asks, and its place among the requests under way.
    Request(Request, OwnedSemaphorePermit),
}

/// What a client asks of the hub.
pub(crate) enum Request {
    /// A new stream.
    Open { sink: Box<dyn Sink>, progress_interval: Duration, reply: oneshot::Sender<Opened> },
    /// A new watcher.
    Create(StreamId, Box<WatchSpec>),
    /// The end of a watcher.
    Cancel(StreamId, WatchId),
    /// A stream asks how far all its watchers are.
    Progress(StreamId),
}

impl std::fmt::Debug for HubEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Publish(_) => "Publish",
            Self::Close(_) => "Close",
            Self::Request(Request::Open { .. }, _) => "Open",
            Self::Request(Request::Create(..), _) => "Create",
            Self::Request(Request::Cancel(..), _) => "Cancel",
            Self::Request(Request::Progress(_), _) => "Progress",
        })
    }
}

/// A stream that is closed again unless its opener takes it: the opener's task may end at any time.
pub(crate) struct Opened {
    stream: Option<StreamId>,
    hub: HubHandle,
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.hub.close_stream(stream);
        }
    }
}

/// The way into the watch hub.
#[derive(Clone, Debug)]
pub struct HubHandle {
    pub(crate) shared: Arc<Shared>,
}

impl HubHandle {
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
        self.shared.hub.close();
    }

    /// Whether all streams have been ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.hub.is_closed()
    }

    /// Ends a stream.
    pub fn close_stream(&self, stream: StreamId) {
        self.shared.hub.hand(HubEvent::Close(stream));
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
        let under_way = Arc::clone(&self.shared.hub_requests);
        let place = under_way.acquire_many_owned(bytes.min(REQUEST_BYTES_MAX)).await;
        let place = place.map_err(|_closed| Error::Stopped)?;
        let handed = self.shared.hub.hand(HubEvent::Request(request, place));
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
            let _ = reply.send(Opened { stream, hub: HubHandle { shared: Arc::clone(shared) } });
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
