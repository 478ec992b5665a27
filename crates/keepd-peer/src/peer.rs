//! Another member, as the network knows it: its connection, what comes in from it, its counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use keepd_node::Lane;
use keepd_types::MemberId;
use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::counters::{Counters, count};
use crate::queue::SendQueue;

/// A histogram: upper bounds with cumulative counts, sum in seconds, count.
pub type Times = (Vec<(f64, u64)>, f64, u64);

/// The state of the connections with a peer, for metrics and the log.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// The peer.
    pub id: MemberId,
    /// Whether messages come in and go out.
    pub is_active: bool,
    /// The time since which the connection to it is up; `None` if it is not.
    pub connected_for: Option<Duration>,
    /// Bytes of frames sent to it.
    pub sent_bytes: u64,
    /// Bytes of frames received from it.
    pub received_bytes: u64,
    /// Messages that were dropped, and connections that broke.
    pub sent_failures: u64,
    /// Streams from it that broke, or were ended because of what came in them.
    pub received_failures: u64,
    /// Failed attempts to connect to it.
    pub dial_failures: u64,
    /// Connections to it that ended.
    pub disconnects: u64,
    /// States that it took, failed ones, states taken from it, failed ones.
    pub states: [u64; 4],
    /// States that are being sent to it, and received from it.
    pub states_under_way: [u64; 2],
    /// The times of states that it took, and of those that were taken from it.
    pub state_seconds: [Times; 2],
    /// The last round trip.
    pub round_trip: Option<Duration>,
    /// All round trips.
    pub round_trips: Times,
}

/// The connection to a peer.
#[derive(Debug)]
struct Up {
    queue: Arc<SendQueue>,
    since: Instant,
}

/// The task that dials a peer.
#[derive(Debug)]
struct Dialing {
    urls: Vec<String>,
    stop: CancellationToken,
}

/// The streams of a peer in one lane.
#[derive(Debug, Default)]
struct Incoming {
    /// Ends the stream that is served.
    stop: Mutex<CancellationToken>,
    /// Held by the stream that is served.
    serving: Arc<tokio::sync::Mutex<()>>,
}

/// Another member.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: MemberId,
    pub(crate) counters: Arc<Counters>,
    up: Mutex<Option<Up>>,
    dialing: Mutex<Option<Dialing>>,
    control: Incoming,
    log: Incoming,
    heard: Mutex<Option<Instant>>,
    urls: watch::Sender<Vec<String>>,
}

impl Peer {
    pub(crate) fn new(id: MemberId) -> Arc<Self> {
        Arc::new(Self {
            id,
            counters: Arc::default(),
            up: Mutex::new(None),
            dialing: Mutex::new(None),
            control: Incoming::default(),
            log: Incoming::default(),
            heard: Mutex::new(None),
            urls: watch::Sender::new(Vec::new()),
        })
    }

