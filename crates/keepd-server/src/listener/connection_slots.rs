//! Slots of connections: bounds their number and closes silent ones.
//!
//! All listeners of a server share one [`ConnectionSlots`]. A new connection is always accepted.
//! Bounded are the connections that have not sent a request yet, and the descriptors of all of them.
//! At a bound the connection that has been silent longest is closed. If none is silent the new one
//! waits, not served, until another one ends, as with etcd's `LimitListener`.
//!
//! The kernel gives out the lowest free descriptor, so the descriptor of a new connection tells how
//! many are open in the process, files included.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::proc_fs;

/// Descriptors that connections leave to files, as in etcd.
pub const RESERVED_DESCRIPTORS: u64 = 150;
/// Connections that have said nothing yet, on all listeners together.
const SILENT_MAX: usize = 1024;
/// Those of one source address.
const SILENT_OF_SOURCE_MAX: usize = SILENT_MAX / 4;
/// Connections within their handshake, or between it and the first request.
const OPENING_MAX: usize = 8192;
/// Interval of the log messages about connections that were closed or kept waiting.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The purpose of a listener, which decides on its share of the descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Clients: all there are.
    Client,
    /// Members: a quarter.
    Peer,
    /// Metrics and health: an eighth.
    Metrics,
}

impl Endpoint {
    /// As the log names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Peer => "peer",
            Self::Metrics => "metrics",
        }
    }

    const fn share(self, all: usize) -> usize {
        match self {
            Self::Client => all,
            Self::Peer => all / 4,
            Self::Metrics => all / 8,
        }
    }
}

/// The source against which connections are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// An IPv4 address, or an IPv6 network: a client has all addresses of its own one.
    Address(IpAddr),
    /// A unix socket.
    Local,
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// The progress of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    /// Nothing usable has come.
    Silent,
    /// The handshake goes on, or the first request has not come.
    Opening,
    /// It has sent a request.
    Settled,
}

/// The slots of a server.
#[derive(Debug)]
pub(crate) struct ConnectionSlots {
    /// The first descriptor of the reserve for files.
    descriptors_max: usize,
    state: Mutex<State>,
    /// Notified whenever a connection ends.
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    open: [usize; 3],
    ended: u64,
    next: u64,
    silent: BTreeMap<u64, Waiting>,
    silent_of: HashMap<Source, BTreeSet<u64>>,
    opening: BTreeMap<u64, Waiting>,
    closed: Tally,
    kept_waiting: Tally,
}

/// A connection that may be closed for others.
#[derive(Debug)]
struct Waiting {
    source: Source,
    endpoint: Endpoint,
    give_way: CancellationToken,
}

/// The number of events since the last log message about them.
#[derive(Debug, Default)]
struct Tally {
    count: u64,
    told: Option<Instant>,
}

