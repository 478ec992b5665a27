//! The messages that wait for one connection, in two lanes, and the bodies that carry them.
//!
//! A queue lives as long as its connection: what waits when it breaks is dropped with it, so that
//! nothing is sent twice. Each lane is a stream of its own, hence neither waits for the other.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use keepd_node::{Lane, Refusal};
use parking_lot::Mutex;

use crate::counters::Counters;
use crate::protocol::{self, HEAD_BYTES, Kind};

/// BOUND: bytes that wait in the lane of heartbeats.
pub(crate) const CONTROL_BYTES_MAX: usize = 1024 * 1024;
/// BOUND: bytes that wait in the lane of entries. One message, however long, is always taken.
pub(crate) const LOG_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes of small messages that travel together, and of the pieces of long ones.
const BATCH_BYTES: usize = 64 * 1024;
/// A longer message is sent from the memory that it is in.
const COPIED_BYTES_MAX: usize = 16 * 1024;

const fn bytes_max(lane: Lane) -> usize {
    match lane {
        Lane::Control => CONTROL_BYTES_MAX,
        Lane::Log => LOG_BYTES_MAX,
    }
}

/// The messages of one connection.
#[derive(Debug)]
pub(crate) struct SendQueue {
    control: Mutex<Waiting>,
    log: Mutex<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    messages: VecDeque<Bytes>,
    /// Of the messages, and of one that is under way.
    bytes: usize,
    ping: Option<u64>,
    last: Option<Bytes>,
    is_closed: bool,
    waker: Option<Waker>,
}

impl Waiting {
    fn new() -> Mutex<Self> {
        Mutex::new(Self {
            messages: VecDeque::new(),
            bytes: 0,
            ping: None,
            last: None,
            is_closed: false,
            waker: None,
        })
    }
}

impl SendQueue {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { control: Waiting::new(), log: Waiting::new() })
    }

    const fn lane(&self, lane: Lane) -> &Mutex<Waiting> {
        match lane {
            Lane::Control => &self.control,
            Lane::Log => &self.log,
        }
    }

    fn change<R>(&self, lane: Lane, change: impl FnOnce(&mut Waiting) -> R) -> R {
        let mut waiting = self.lane(lane).lock();
        let result = change(&mut waiting);
        let waker = waiting.waker.take();
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
        result
    }

    /// Queues a message; `false` if the lane is full or closed.
    pub(crate) fn push(&self, lane: Lane, message: Bytes) -> bool {
        self.change(lane, |waiting| {
            // BOUND: an empty message counts too, with its head.
            let bytes = HEAD_BYTES + message.len();
            let is_full = waiting.bytes > 0 && waiting.bytes + bytes > bytes_max(lane);
            if is_full || waiting.is_closed {
                return false;
            }
            waiting.bytes += bytes;
            waiting.messages.push_back(message);
            true
        })
    }

    /// Queues a ping, before all messages.
    pub(crate) fn ping(&self, lane: Lane, number: u64) {
        self.change(lane, |waiting| waiting.ping = Some(number));
    }

    /// Ends a lane by a refusal.
    pub(crate) fn refuse(&self, lane: Lane, refusal: &Refusal) {
        self.change(lane, |waiting| waiting.last = Some(protocol::refused_frame(refusal)));
    }

    /// Drops what waits; the bodies end.
    pub(crate) fn close(&self) {
        for lane in [Lane::Control, Lane::Log] {
            self.change(lane, |waiting| {
                waiting.is_closed = true;
                waiting.messages.clear();
            });
        }
    }

    /// Bytes that wait in a lane.
    pub(crate) fn bytes(&self, lane: Lane) -> usize {
        self.lane(lane).lock().bytes
    }
}

/// The body that carries a lane.
pub(crate) struct LaneBody {
    queue: Arc<SendQueue>,
    lane: Lane,
    counters: Arc<Counters>,
    greeting: Option<Bytes>,
    /// The rest of a long message, and its length in the queue's account.
    rest: Bytes,
    rest_counts: usize,
}

impl LaneBody {
    pub(crate) fn new(
        queue: Arc<SendQueue>,
        lane: Lane,
        greeting: Bytes,
        counters: Arc<Counters>,
    ) -> Self {
        let (greeting, rest, rest_counts) = (Some(greeting), Bytes::new(), 0);
        Self { queue, lane, counters, greeting, rest, rest_counts }
    }

    /// The next piece of a long message.
    fn piece(&mut self) -> Bytes {
        let piece = self.rest.split_to(self.rest.len().min(BATCH_BYTES));
        if self.rest.is_empty() {
            let mut waiting = self.queue.lane(self.lane).lock();
            waiting.bytes -= std::mem::take(&mut self.rest_counts);
            // It would keep the message's memory.
            self.rest = Bytes::new();
        }
        piece
    }

