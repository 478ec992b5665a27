//! The network between the members of a simulation.
//!
//! Each lane between two members keeps its order, as a connection does. A seed chooses how long a
//! message takes; faults cut links one way or both, lose messages, give some twice, and hold a
//! connection up. Who loses messages is told, sometimes late and sometimes not at all, as by TCP.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keepd_env::{Clock, ManualClock, Random, SeededRandom};
use keepd_node::{Lane, PeerAddress, StateSink, StateSource, Transport};
use keepd_types::MemberId;
use parking_lot::Mutex;

/// The shortest time that a message takes.
const LATENCY_MIN: Duration = Duration::from_micros(100);
/// BOUND: messages of one lane that are under way.
const LANE_MAX: usize = 10_000;
/// Time after which a receiver without room is asked again.
const FULL_PAUSE: Duration = Duration::from_millis(2);
/// Chances are drawn out of so many.
const CHANCES: u64 = 1_000_000;

/// The faults of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Of a million messages so many are lost.
    pub lost: u64,
    /// Of a million messages so many come twice.
    pub doubled: u64,
    /// The longest time that a message takes beside the shortest.
    pub jitter: Duration,
}

impl Faults {
    /// No faults: messages are late by a little.
    #[must_use]
    pub const fn calm() -> Self {
        Self { lost: 0, doubled: 0, jitter: Duration::from_millis(1) }
    }
}

/// BOUND: states that a member sends at once, as over the real network.
const STATES_MAX: usize = 2;
/// Time that a chunk of a state takes, of 256 KiB at most.
const CHUNK_TIME: Duration = Duration::from_millis(2);

/// A state on its way from one member to another.
pub(crate) struct Transfer {
    at: Duration,
    pub(crate) from: MemberId,
    pub(crate) to: MemberId,
    pub(crate) head: Bytes,
    pub(crate) source: Box<dyn StateSource>,
    /// The receiver's end, once it has the head.
    pub(crate) sink: Option<Box<dyn StateSink>>,
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transfer({} to {})", self.from, self.to)
    }
}

/// Messages of one lane from one member to another.
type Link = (MemberId, MemberId, bool);

#[derive(Debug)]
struct State {
    random: SeededRandom,
    faults: Faults,
    links: BTreeMap<Link, VecDeque<(Duration, Bytes)>>,
    /// Cut links, each in one direction.
    cut: BTreeSet<(MemberId, MemberId)>,
    /// The members that each one was told of: only these are reached.
    known: BTreeMap<MemberId, BTreeSet<MemberId>>,
    /// Members that have ended and not come back.
    ended: BTreeSet<MemberId>,
    /// States on their way, in the order in which their next chunk arrives.
    transfers: VecDeque<Transfer>,
    /// States that were begun and that arrived.
    states_begun: u64,
    states: u64,
    /// The ends of states that did not arrive, for a person to read.
    failed: Vec<String>,
    /// Senders who have yet to be told of a loss.
    losses: VecDeque<(MemberId, MemberId)>,
    sent: u64,
    lost: u64,
    /// Bytes that reach a member as others of the same length: whatever lets members diverge.
    altered: Vec<(MemberId, Vec<u8>, Vec<u8>)>,
}

/// The network between the members of a simulation.
#[derive(Clone, Debug)]
pub struct SimNetwork {
    clock: ManualClock,
    state: Arc<Mutex<State>>,
}

/// A message that has arrived.
#[derive(Debug)]
pub(crate) struct Arrival {
    link: Link,
    pub(crate) from: MemberId,
    pub(crate) to: MemberId,
    pub(crate) message: Bytes,
}

impl SimNetwork {
    /// A network that delivers everything, in an order that the seed chooses.
    #[must_use]
    pub fn new(seed: u64, clock: ManualClock) -> Self {
        let state = State {
            random: SeededRandom::new(seed),
            faults: Faults::calm(),
            links: BTreeMap::new(),
            cut: BTreeSet::new(),
            known: BTreeMap::new(),
            ended: BTreeSet::new(),
            transfers: VecDeque::new(),
            states_begun: 0,
            states: 0,
            failed: Vec::new(),
            losses: VecDeque::new(),
            sent: 0,
            lost: 0,
            altered: Vec::new(),
        };
        Self { clock, state: Arc::new(Mutex::new(state)) }
    }

    /// One member's end of it.
    #[must_use]
    pub fn of(&self, member: MemberId) -> Arc<dyn Transport> {
        self.state.lock().ended.remove(&member);
        Arc::new(SimTransport { network: self.clone(), member })
    }

