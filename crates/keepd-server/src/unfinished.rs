//! Bounds on requests that are not whole yet.
//!
//! A client may open streams, send a part of a message on each and leave it at that. What it makes
//! the member hold that way is counted by the bytes that came, never by those that were announced:
//! for each connection, and for all of them together. Requests that come in one frame, as nearly all
//! do, are not counted at all.
//!
//! A request for which its connection has no room is not read on: HTTP/2's windows fill, and its
//! client waits. When all connections together are at their bound, a connection that holds much gets
//! no more, and for one that holds little others lose requests that wait for their clients: first
//! where many bytes have been held for long without anything coming. So neither greedy clients nor
//! thousands of silent ones lock out the others, and a large request that is being sent is not taken
//! for a silent one. A request that finds no room in time, or has to go, ends with
//! RESOURCE_EXHAUSTED.
//!
//! While a stream is not read, HTTP/2 holds as much as its window allows, and the windows of thousands
//! of connections are more than there is memory. So the streams that wait unread are counted too, and
//! requests of a few kilobytes are read on while they wait, so that they come through in any case.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use crate::peer::Peer;
use crate::unread::Unread;

/// BOUND: one connection: twenty of the largest requests by default.
const CONNECTION_BYTES: usize = 32 * 1024 * 1024;
/// BOUND: all connections.
const TOTAL_BYTES: usize = 96 * 1024 * 1024;
/// Bytes that an unfinished request takes up beside its message, as measured: its stream in the
/// library and the future that answers it.
pub(crate) const REQUEST_BYTES: usize = 8 * 1024;
/// BOUND: streams of all connections that wait unread: 64 MiB in their windows.
const UNREAD_STREAMS_MAX: usize = 256;
/// BOUND: those of one connection. The HTTP/2 library ends a connection on which too many small
/// frames lie unread; this many full windows of them are fewer (`listener::connection`).
pub(crate) const UNREAD_STREAMS_OF_CONNECTION_MAX: usize = 64;
/// BOUND: small requests of all connections that are read on while they wait for room: 96 MiB.
const SMALL_MAX: usize = 4096;
/// The time for which a request waits for room.
pub(crate) const ROOM_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that a connection may hold and still have others make room for it.
const FAIR_BYTES: usize = 8 * 1024 * 1024;
/// Room among all connections below which requests are evicted, and how much is evicted at once.
const SCARCE_BYTES: usize = 1024 * 1024;
/// The pause between two evictions, whoever asks for them.
const EVICTION_PAUSE: Duration = Duration::from_millis(20);
/// Silence shorter than this counts as this long, so that a few bytes now and then hide nothing.
const SILENCE_MIN: Duration = Duration::from_millis(50);

/// The bounds of all connections of a member.
#[derive(Debug)]
pub(crate) struct Unfinished {
    room: Semaphore,
    unread_streams: Semaphore,
    small: Semaphore,
    connection_bytes: usize,
    connections: Mutex<BTreeMap<u64, Weak<Share>>>,
    next_connection: AtomicU64,
    started: Instant,
    last_eviction: Mutex<Option<Instant>>,
}

/// The part of one connection.
#[derive(Debug)]
pub(crate) struct Share {
    all: Arc<Unfinished>,
    number: u64,
    room: Semaphore,
    unread_streams: Semaphore,
    held: AtomicUsize,
    /// The time at which bytes were last counted, in milliseconds after the start of the member.
    active_at: AtomicU64,
    /// Requests that wait for their client, and can be evicted.
    evictable: AtomicUsize,
    /// Tells the request that has waited longest for its client to go.
    evict: Notify,
    /// Its answers that are not read.
    pub(crate) unread: Arc<Unread>,
    pub(crate) peer: Peer,
}

impl Unfinished {
    /// For requests of at most `request_bytes`.
    pub(crate) fn new(request_bytes: usize) -> Arc<Self> {
        // A request that needed more than all there is would never be whole.
        let connection_bytes = CONNECTION_BYTES.max(2 * request_bytes);
        Arc::new(Self {
            room: Semaphore::new(TOTAL_BYTES.max(2 * connection_bytes)),
            unread_streams: Semaphore::new(UNREAD_STREAMS_MAX),
            small: Semaphore::new(SMALL_MAX),
            connection_bytes,
            connections: Mutex::default(),
            next_connection: AtomicU64::new(0),
            started: Instant::now(),
            last_eviction: Mutex::default(),
        })
    }