    /// The URLs that it is dialed at.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.urls.borrow().clone()
    }

    /// Queues a message, if it is connected.
    pub(crate) fn send(&self, lane: Lane, message: Bytes) -> bool {
        let queue = self.up.lock().as_ref().map(|up| Arc::clone(&up.queue));
        let is_queued = queue.is_some_and(|queue| queue.push(lane, message));
        if !is_queued {
            count(&self.counters.sent_failures);
        }
        is_queued
    }

    /// Bytes that wait to be sent in a lane.
    pub(crate) fn queued_bytes(&self, lane: Lane) -> usize {
        self.up.lock().as_ref().map_or(0, |up| up.queue.bytes(lane))
    }

    /// Begins to dial it at these URLs; `None` if that is done already.
    pub(crate) fn dial(
        &self,
        urls: Vec<String>,
        parent: &CancellationToken,
    ) -> Option<CancellationToken> {
        let mut dialing = self.dialing.lock();
        if dialing.as_ref().is_some_and(|it| it.urls == urls && !it.stop.is_cancelled()) {
            return None;
        }
        self.urls.send_replace(urls.clone());
        let stop = parent.child_token();
        if let Some(before) = dialing.replace(Dialing { urls, stop: stop.clone() }) {
            before.stop.cancel();
        }
        // ORDER: the token is cancelled before its connection is looked for, and `connected` looks at
        // the token under the same lock: no connection of the former URLs stays.
        self.hang_up();
        Some(stop)
    }

    /// Neither dials nor listens to it any more.
    pub(crate) fn leave(&self) {
        if let Some(dialing) = self.dialing.lock().take() {
            dialing.stop.cancel();
        }
        self.hang_up();
        for incoming in [&self.control, &self.log] {
            incoming.stop.lock().cancel();
        }
    }

    fn hang_up(&self) {
        if let Some(up) = self.up.lock().take() {
            up.queue.close();
        }
    }

    /// Opens the queue of a new connection, unless its dialing was stopped.
    pub(crate) fn connected(&self, queue: &Arc<SendQueue>, stop: &CancellationToken) -> bool {
        let mut up = self.up.lock();
        if stop.is_cancelled() {
            return false;
        }
        let before = up.replace(Up { queue: Arc::clone(queue), since: Instant::now() });
        assert!(before.is_none(), "one task dials a peer, one connection at a time");
        true
    }

    /// Closes the queue of a connection that ended.
    pub(crate) fn disconnected(&self, queue: &Arc<SendQueue>) {
        let mut up = self.up.lock();
        if up.as_ref().is_some_and(|up| Arc::ptr_eq(&up.queue, queue)) {
            *up = None;
        }
        drop(up);
        queue.close();
    }

    const fn incoming(&self, lane: Lane) -> &Incoming {
        match lane {
            Lane::Control => &self.control,
            Lane::Log => &self.log,
        }
    }

    /// Takes over a lane for a new stream: the stream that was served before ends first, so that no
    /// message of it comes behind one of the new stream.
    pub(crate) async fn serve(
        &self,
        lane: Lane,
        parent: &CancellationToken,
    ) -> (CancellationToken, OwnedMutexGuard<()>) {
        let incoming = self.incoming(lane);
        let stop = parent.child_token();
        let before = std::mem::replace(&mut *incoming.stop.lock(), stop.clone());
        before.cancel();
        let serving = Arc::clone(&incoming.serving).lock_owned().await;
        (stop, serving)
    }

    /// Notes that something came from it.
    pub(crate) fn heard(&self, bytes: usize) {
        self.counters.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        *self.heard.lock() = Some(Instant::now());
    }

    /// Counts bytes of a state.
    pub(crate) fn heard_state(&self, bytes: usize) {
        self.counters.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Whether it is connected, and was heard of within `lately`.
    pub(crate) fn is_active(&self, lately: Duration) -> bool {
        let is_heard = self.heard.lock().is_some_and(|heard| heard.elapsed() < lately);
        is_heard && self.up.lock().is_some()
    }

    pub(crate) fn status(&self, lately: Duration) -> PeerStatus {
        let counters = &self.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PeerStatus {
            id: self.id,
            is_active: self.is_active(lately),
            connected_for: self.up.lock().as_ref().map(|up| up.since.elapsed()),
            sent_bytes: read(&counters.sent_bytes),
            received_bytes: read(&counters.received_bytes),
            sent_failures: read(&counters.sent_failures),
            received_failures: read(&counters.received_failures),
            dial_failures: read(&counters.dial_failures),
            disconnects: read(&counters.disconnects),
            states: [
                read(&counters.states_sent),
                read(&counters.state_send_failures),
                read(&counters.states_received),
                read(&counters.state_receive_failures),
            ],
            states_under_way: [0, 1].map(|way: usize| read(&counters.states_under_way[way])),
            state_seconds: [0, 1].map(|way: usize| counters.state_seconds[way].read()),
            round_trip: *counters.last_round_trip.lock(),
            round_trips: counters.round_trips.read(),
        }
    }
}