impl Tally {
    /// Counts one more; returns the number to log, if it is time.
    fn add(&mut self) -> Option<u64> {
        self.count += 1;
        let now = Instant::now();
        if self.told.is_some_and(|told| now.duration_since(told) < TELL_EVERY) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

impl ConnectionSlots {
    /// Bounds descriptors by the limit of the process.
    pub(crate) fn of_process() -> Arc<Self> {
        let limit = proc_fs::descriptors_max().unwrap_or(u64::MAX);
        let most = limit.saturating_sub(RESERVED_DESCRIPTORS);
        Self::new(usize::try_from(most).unwrap_or(usize::MAX))
    }

    fn new(descriptors_max: usize) -> Arc<Self> {
        Arc::new(Self { descriptors_max, state: Mutex::default(), ended: Notify::new() })
    }

    /// Takes a connection, once there is a descriptor for it.
    pub(super) async fn admit(
        self: &Arc<Self>,
        endpoint: Endpoint,
        source: Source,
        descriptor: Option<RawFd>,
    ) -> Slot {
        let descriptor = descriptor.and_then(|it| usize::try_from(it).ok());
        let is_last = descriptor.is_some_and(|it| it >= self.descriptors_max);
        let share = endpoint.share(self.descriptors_max).max(1);
        let mut ended_before = None;
        loop {
            let ended = self.ended.notified();
            let mut ended = std::pin::pin!(ended);
            ended.as_mut().enable();
            {
                let mut state = self.state.lock();
                let ended_before = *ended_before.get_or_insert(state.ended);
                let is_over_share = state.open[endpoint as usize] >= share;
                let is_over = is_last && ended_before == state.ended;
                if !is_over_share && !is_over {
                    return self.take(&mut state, endpoint, source);
                }
                let class = is_over_share.then_some(endpoint);
                if !state.close_silent(|waiting| class.is_none_or(|it| it == waiting.endpoint))
                    && let Some(count) = state.kept_waiting.add()
                {
                    tracing::warn!(
                        endpoint = endpoint.name(),
                        count,
                        limit = self.descriptors_max,
                        "new connections wait for others to end: the limit of open files is \
                         reached, but for the reserve for files; raise it (LimitNOFILE=)"
                    );
                }
            }
            ended.await;
        }
    }

    fn take(self: &Arc<Self>, state: &mut State, endpoint: Endpoint, source: Source) -> Slot {
        let own = state.silent_of.get(&source);
        if let Some(own) = own.filter(|own| own.len() >= SILENT_OF_SOURCE_MAX) {
            let oldest = *own.first().expect("it is not empty");
            state.close(oldest);
        } else if state.silent.len() >= SILENT_MAX {
            state.close_silent(|_| true);
        }
        state.next += 1;
        let id = state.next;
        let give_way = CancellationToken::new();
        state.open[endpoint as usize] += 1;
        state.silent.insert(id, Waiting { source, endpoint, give_way: give_way.clone() });
        state.silent_of.entry(source).or_default().insert(id);
        let stage = AtomicU8::new(Stage::Silent as u8);
        Slot { slots: Arc::clone(self), id, endpoint, stage, give_way }
    }
}

impl State {
    /// Closes the connection that has been silent longest among some; false if there is none.
    fn close_silent(&mut self, among: impl Fn(&Waiting) -> bool) -> bool {
        let oldest = self.silent.iter().find(|(_, waiting)| among(waiting));
        let oldest = oldest.map(|(id, _)| *id);
        oldest.is_some_and(|oldest| self.close(oldest))
    }

    fn close(&mut self, id: u64) -> bool {
        let Some(waiting) = self.remove(id) else { return false };
        waiting.give_way.cancel();
        if let Some(count) = self.closed.add() {
            tracing::warn!(
                endpoint = waiting.endpoint.name(),
                count,
                "closed the connections that had been silent longest, to let others in"
            );
        }
        true
    }

    fn remove(&mut self, id: u64) -> Option<Waiting> {
        let Some(waiting) = self.silent.remove(&id) else { return self.opening.remove(&id) };
        if let Some(own) = self.silent_of.get_mut(&waiting.source) {
            own.remove(&id);
            if own.is_empty() {
                self.silent_of.remove(&waiting.source);
            }
        }
        Some(waiting)
    }
}

/// A connection's place; it ends with it.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<ConnectionSlots>,
    id: u64,
    endpoint: Endpoint,
    stage: AtomicU8,
    give_way: CancellationToken,
}

impl Slot {
    /// The client has begun a handshake.
    pub(super) fn opening(&self) {
        self.stage.store(Stage::Opening as u8, Ordering::Release);
        let mut state = self.slots.state.lock();
        if let Some(waiting) = state.remove(self.id) {
            if state.opening.len() >= OPENING_MAX
                && let Some((&oldest, _)) = state.opening.first_key_value()
            {
                state.close(oldest);
            }
            state.opening.insert(self.id, waiting);
        }
    }

    /// The client has asked something, or was answered.
    pub(super) fn settled(&self) {
        self.stage.store(Stage::Settled as u8, Ordering::Release);
        self.slots.state.lock().remove(self.id);
    }

    /// Completes when the connection has to be closed for another one.
    pub(super) async fn gives_way(&self) {
        self.give_way.cancelled().await;
        let stage = self.stage.load(Ordering::Acquire);
        // Bytes may have come for which the connection was not polled yet.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        if self.stage.load(Ordering::Acquire) != stage || stage == Stage::Settled as u8 {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.state.lock();
        state.remove(self.id);
        state.open[self.endpoint as usize] -= 1;
        state.ended += 1;
        drop(state);
        self.slots.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use futures_util::FutureExt as _;

    use super::*;

    const LOW: Option<RawFd> = Some(3);

    fn source(last: u8) -> Source {
        Source::from(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)))
    }

