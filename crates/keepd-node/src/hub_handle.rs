//! The way into the watch hub, for the tasks that serve watch streams. Cheap to clone.

use std::sync::Arc;
use std::time::Duration;

use keepd_types::RangeEnd;
use keepd_watch::{Sink, StreamId, WatchId, WatchSpec};
use tokio::sync::{Semaphore, oneshot};

use crate::error::Error;
use crate::mailbox::Mailbox;
use crate::messages::{HUB_REQUEST_BYTES_MAX, HubEvent, Request};

/// Bytes that a request counts beside its keys.
const REQUEST_BYTES: usize = 256;

/// The way into the watch hub.
#[derive(Clone, Debug)]
pub struct HubHandle {
    mailbox: Arc<Mailbox<HubEvent>>,
    /// Bytes that requests may have under way.
    under_way: Arc<Semaphore>,
}

impl HubHandle {
    pub(crate) const fn new(mailbox: Arc<Mailbox<HubEvent>>, under_way: Arc<Semaphore>) -> Self {
        Self { mailbox, under_way }
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
        self.mailbox.close();
    }

    /// Whether all streams have been ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.mailbox.is_closed()
    }

    /// Ends a stream.
    pub fn close_stream(&self, stream: StreamId) {
        self.mailbox.push(HubEvent::Close(stream));
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
        let is_taken = self.mailbox.push(HubEvent::Request(request, place));
        if is_taken { Ok(()) } else { Err(Error::Stopped) }
    }
}
