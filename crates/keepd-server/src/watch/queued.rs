//! What waits on one stream for its client: events, bounded in number and bytes, and answers, each of
//! which has had its place since its request was read.
//!
//! A request whose answer has no place is not read. It must not come to that with a client that reads
//! at all: the HTTP/2 library ends a connection on which too many small messages lie unread. So a
//! stream has places of its own, and many more that all streams share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use keepd_types::limits;
use keepd_watch::{CloseReason, Sink, StreamMessage};
use tokio::sync::{Semaphore, mpsc};

/// Bytes of events that may wait on one stream, beside the bound on responses.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Places for answers that every stream has for itself.
const OWN_PLACES: usize = 1024;
/// Places that one stream may borrow, and all streams together: about 100 bytes each.
const BORROWED_MAX: usize = 64 * 1024;
const SHARED_PLACES: usize = 1024 * 1024;

/// The places that streams borrow from.
pub(super) fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(SHARED_PLACES))
}

/// A stream's queue: the hub's end, the count of what waits, and the client's end.
pub(super) fn queue(
    shared: Arc<Semaphore>,
) -> (StreamSink, Arc<Queued>, mpsc::Receiver<StreamMessage>) {
    let messages_max = limits::WATCH_STREAM_RESPONSES_MAX + OWN_PLACES + BORROWED_MAX;
    let (sender, messages) = mpsc::channel(messages_max);
    let queued = Arc::new(Queued {
        events: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
        own: Semaphore::new(OWN_PLACES),
        shared,
        borrowed: AtomicUsize::new(0),
    });
    (StreamSink { sender: Some(sender), queued: Arc::clone(&queued) }, queued, messages)
}

/// What waits on one stream.
#[derive(Debug)]
pub(super) struct Queued {
    /// Messages that are no answers.
    events: AtomicUsize,
    /// Bytes of events.
    bytes: AtomicUsize,
    own: Semaphore,
    shared: Arc<Semaphore>,
    borrowed: AtomicUsize,
}

impl Queued {
    /// Keeps a place for the answer to a request; waits while the client has too many to read.
    pub(super) async fn keep_place(&self) {
        if let Ok(place) = self.own.try_acquire() {
            return place.forget();
        }
        if self.borrowed.load(Ordering::Acquire) < BORROWED_MAX
            && let Ok(place) = self.shared.try_acquire()
        {
            place.forget();
            self.borrowed.fetch_add(1, Ordering::AcqRel);
            return;
        }
        self.own.acquire().await.expect("nobody closes it").forget();
    }

    /// Frees a place: its own first, since a request may wait for one.
    fn free_place(&self) {
        if self.own.available_permits() < OWN_PLACES {
            return self.own.add_permits(1);
        }
        let one_less = |borrowed: usize| borrowed.checked_sub(1);
        let given_back = self.borrowed.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less);
        if given_back.is_ok() {
            self.shared.add_permits(1);
        }
    }

    fn has_room(&self) -> bool {
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
            self.free_place();
        } else {
            self.events.fetch_sub(1, Ordering::AcqRel);
            self.bytes.fetch_sub(weight(message), Ordering::AcqRel);
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.shared.add_permits(*self.borrowed.get_mut());
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
        self.queued.free_place();
    }

    fn try_send(&mut self, message: StreamMessage) -> Result<(), StreamMessage> {
        if self.queued.has_room() { self.send(message) } else { Err(message) }
    }

    fn has_room(&self) -> bool {
        self.sender.is_some() && self.queued.has_room()
    }

    fn close(&mut self, reason: CloseReason) {
        tracing::warn!(?reason, "a watch stream is ended: its client does not keep up");
        self.sender = None;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use keepd_watch::WatchId;

    use super::*;

    fn created(id: i64) -> StreamMessage {
        StreamMessage::Created { watch_id: WatchId(id), header_revision: 1 }
    }

    #[tokio::test]
    async fn answers_have_their_places_and_give_them_back() {
        let shared = places();
        let (mut sink, queued, mut messages) = queue(Arc::clone(&shared));
        for id in 0..OWN_PLACES + BORROWED_MAX {
            queued.keep_place().now_or_never().expect("there is a place");
            sink.answer(created(i64::try_from(id).unwrap()));
        }
        assert_eq!(shared.available_permits(), SHARED_PLACES - BORROWED_MAX);
        let mut waiting = Box::pin(queued.keep_place());
        assert!(waiting.as_mut().now_or_never().is_none(), "nothing has been read");
        // Events have room of their own.
        let compacted = StreamMessage::Compacted { watch_id: WatchId(0), compact_revision: 1 };
        sink.try_send(compacted).unwrap();
        queued.remove(&messages.try_recv().unwrap());
        waiting.await;
        while let Ok(message) = messages.try_recv() {
            queued.remove(&message);
        }
        assert_eq!(shared.available_permits(), SHARED_PLACES - 1, "one request is under way");
        sink.unanswered();
        assert_eq!(shared.available_permits(), SHARED_PLACES);
    }

    #[tokio::test]
    async fn a_stream_that_ends_gives_back_what_it_borrowed_and_others_have_their_own() {
        let shared = Arc::new(Semaphore::new(10));
        let (_sink, greedy, _messages) = queue(Arc::clone(&shared));
        for _ in 0..OWN_PLACES + 10 {
            greedy.keep_place().now_or_never().expect("there is a place");
        }
        assert!(greedy.keep_place().now_or_never().is_none());
        let (_other_sink, other, _other_messages) = queue(Arc::clone(&shared));
        other.keep_place().now_or_never().expect("everyone has some");
        drop((_sink, greedy));
        assert_eq!(shared.available_permits(), 10);
    }

    #[tokio::test]
    async fn events_are_bounded_in_number() {
        let (mut sink, queued, mut messages) = queue(places());
        let compacted = || StreamMessage::Compacted { watch_id: WatchId(0), compact_revision: 1 };
        for _ in 0..limits::WATCH_STREAM_RESPONSES_MAX {
            sink.try_send(compacted()).unwrap();
        }
        assert!(!sink.has_room());
        sink.try_send(compacted()).unwrap_err();
        queued.remove(&messages.try_recv().unwrap());
        sink.try_send(compacted()).unwrap();
    }
}