    /// The share of a new connection.
    pub(crate) fn share(self: &Arc<Self>, peer: Peer) -> Arc<Share> {
        let share = Arc::new(Share {
            all: Arc::clone(self),
            number: self.next_connection.fetch_add(1, Ordering::Relaxed),
            room: Semaphore::new(self.connection_bytes),
            unread_streams: Semaphore::new(UNREAD_STREAMS_OF_CONNECTION_MAX),
            held: AtomicUsize::new(0),
            active_at: AtomicU64::new(self.millis()),
            evictable: AtomicUsize::new(0),
            evict: Notify::new(),
            unread: Arc::default(),
            peer,
        });
        self.connections.lock().insert(share.number, Arc::downgrade(&share));
        share
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Evicts requests for a connection that needs room: of the others, where the product of bytes
    /// held and time of silence is largest.
    fn evict_for(&self, needy: &Share) {
        {
            let (mut last, now) = (self.last_eviction.lock(), Instant::now());
            if last.is_some_and(|last| now < last + EVICTION_PAUSE) {
                return;
            }
            *last = Some(now);
        }
        let shares: Vec<_> = self.connections.lock().values().filter_map(Weak::upgrade).collect();
        let now = self.millis();
        let mut others: Vec<_> = shares
            .iter()
            .filter(|share| share.number != needy.number)
            .filter(|share| share.evictable.load(Ordering::Relaxed) > 0)
            .map(|share| (share.weight(now), share))
            .collect();
        others.sort_unstable_by_key(|(weight, _)| Reverse(*weight));
        let mut evicted_bytes = 0;
        for (_, share) in others {
            if evicted_bytes >= SCARCE_BYTES {
                break;
            }
            evicted_bytes += share.held.load(Ordering::Relaxed);
            share.evict.notify_one();
        }
    }

    fn is_full(&self) -> bool {
        self.room.available_permits() < SCARCE_BYTES
    }
}

impl Share {
    /// Bytes held, times the milliseconds since something came.
    fn weight(&self, now: u64) -> u128 {
        let silence = now.saturating_sub(self.active_at.load(Ordering::Relaxed));
        let silence = u128::from(silence).max(SILENCE_MIN.as_millis());
        self.held.load(Ordering::Relaxed) as u128 * silence
    }

    fn note_activity(&self) {
        self.active_at.store(self.all.millis(), Ordering::Relaxed);
    }

    /// Completes when a request of this connection that waits for its client has to go.
    pub(crate) async fn evicted(&self) -> Status {
        let _evictable = Evictable::new(&self.evictable);
        loop {
            self.evict.notified().await;
            // Told when no request was waiting, it may come too late.
            if self.all.is_full() {
                return full();
            }
        }
    }

    /// Permits for a stream to wait unread; there are only some for a connection, and for all.
    pub(crate) fn wait_unread(&self) -> Result<[SemaphorePermit<'_>; 2], Status> {
        let own = self.unread_streams.try_acquire().map_err(|_none| full())?;
        Ok([own, self.all.unread_streams.try_acquire().map_err(|_none| full())?])
    }

    /// The permit for a small request to wait for room while it is read on.
    pub(crate) fn wait_small(&self) -> Result<SemaphorePermit<'_>, Status> {
        self.all.small.try_acquire().map_err(|_none| full())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.all.connections.lock().remove(&self.number);
    }
}

/// Counts a request that can be evicted, until dropped.
struct Evictable<'a>(&'a AtomicUsize);

impl<'a> Evictable<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Evictable<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The refusal of a request for the sake of all connections.
pub(crate) fn full() -> Status {
    refused("the server holds too many bytes of unfinished requests")
}

fn refused(reason: &str) -> Status {
    Status::resource_exhausted(format!("keepd: {reason}; send fewer large requests at once"))
}

/// The bytes that one request holds, until dropped.
#[derive(Debug)]
pub(crate) struct Held {
    share: Arc<Share>,
    bytes: usize,
}

impl Held {
    /// Nothing yet.
    pub(crate) const fn new(share: Arc<Share>) -> Self {
        Self { share, bytes: 0 }
    }

