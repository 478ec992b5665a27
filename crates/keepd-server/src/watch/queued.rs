//! The queue of one watch stream: events, bounded in number and bytes, and answers, each of which has
//! had its place since its request was read (`answer_places`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use keepd_types::limits;
use keepd_watch::{CloseReason, Sink, StreamMessage};
use tokio::sync::{Semaphore, mpsc};

use crate::answer_places::{ANSWERS_MAX, AnswerPlaces};
use crate::unfinished::Share;

/// Bytes of events that may wait on one stream, beside the bound on responses.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// A stream's queue: the hub's end, the count of what waits, and the client's end.
pub(super) fn queue(
    shared: Arc<Semaphore>,
    connection: Arc<Share>,
) -> (StreamSink, Arc<Queued>, mpsc::Receiver<StreamMessage>) {
    let messages_max = limits::WATCH_STREAM_RESPONSES_MAX + ANSWERS_MAX;
    let (sender, messages) = mpsc::channel(messages_max);
    let queued = Arc::new(Queued {
        events: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
        places: AnswerPlaces::new(shared, Arc::clone(&connection)),
    });
    let sink = StreamSink { sender: Some(sender), queued: Arc::clone(&queued), connection };
    (sink, queued, messages)
}

/// The number and bytes of messages that wait on one stream.
#[derive(Debug)]
pub(super) struct Queued {
    /// Messages that are no answers.
    events: AtomicUsize,
    /// Bytes of events.
    bytes: AtomicUsize,
    pub(super) places: AnswerPlaces,
}

impl Queued {
    fn has_capacity(&self) -> bool {
        self.events.load(Ordering::Acquire) < limits::WATCH_STREAM_RESPONSES_MAX
            && self.bytes.load(Ordering::Acquire) < BYTES_MAX
    }

    fn add(&self, message: &StreamMessage) {
        if !message.is_answer() {
            self.events.fetch_add(1, Ordering::AcqRel);
            self.bytes.fetch_add(weight(message), Ordering::AcqRel);
        }
    }

    /// A message has been taken out of the queue.
    pub(super) fn remove(&self, message: &StreamMessage) {
        if message.is_answer() {
            self.places.free();
        } else {
            self.events.fetch_sub(1, Ordering::AcqRel);
            self.bytes.fetch_sub(weight(message), Ordering::AcqRel);
        }
    }
}

fn weight(message: &StreamMessage) -> usize {
    match message {
        StreamMessage::Events(events) => events.bytes(),
        StreamMessage::Created { .. }
        | StreamMessage::Refused { .. }
        | StreamMessage::Canceled { .. }
        | StreamMessage::Compacted { .. }
        | StreamMessage::Unreadable { .. }
        | StreamMessage::Progress { .. } => 0,
    }
}

/// The hub's end of a stream's queue.
pub(super) struct StreamSink {
    sender: Option<mpsc::Sender<StreamMessage>>,
    queued: Arc<Queued>,
    connection: Arc<Share>,
}

impl StreamSink {
    /// Sends a message for which there is room, unless the client has gone.
    fn send(&self, message: StreamMessage) -> Result<(), StreamMessage> {
        let Some(sender) = &self.sender else { return Err(message) };
        self.queued.add(&message);
        sender.try_send(message).map_err(|refused| {
            let message = refused.into_inner();
            self.queued.remove(&message);
            message
        })
    }
}

impl Sink for StreamSink {
    fn answer(&mut self, message: StreamMessage) {
        // A client that has gone needs no answer.
        let _ = self.send(message);
    }

    fn unanswered(&mut self) {
        self.queued.places.free();
    }

    fn try_send(&mut self, message: StreamMessage) -> Result<(), StreamMessage> {
        if self.queued.has_capacity() { self.send(message) } else { Err(message) }
    }

    fn has_capacity(&self) -> bool {
        self.sender.is_some() && self.queued.has_capacity()
    }

    fn close(&mut self, reason: CloseReason) {
        let client = &self.connection.peer;
        tracing::warn!(?reason, %client, "a watch stream is ended: its client does not keep up");
        self.sender = None;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use keepd_watch::WatchId;

    use super::*;
    use crate::peer::Peer;
    use crate::unfinished::Unfinished;

    fn connection() -> Arc<Share> {
        Unfinished::new(1024).share(Peer::default())
    }

    fn created(id: i64) -> StreamMessage {
        StreamMessage::Created { watch_id: WatchId(id), header_revision: 1 }
    }

    #[tokio::test]
    async fn answers_keep_their_places_until_they_are_taken() {
        let shared = Arc::new(Semaphore::new(1));
        let (mut sink, queued, mut messages) = queue(shared, connection());
        for id in 0..1025 {
            queued.places.reserve().now_or_never().expect("there is a place").unwrap();
            sink.answer(created(id));
        }
        let mut waiting = Box::pin(queued.places.reserve());
        assert!(waiting.as_mut().now_or_never().is_none(), "nothing has been read");
        // Events have room of their own.
        let compacted = StreamMessage::Compacted { watch_id: WatchId(0), compact_revision: 1 };
        sink.try_send(compacted).unwrap();
        queued.remove(&messages.try_recv().unwrap());
        waiting.await.unwrap();
        sink.unanswered();
        queued.places.reserve().now_or_never().expect("the request needs no answer").unwrap();
    }

    #[tokio::test]
    async fn events_are_bounded_in_number() {
        let (mut sink, queued, mut messages) = queue(crate::answer_places::shared(), connection());
        let compacted = || StreamMessage::Compacted { watch_id: WatchId(0), compact_revision: 1 };
        for _ in 0..limits::WATCH_STREAM_RESPONSES_MAX {
            sink.try_send(compacted()).unwrap();
        }
        assert!(!sink.has_capacity());
        sink.try_send(compacted()).unwrap_err();
        queued.remove(&messages.try_recv().unwrap());
        sink.try_send(compacted()).unwrap();
    }
}
