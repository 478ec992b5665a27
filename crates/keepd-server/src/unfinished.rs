//! Bounds on requests that are not whole yet.
//!
//! A client may open streams, send a part of a message on each and leave it at that. What it makes
//! the member hold that way is counted by the bytes that came, never by those that were announced:
//! for each connection, and for all of them together. Requests that come in one frame, as nearly all
//! do, are not counted at all.
//!
//! A request for which its connection has no room is not read on: HTTP/2's windows fill, and its
//! client waits. When all connections together are at their bound, those that hold much get no more,
//! and the one that holds most loses the request that has waited longest for the sake of those who
//! hold little, so that greedy clients do not lock out the others. What finds no room in time, or has
//! to go, ends with RESOURCE_EXHAUSTED.
//!
//! While a stream is not read, HTTP/2 holds as much as its window allows, and the windows of thousands
//! of connections are more than there is memory. So the streams that wait unread are counted too, and
//! requests of a few kilobytes are read on while they wait, so that they come through in any case.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tonic::Status;

use crate::grpc::call::Peer;
use crate::unread::Unread;

/// BOUND: one connection: twenty of the largest requests by default.
const CONNECTION_BYTES: usize = 32 * 1024 * 1024;
/// BOUND: all connections.
const TOTAL_BYTES: usize = 96 * 1024 * 1024;
/// What an unfinished request takes up beside the bytes of its message, as measured: its stream in
/// the library, the future that answers it.
pub(crate) const REQUEST_BYTES: usize = 8 * 1024;
/// BOUND: streams of all connections that wait unread: 64 MiB in their windows.
const UNREAD_STREAMS_MAX: usize = 256;
/// BOUND: small requests of all connections that are read on while they wait for room: 96 MiB.
const SMALL_MAX: usize = 4096;
/// How long a request waits for room.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// What a connection may hold and still have others make room for it when there is none.
const FAIR_BYTES: usize = 8 * 1024 * 1024;
/// There is no room as long as there is less than this.
const SCARCE_BYTES: usize = 1024 * 1024;
/// How long a request waits for room among all connections before it looks again, and how often.
const GRACE: Duration = Duration::from_millis(100);
const LOOKS_MAX: u32 = 50;

/// What the connections of a member share.
#[derive(Debug)]
pub(crate) struct Unfinished {
    room: Semaphore,
    unread_streams: Semaphore,
    small: Semaphore,
    connection_bytes: usize,
    connections: Mutex<BTreeMap<u64, Weak<Share>>>,
    next_connection: AtomicU64,
}

/// The part of one connection.
#[derive(Debug)]
pub(crate) struct Share {
    all: Arc<Unfinished>,
    number: u64,
    room: Semaphore,
    held: AtomicUsize,
    /// Tells the request that has waited longest to go.
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
        })
    }

    /// The share of a new connection.
    pub(crate) fn share(self: &Arc<Self>, peer: Peer) -> Arc<Share> {
        let share = Arc::new(Share {
            all: Arc::clone(self),
            number: self.next_connection.fetch_add(1, Ordering::Relaxed),
            room: Semaphore::new(self.connection_bytes),
            held: AtomicUsize::new(0),
            evict: Notify::new(),
            unread: Arc::default(),
            peer,
        });
        self.connections.lock().insert(share.number, Arc::downgrade(&share));
        share
    }

    /// Lets the connection that holds most, but for the one that needs room, give up a request.
    fn evict_for(&self, needy: &Share) {
        let shares: Vec<_> = self.connections.lock().values().filter_map(Weak::upgrade).collect();
        let others = shares.iter().filter(|share| share.number != needy.number);
        let largest = others.max_by_key(|share| share.held.load(Ordering::Relaxed));
        if let Some(largest) = largest {
            largest.evict.notify_one();
        }
    }

    fn is_full(&self) -> bool {
        self.room.available_permits() < SCARCE_BYTES
    }
}

impl Share {
    /// Waits until this connection has to give up a request, for one that waits to become whole.
    pub(crate) async fn evicted(&self) -> Status {
        loop {
            self.evict.notified().await;
            // Told when no request was waiting, it may come too late.
            if self.all.is_full() {
                return full();
            }
        }
    }

    /// Lets a stream wait unread for as long as the permit is kept, if it may.
    pub(crate) fn wait_unread(&self) -> Result<SemaphorePermit<'_>, Status> {
        self.all.unread_streams.try_acquire().map_err(|_none| full())
    }

    /// Lets a small request wait for room while it is read on, for as long as the permit is kept.
    pub(crate) fn wait_small(&self) -> Result<SemaphorePermit<'_>, Status> {
        self.all.small.try_acquire().map_err(|_none| full())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.all.connections.lock().remove(&self.number);
    }
}

/// What is told where a request is refused for the sake of all connections.
pub(crate) fn full() -> Status {
    refused("the server holds too many bytes of unfinished requests")
}

fn refused(reason: &str) -> Status {
    Status::resource_exhausted(format!("keepd: {reason}; send fewer large requests at once"))
}

/// What one request holds, until it is dropped.
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
            Err(_) => match tokio::time::timeout(PATIENCE, share.room.acquire_many(count)).await {
                Ok(own) => own.expect("nobody closes it"),
                Err(_elapsed) => {
                    let reason = "this connection has too many bytes of unfinished requests";
                    return Err(refused(reason));
                }
            },
        };
        let mut among_all = all.room.try_acquire_many(count).ok();
        for _ in 0..LOOKS_MAX {
            if among_all.is_some() {
                break;
            }
            if share.held.load(Ordering::Relaxed) > FAIR_BYTES {
                // What others let go of is for those who hold little, and waiting takes up memory too.
                break;
            }
            all.evict_for(share);
            let room = tokio::time::timeout(GRACE, all.room.acquire_many(count)).await;
            among_all = room.ok().map(|room| room.expect("nobody closes it"));
        }
        let Some(among_all) = among_all else {
            return Err(full());
        };
        own.forget();
        among_all.forget();
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
        small.add(1024 * 1024).await.unwrap();
        assert_eq!(evicted.await.unwrap().code(), Code::ResourceExhausted);
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
        assert!(tokio::time::timeout(GRACE / 2, late.add(7)).await.is_err());
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