    /// Sets the faults from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// Cuts the link from one member to another, in this direction.
    pub fn cut(&self, from: MemberId, to: MemberId) {
        self.state.lock().cut.insert((from, to));
    }

    /// Cuts a member off from these others, in both directions.
    pub fn isolate(&self, member: MemberId, others: impl IntoIterator<Item = MemberId>) {
        for other in others {
            self.cut(member, other);
            self.cut(other, member);
        }
    }

    /// Has a member read other bytes than it was sent, from now on. Nothing finds that on the way: it
    /// stands for whatever makes a member apply something else than the others.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn alter(&self, to: MemberId, sent: &[u8], read: &[u8]) {
        assert_eq!(sent.len(), read.len(), "lengths in the message stay right");
        self.state.lock().altered.push((to, sent.to_vec(), read.to_vec()));
    }

    /// Mends all links and ends all faults.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.cut.clear();
        state.faults = Faults::calm();
    }

    /// Mends all links.
    pub fn mend(&self) {
        self.state.lock().cut.clear();
    }

    /// Messages that were sent, and those that were lost.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.sent, state.lost)
    }

    /// States that were begun.
    #[must_use]
    pub fn states_begun(&self) -> u64 {
        self.state.lock().states_begun
    }

    /// States that arrived whole.
    #[must_use]
    pub fn states(&self) -> u64 {
        self.state.lock().states
    }

    /// Loses whatever is on its way to and from a member that has ended.
    pub(crate) fn hang_up(&self, member: MemberId) {
        let mut state = self.state.lock();
        state.ended.insert(member);
        let is_lost = |transfer: &Transfer| transfer.from == member || transfer.to == member;
        let (lost, others): (VecDeque<Transfer>, VecDeque<Transfer>) =
            std::mem::take(&mut state.transfers).into_iter().partition(is_lost);
        state.transfers = others;
        drop(state);
        lost.into_iter().for_each(|transfer| transfer.end(Err("the connection broke".to_owned())));
        let mut state = self.state.lock();
        state.links.retain(|(from, to, _), _| *from != member && *to != member);
        state.losses.retain(|(from, to)| *from != member && *to != member);
    }

    /// The time at which the next message arrives.
    pub(crate) fn next_arrival(&self) -> Option<Duration> {
        let state = self.state.lock();
        let messages = state.links.values().filter_map(|link| link.front()).map(|(at, _)| *at);
        messages.chain(state.transfers.iter().map(|transfer| transfer.at)).min()
    }

    /// The links whose next message has arrived.
    pub(crate) fn arrived(&self) -> usize {
        let (now, state) = (self.clock.monotonic(), self.state.lock());
        let is_due = |link: &&VecDeque<_>| link.front().is_some_and(|(at, _)| *at <= now);
        state.links.values().filter(is_due).count()
    }

    /// Takes the next message of one of these links.
    pub(crate) fn take(&self, which: usize) -> Arrival {
        let (now, mut state) = (self.clock.monotonic(), self.state.lock());
        let mut due = state
            .links
            .iter_mut()
            .filter(|(_, link)| link.front().is_some_and(|(at, _)| *at <= now));
        let (link, messages) = due.nth(which).expect("so many have arrived");
        let (_, mut message) = messages.pop_front().expect("it was just seen");
        let (from, to, _) = *link;
        let link = *link;
        for (_, sent, read) in state.altered.iter().filter(|(victim, ..)| *victim == to) {
            message = altered(message, sent, read);
        }
        Arrival { link, from, to, message }
    }

    /// The receiver has no room: it is asked again.
    pub(crate) fn put_back(&self, arrival: Arrival) {
        let at = self.clock.monotonic() + FULL_PAUSE;
        let mut state = self.state.lock();
        state.links.entry(arrival.link).or_default().push_front((at, arrival.message));
    }

    /// The next state of which a chunk is due.
    pub(crate) fn take_transfer(&self) -> Option<Transfer> {
        let (now, mut state) = (self.clock.monotonic(), self.state.lock());
        let due = state.transfers.iter().position(|transfer| transfer.at <= now)?;
        state.transfers.remove(due)
    }

    /// Whether the link that a state goes over is there.
    pub(crate) fn carries(&self, transfer: &Transfer) -> bool {
        let state = self.state.lock();
        is_whole(&state.cut, transfer.from, transfer.to)
    }

    /// Whether a member knows another one, and the link between them is there.
    pub(crate) fn connects(&self, from: MemberId, to: MemberId) -> bool {
        let state = self.state.lock();
        state.knows(from, to) && is_whole(&state.cut, from, to)
    }

    /// The next chunk of a state is on its way.
    pub(crate) fn go_on(&self, mut transfer: Transfer) {
        transfer.at = self.clock.monotonic() + CHUNK_TIME;
        self.state.lock().transfers.push_back(transfer);
    }

    /// A state did not arrive.
    pub(crate) fn end(&self, transfer: Transfer, reason: String) {
        self.state.lock().failed.push(format!("{transfer:?}: {reason}"));
        transfer.end(Err(reason));
    }

    /// The ends of states that did not arrive since the last look.
    pub(crate) fn take_failed(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().failed)
    }

    /// A state has arrived whole.
    pub(crate) fn count_state(&self) {
        self.state.lock().states += 1;
    }

    /// A sender that is to be told of a loss, and to whom messages were lost.
    pub(crate) fn take_loss(&self) -> Option<(MemberId, MemberId)> {
        self.state.lock().losses.pop_front()
    }
}