    pub(crate) const fn share(&self) -> &Arc<Share> {
        &self.share
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts more bytes once there is room for them. Its stream is not read meanwhile.
    pub(crate) async fn add(&mut self, bytes: usize) -> Result<(), Status> {
        if self.try_add(bytes) {
            return Ok(());
        }
        let share = Arc::clone(&self.share);
        let _unread = share.wait_unread()?;
        self.wait(bytes).await
    }

    /// Counts more bytes once there is room for them, for one whose stream is read meanwhile.
    pub(crate) async fn wait(&mut self, bytes: usize) -> Result<(), Status> {
        let (share, all) = (&self.share, &self.share.all);
        let count = u32::try_from(bytes).unwrap_or(u32::MAX);
        let own = match share.room.try_acquire_many(count) {
            Ok(own) => own,
            Err(_) => {
                match tokio::time::timeout(ROOM_TIMEOUT, share.room.acquire_many(count)).await {
                    Ok(own) => own.expect("the semaphore is never closed"),
                    Err(_elapsed) => {
                        let reason = "this connection has too many bytes of unfinished requests";
                        return Err(refused(reason));
                    }
                }
            }
        };
        // One place in the queue is kept to the end: what others let go of gathers there.
        let mut among_all = pin!(all.room.acquire_many(count));
        let deadline = Instant::now() + ROOM_TIMEOUT;
        let among_all = loop {
            let next = Instant::now() + EVICTION_PAUSE;
            if let Ok(room) = timeout_at(next, among_all.as_mut()).await {
                break room.expect("the semaphore is never closed");
            }
            // What others let go of is for those who hold little, and waiting takes up memory too.
            if share.held.load(Ordering::Relaxed) > FAIR_BYTES || Instant::now() >= deadline {
                return Err(full());
            }
            all.evict_for(share);
        };
        own.forget();
        among_all.forget();
        share.note_activity();
        share.held.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        Ok(())
    }

    /// Counts more bytes if there is room for them now.
    pub(crate) fn try_add(&mut self, bytes: usize) -> bool {
        let (share, all) = (&self.share, &self.share.all);
        let count = u32::try_from(bytes).unwrap_or(u32::MAX);
        let rooms = (share.room.try_acquire_many(count), all.room.try_acquire_many(count));
        let (Ok(own), Ok(among_all)) = rooms else { return false };
        own.forget();
        among_all.forget();
        share.note_activity();
        share.held.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        true
    }

    /// Gives everything back.
    pub(crate) fn release(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes > 0 {
            self.share.held.fetch_sub(bytes, Ordering::Relaxed);
            self.share.room.add_permits(bytes);
            self.share.all.room.add_permits(bytes);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tonic::Code;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_at_its_bound_waits_and_is_refused_in_the_end() {
        let all = Unfinished::new(1024);
        let share = all.share(Peer::default());
        let (mut first, mut second) = (Held::new(Arc::clone(&share)), Held::new(share));
        first.add(CONNECTION_BYTES).await.unwrap();
        let refused = second.add(1).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        // Another connection is not concerned.
        Held::new(all.share(Peer::default())).add(CONNECTION_BYTES).await.unwrap();

        let waiting = second.add(1);
        let freed = async move { drop(first) };
        tokio::join!(waiting, freed).0.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_is_full_the_largest_gives_way() {
        let all = Unfinished::new(1024);
        let (greedy, modest) = (all.share(Peer::default()), all.share(Peer::default()));
        let mut small = Held::new(modest);
        small.add(1024).await.unwrap();
        let mut others: Vec<_> = (0..2).map(|_| Held::new(all.share(Peer::default()))).collect();
        for other in &mut others {
            other.add(CONNECTION_BYTES - 1024).await.unwrap();
        }
        let mut large = Held::new(Arc::clone(&greedy));
        large.add(CONNECTION_BYTES).await.unwrap();
        let evicted = tokio::spawn(async move {
            let status = greedy.evicted().await;
            drop(large);
            status
        });
        tokio::task::yield_now().await;
        small.add(1024 * 1024).await.unwrap();
        assert_eq!(evicted.await.unwrap().code(), Code::ResourceExhausted);
    }

    /// A large request that is being sent is not what thousands of silent ones have to fear.
    #[tokio::test(start_paused = true)]
    async fn the_silent_go_before_a_larger_one_that_is_being_sent() {
        const MIB: usize = 1024 * 1024;
        let all = Unfinished::new(1024);
        let mut silent = Vec::new();
        for _ in 0..23 {
            let share = all.share(Peer::default());
            let mut held = Held::new(Arc::clone(&share));
            held.add(4 * MIB).await.unwrap();
            silent.push(tokio::spawn(async move {
                share.evicted().await;
                drop(held);
            }));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let sent = all.share(Peer::default());
        let mut large = Held::new(Arc::clone(&sent));
        large.add(4 * MIB - MIB / 2).await.unwrap();
        let evicted = tokio::spawn(async move { sent.evicted().await });
        tokio::task::yield_now().await;
        let mut needy = Held::new(all.share(Peer::default()));
        needy.add(2 * MIB).await.unwrap();
        large.add(4 * MIB).await.unwrap();
        assert!(!evicted.is_finished());
        assert!(silent.iter().filter(|silent| silent.is_finished()).count() >= 2);
    }

    #[tokio::test]
    async fn streams_of_one_connection_that_wait_unread_are_a_share_of_all() {
        let all = Unfinished::new(1024);
        let (greedy, other) = (all.share(Peer::default()), all.share(Peer::default()));
        let waiting = || greedy.wait_unread();
        let held: Vec<_> = (0..UNREAD_STREAMS_OF_CONNECTION_MAX).map(|_| waiting()).collect();
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(waiting().unwrap_err().code(), Code::ResourceExhausted);
        assert!(other.wait_unread().is_ok());
    }

    /// A large request among many connections that hold little each has to be the largest some day.
    #[tokio::test(start_paused = true)]
    async fn whoever_needs_room_does_not_give_way_to_itself() {
        const MIB: usize = 1024 * 1024;
        let all = Unfinished::new(1024);
        let mut large = Held::new(all.share(Peer::default()));
        large.add(7 * MIB).await.unwrap();
        for mib in [5].into_iter().chain([6; 14]) {
            let other = all.share(Peer::default());
            let mut held = Held::new(Arc::clone(&other));
            held.add(mib * MIB).await.unwrap();
            tokio::spawn(async move {
                other.evicted().await;
                drop(held);
            });
        }
        assert!(all.is_full());
        large.add(MIB / 2).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_up_while_it_waits_holds_nothing() {
        let all = Unfinished::new(1024);
        let mut full: Vec<_> = (0..3).map(|_| Held::new(all.share(Peer::default()))).collect();
        for held in &mut full {
            held.add(CONNECTION_BYTES).await.unwrap();
        }
        let share = all.share(Peer::default());
        let mut late = Held::new(Arc::clone(&share));
        assert!(tokio::time::timeout(EVICTION_PAUSE * 2, late.add(7)).await.is_err());
        assert_eq!(late.add(7).await.unwrap_err().code(), Code::ResourceExhausted);
        drop((late, full));
        assert_eq!(share.room.available_permits(), CONNECTION_BYTES);
        assert_eq!(all.room.available_permits(), TOTAL_BYTES);
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_wait_unread_are_bounded_in_all() {
        let all = Unfinished::new(1024);
        let mut full: Vec<_> = (0..3).map(|_| Held::new(all.share(Peer::default()))).collect();
        for held in &mut full {
            held.add(CONNECTION_BYTES).await.unwrap();
        }
        let mut late: Vec<_> =
            (0..=UNREAD_STREAMS_MAX).map(|_| Held::new(all.share(Peer::default()))).collect();
        let mut waiting: Vec<_> = late.iter_mut().map(|held| Box::pin(held.add(7))).collect();
        let mut refused = waiting.pop().unwrap();
        for waiting in &mut waiting {
            assert!(waiting.as_mut().now_or_never().is_none(), "it may wait");
        }
        let refused = refused.as_mut().now_or_never().expect("one too many");
        assert_eq!(refused.unwrap_err().code(), Code::ResourceExhausted);
        drop(waiting);
        assert_eq!(all.unread_streams.available_permits(), UNREAD_STREAMS_MAX);
    }

    #[tokio::test]
    async fn the_largest_request_always_fits() {
        let all = Unfinished::new(64 * 1024 * 1024);
        Held::new(all.share(Peer::default())).add(64 * 1024 * 1024).await.unwrap();
    }
}