    /// The frames that wait and go together: `Ready(None)` if there is no more, ever.
    fn batch(&mut self, task: &Context<'_>) -> Poll<Option<Bytes>> {
        let mut waiting = self.queue.lane(self.lane).lock();
        if waiting.is_closed {
            return Poll::Ready(None);
        }
        if let Some(last) = waiting.last.take() {
            waiting.is_closed = true;
            return Poll::Ready(Some(last));
        }
        let mut batch = BytesMut::new();
        if let Some(number) = waiting.ping.take() {
            batch.extend_from_slice(&protocol::number_frame(Kind::Ping, number));
        }
        while batch.len() < BATCH_BYTES
            && let Some(message) = waiting.messages.pop_front()
        {
            protocol::put_head(Kind::Message, message.len(), &mut batch);
            if message.len() > COPIED_BYTES_MAX {
                self.rest_counts = HEAD_BYTES + message.len();
                self.rest = message;
                break;
            }
            waiting.bytes -= HEAD_BYTES + message.len();
            batch.extend_from_slice(&message);
        }
        if batch.is_empty() {
            waiting.waker = Some(task.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Some(batch.freeze()))
    }
}

impl Body for LaneBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = if let Some(greeting) = self.greeting.take() {
            Some(greeting)
        } else if !self.rest.is_empty() {
            Some(self.piece())
        } else {
            std::task::ready!(self.batch(task))
        };
        let sent = bytes.as_ref().map_or(0, Bytes::len);
        self.counters.sent_bytes.fetch_add(sent as u64, Ordering::Relaxed);
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(body: &mut LaneBody) -> Poll<Option<Bytes>> {
        let mut task = Context::from_waker(Waker::noop());
        Pin::new(body)
            .poll_frame(&mut task)
            .map(|frame| frame.map(|frame| frame.unwrap().into_data().unwrap()))
    }

    fn body(queue: &Arc<SendQueue>, lane: Lane) -> LaneBody {
        let mut body =
            LaneBody::new(Arc::clone(queue), lane, Bytes::from_static(b"hi"), Arc::default());
        assert_eq!(next(&mut body), Poll::Ready(Some(Bytes::from_static(b"hi"))));
        assert_eq!(next(&mut body), Poll::Pending);
        body
    }

    #[test]
    fn small_messages_travel_together_behind_the_ping() {
        let queue = SendQueue::new();
        let mut body = body(&queue, Lane::Control);
        for message in ["a", "bc"] {
            assert!(queue.push(Lane::Control, message.into()));
        }
        queue.ping(Lane::Control, 1);
        let sent = b"\x05\0\0\0\x08\0\0\0\0\0\0\0\x01\x04\0\0\0\x01a\x04\0\0\0\x02bc";
        assert_eq!(next(&mut body), Poll::Ready(Some(Bytes::from_static(sent))));
        assert_eq!(next(&mut body), Poll::Pending);
        assert_eq!(queue.bytes(Lane::Control), 0);
    }

    #[test]
    fn a_long_message_is_sent_in_pieces_and_counts_until_the_last() {
        let queue = SendQueue::new();
        let mut body = body(&queue, Lane::Log);
        let long = Bytes::from(vec![7; BATCH_BYTES + 1]);
        assert!(queue.push(Lane::Log, long.clone()) && queue.push(Lane::Log, "x".into()));
        let pieces: Vec<_> = std::iter::from_fn(|| match next(&mut body) {
            Poll::Ready(piece) => piece.map(|piece| (piece.len(), queue.bytes(Lane::Log))),
            Poll::Pending => None,
        })
        .collect();
        let (all, one) = (long.len() + HEAD_BYTES + 6, 6);
        assert_eq!(pieces, [(HEAD_BYTES, all), (BATCH_BYTES, all), (1, one), (6, 0)]);
    }

    #[test]
    fn a_full_lane_drops_and_the_other_does_not() {
        let queue = SendQueue::new();
        let message = Bytes::from(vec![0; 1024]);
        let taken = (0..2000).filter(|_| queue.push(Lane::Control, message.clone())).count();
        assert!(taken * (1024 + HEAD_BYTES) <= CONTROL_BYTES_MAX && taken > 1000, "{taken}");
        assert!(queue.push(Lane::Log, Bytes::from(vec![0; LOG_BYTES_MAX + 1])), "the only one");
        assert!(!queue.push(Lane::Log, message));
    }

    #[test]
    fn a_closed_queue_takes_nothing_and_ends() {
        let queue = SendQueue::new();
        let mut body = body(&queue, Lane::Log);
        queue.push(Lane::Log, "a".into());
        queue.close();
        assert!(!queue.push(Lane::Log, "b".into()));
        assert_eq!(next(&mut body), Poll::Ready(None));
    }
}