/// Whether a link is cut in neither direction.
fn is_whole(cut: &BTreeSet<(MemberId, MemberId)>, from: MemberId, to: MemberId) -> bool {
    !cut.contains(&(from, to)) && !cut.contains(&(to, from))
}

impl Transfer {
    /// Tells the sender how it went.
    pub(crate) fn end(self, result: Result<(), String>) {
        // ORDER: the receiver's end goes first, as with a connection that breaks.
        drop(self.sink);
        self.source.ended(result);
    }
}

/// The message with every occurrence of some bytes replaced.
fn altered(message: Bytes, sent: &[u8], read: &[u8]) -> Bytes {
    let places: Vec<usize> =
        (0..message.len()).filter(|at| message[*at..].starts_with(sent)).collect();
    if places.is_empty() {
        return message;
    }
    let mut message = message.to_vec();
    for at in places {
        message[at..at + read.len()].copy_from_slice(read);
    }
    message.into()
}

impl State {
    fn knows(&self, member: MemberId, other: MemberId) -> bool {
        self.known.get(&member).is_some_and(|known| known.contains(&other))
    }

    fn happens(&self, chances: u64) -> bool {
        chances > 0 && self.random.next_u64() % CHANCES < chances
    }
}

struct SimTransport {
    network: SimNetwork,
    member: MemberId,
}

impl fmt::Debug for SimTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimTransport({})", self.member)
    }
}

impl Transport for SimTransport {
    fn send(&self, to: MemberId, lane: Lane, message: Bytes) -> bool {
        let now = self.network.clock.monotonic();
        let mut state = self.network.state.lock();
        if !state.knows(self.member, to) {
            return false;
        }
        state.sent += 1;
        let lost = state.faults.lost;
        if state.cut.contains(&(self.member, to)) || state.happens(lost) {
            state.lost += 1;
            state.losses.push_back((self.member, to));
            return true;
        }
        let doubled = state.faults.doubled;
        let copies = 1 + usize::from(state.happens(doubled));
        for _ in 0..copies {
            let jitter = u64::try_from(state.faults.jitter.as_nanos()).unwrap_or(u64::MAX);
            let extra = Duration::from_nanos(state.random.next_u64() % jitter.max(1));
            let link = state.links.entry((self.member, to, lane == Lane::Log)).or_default();
            if link.len() >= LANE_MAX {
                return false;
            }
            let after = link.back().map_or(now, |(at, _)| *at);
            link.push_back((after.max(now + LATENCY_MIN + extra), message.clone()));
        }
        true
    }

    fn set_peers(&self, peers: Vec<PeerAddress>) {
        let known = peers.into_iter().map(|peer| peer.id).collect();
        self.network.state.lock().known.insert(self.member, known);
    }

    fn send_state(
        &self,
        to: MemberId,
        head: Bytes,
        source: Box<dyn StateSource>,
    ) -> Result<(), Box<dyn StateSource>> {
        let at = self.network.clock.monotonic() + CHUNK_TIME;
        let mut state = self.network.state.lock();
        let own = state.transfers.iter().filter(|transfer| transfer.from == self.member);
        if own.count() >= STATES_MAX {
            return Err(source);
        }
        let transfer = Transfer { at, from: self.member, to, head, source, sink: None };
        state.states_begun += 1;
        state.transfers.push_back(transfer);
        Ok(())
    }

    fn is_active(&self, peer: MemberId) -> bool {
        let state = self.network.state.lock();
        state.knows(self.member, peer)
            && !state.ended.contains(&peer)
            && is_whole(&state.cut, self.member, peer)
    }
}