    async fn is_closed(slot: &Slot) -> bool {
        tokio::time::timeout(Duration::from_millis(20), slot.gives_way()).await.is_ok()
    }

    #[tokio::test]
    async fn the_oldest_silent_one_gives_way_and_never_one_that_has_spoken() {
        let slots = ConnectionSlots::new(usize::MAX);
        let mut tickets = Vec::new();
        for i in 0..SILENT_MAX {
            let source = source(u8::try_from(i % 8).unwrap());
            tickets.push(slots.admit(Endpoint::Client, source, LOW).await);
        }
        tickets[0].opening();
        tickets[1].settled();
        for _ in 0..3 {
            tickets.push(slots.admit(Endpoint::Client, source(9), LOW).await);
        }
        assert!(!is_closed(&tickets[0]).await && !is_closed(&tickets[1]).await);
        assert!(is_closed(&tickets[2]).await, "the first of those that are silent");
        assert!(!is_closed(&tickets[3]).await);
    }

    #[tokio::test]
    async fn a_source_has_a_share_of_the_silent_ones() {
        let slots = ConnectionSlots::new(usize::MAX);
        let other = slots.admit(Endpoint::Client, source(2), LOW).await;
        let mut tickets = Vec::new();
        for _ in 0..=SILENT_OF_SOURCE_MAX {
            tickets.push(slots.admit(Endpoint::Client, source(1), LOW).await);
        }
        assert!(!is_closed(&other).await);
        assert!(is_closed(&tickets[0]).await);
        assert!(!is_closed(&tickets[1]).await);
    }

    #[test]
    fn a_network_of_ipv6_is_one_source_and_mapped_addresses_are_ipv4() {
        let of = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("::1"), Source::from(IpAddr::V6(Ipv6Addr::from_bits(1 << 64))));
    }

    #[tokio::test]
    async fn one_that_speaks_at_the_last_moment_stays() {
        let slots = ConnectionSlots::new(usize::MAX);
        let slot = slots.admit(Endpoint::Client, source(1), LOW).await;
        slots.state.lock().close_silent(|_| true);
        let gives_way = slot.gives_way();
        let mut gives_way = std::pin::pin!(gives_way);
        assert!(gives_way.as_mut().now_or_never().is_none());
        slot.settled();
        assert!(tokio::time::timeout(Duration::from_millis(20), gives_way).await.is_err());
    }

    #[tokio::test]
    async fn without_a_descriptor_the_new_one_waits_for_the_end_of_another() {
        const LAST: Option<RawFd> = Some(100);
        let slots = ConnectionSlots::new(100);
        let asked = slots.admit(Endpoint::Client, source(1), LOW).await;
        asked.settled();
        let mut waiting = Box::pin(slots.admit(Endpoint::Client, source(1), LAST));
        assert!(waiting.as_mut().now_or_never().is_none(), "nobody is silent");
        drop(asked);
        let taken = waiting.await;
        let mut waiting = Box::pin(slots.admit(Endpoint::Client, source(1), LAST));
        assert!(waiting.as_mut().now_or_never().is_none(), "the silent one has not ended yet");
        assert!(is_closed(&taken).await);
        drop(taken);
        waiting.await;
    }

    #[tokio::test]
    async fn metrics_leave_descriptors_to_clients() {
        let slots = ConnectionSlots::new(80);
        let mut scrapers = Vec::new();
        for _ in 0..10 {
            let scraper = slots.admit(Endpoint::Metrics, source(1), LOW).await;
            scraper.settled();
            scrapers.push(scraper);
        }
        let mut more = Box::pin(slots.admit(Endpoint::Metrics, source(1), LOW));
        assert!(more.as_mut().now_or_never().is_none());
        slots.admit(Endpoint::Client, source(1), LOW).now_or_never().expect("clients go on");
        scrapers.pop();
        more.await;
    }
}
