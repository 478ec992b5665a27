//! The way to the other members, and what this one has asked them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use keepd_machine::levels;
use keepd_types::MemberId;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::messages::PeerBytes;
use crate::peer_message::{PeerMessage, PeerResponse, RequestName};
use crate::transport::{Lane, PeerAddress, StateSource, Transport};

/// BOUND: questions to the leader that may be open.
const REQUESTS_MAX: usize = 10_000;
/// BOUND: members that a joining member knows. A cluster has a few.
const PEERS_MAX: usize = 1024;
/// BOUND: members whose announcements are kept, those that are still to be added included.
const ANNOUNCED_MAX: usize = 1024;
/// BOUND: bytes of peers' messages that may wait for the Raft part.
const PEER_BYTES_MAX: usize = 128 * 1024 * 1024;

/// A member's version and the feature level that it reads, as it said when it connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Announcement {
    pub(crate) version: String,
    pub(crate) feature_level: u32,
}

#[derive(Debug)]
pub(crate) struct Network {
    /// The newest feature level that this member reads.
    feature_level: u32,
    /// Set once the member is put together; until then everything is lost.
    transport: ArcSwapOption<Arc<dyn Transport>>,
    peers: Mutex<Vec<PeerAddress>>,
    /// Members that have connected and that the membership here does not have, or not yet: it may be
    /// older than theirs, and without an answer to them it would stay so. BOUND: `PEERS_MAX`.
    strangers: Mutex<Vec<PeerAddress>>,
    /// Peers that are connected, and since when, as of the last look.
    connected: Mutex<BTreeMap<MemberId, Duration>>,
    /// The announcements of members, as they were when these connected last.
    announced: Mutex<BTreeMap<MemberId, Announcement>>,
    waiting_bytes: Arc<AtomicUsize>,
    asked: AtomicU64,
    requests: Mutex<BTreeMap<u64, oneshot::Sender<PeerResponse>>>,
}

/// An open question, until dropped.
pub(crate) struct Asked<'a> {
    network: &'a Network,
    pub(crate) name: RequestName,
    pub(crate) answer: oneshot::Receiver<PeerResponse>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.network.requests.lock().remove(&self.name.number);
    }
}

impl Network {
    pub(crate) fn new(feature_level: u32) -> Self {
        Self {
            feature_level,
            transport: ArcSwapOption::empty(),
            peers: Mutex::default(),
            strangers: Mutex::default(),
            connected: Mutex::default(),
            announced: Mutex::default(),
            waiting_bytes: Arc::default(),
            asked: AtomicU64::new(0),
            requests: Mutex::default(),
        }
    }

    /// Begins to use a network.
    pub(crate) fn connect(&self, transport: Arc<dyn Transport>) {
        // ORDER: no change of the peers comes between its two halves.
        let peers = self.peers.lock();
        transport.set_peers(peers.clone());
        self.transport.store(Some(Arc::new(transport)));
        drop(peers);
    }

    /// Hangs up.
    pub(crate) fn disconnect(&self) {
        if let Some(transport) = self.transport.swap(None) {
            transport.set_peers(Vec::new());
        }
    }

    /// Whether there is a network in use.
    pub(crate) fn is_there(&self) -> bool {
        self.transport.load().is_some()
    }

    /// Says who the other members are, by the membership that was applied. One that has left is not
    /// connected from now on; one that is still unknown is, unless it was removed.
    pub(crate) fn set_members(
        &self,
        mut members: Vec<PeerAddress>,
        is_removed: impl Fn(MemberId) -> bool,
    ) {
        // ORDER: held until the peers are set; nobody comes or goes in between.
        let mut strangers = self.strangers.lock();
        let is_member = |id: MemberId| members.iter().any(|member| member.id == id);
        strangers.retain(|stranger| !is_member(stranger.id) && !is_removed(stranger.id));
        members.extend(strangers.iter().cloned());
        self.set_peers(members);
    }

    fn set_peers(&self, peers: Vec<PeerAddress>) {
        // ORDER: as in `observe`.
        let mut connected = self.connected.lock();
        let mut known = self.peers.lock();
        if *known == peers {
            return;
        }
        let is_there = |id: &MemberId| peers.iter().any(|peer| peer.id == *id);
        connected.retain(|id, _| is_there(id));
        let was_there = |id: &MemberId| known.iter().any(|peer| peer.id == *id);
        self.announced.lock().retain(|id, _| is_there(id) || !was_there(id));
        drop(connected);
        known.clone_from(&peers);
        if let Some(transport) = &*self.transport.load() {
            transport.set_peers(peers);
        }
    }

    /// Adds a member that is not known yet: it is answered too.
    pub(crate) fn add_stranger(&self, peer: PeerAddress) {
        let mut strangers = self.strangers.lock();
        let mut peers = self.peers.lock().clone();
        let is_known = peers.iter().any(|known| known.id == peer.id);
        if !is_known && !peer.urls.is_empty() && peers.len() < PEERS_MAX {
            strangers.push(peer.clone());
            peers.push(peer);
            self.set_peers(peers);
        }
    }

    /// Keeps the announcement of a member that connects.
    pub(crate) fn announce(&self, member: MemberId, announcement: Announcement) {
        let mut announced = self.announced.lock();
        if announced.len() < ANNOUNCED_MAX || announced.contains_key(&member) {
            announced.insert(member, announcement);
        }
    }

    /// The announcement of a member that is connected.
    pub(crate) fn announced(&self, member: MemberId) -> Option<Announcement> {
        let announced = self.announced.lock().get(&member).cloned();
        announced.filter(|_| self.is_active(member))
    }

    /// Whether a member is connected and reads messages of a feature level, as this one does.
    pub(crate) fn reads(&self, member: MemberId, level: u32) -> bool {
        let is_known = |it: Announcement| it.feature_level >= level;
        self.feature_level >= level && self.announced(member).is_some_and(is_known)
    }

    /// Sends a message; `false` if it is lost already, or held back because its receiver cannot read it.
    pub(crate) fn send(&self, to: MemberId, lane: Lane, message: &PeerMessage) -> bool {
        let level = message.level();
        if level > levels::FIRST && !self.may_send(to, level) {
            return false;
        }
        let transport = self.transport.load();
        transport.as_ref().is_some_and(|transport| transport.send(to, lane, message.encode()))
    }

    /// Whether a member has announced that it reads messages of a feature level; told if it has announced
    /// less: whoever made the message did not ask.
    fn may_send(&self, to: MemberId, level: u32) -> bool {
        let announced = self.announced.lock().get(&to).map(|it| it.feature_level);
        let Some(announced) = announced else { return false };
        if announced < level {
            tracing::error!(
                peer = %to, level, announced,
                "a message was held back that the member cannot read: this is a defect of keepd"
            );
        }
        announced >= level
    }

    /// Sends a state; `false` if it is not sent, because as many as may be are under way.
    pub(crate) fn send_state(
        &self,
        to: MemberId,
        head: Bytes,
        source: Box<dyn StateSource>,
    ) -> bool {
        let transport = self.transport.load();
        let sent = transport.as_ref().map(|transport| transport.send_state(to, head, source));
        matches!(sent, Some(Ok(())))
    }

    /// Whether messages go to and come from a member.
    pub(crate) fn is_active(&self, peer: MemberId) -> bool {
        let transport = self.transport.load();
        transport.as_ref().is_some_and(|transport| transport.is_active(peer))
    }

    /// Looks who is connected now; with every tick.
    pub(crate) fn observe(&self, now: Duration) {
        let transport = self.transport.load();
        let Some(transport) = transport.as_ref() else { return };
        let mut connected = self.connected.lock();
        let peers = self.peers.lock();
        let active = peers.iter().map(|peer| peer.id).filter(|peer| transport.is_active(*peer));
        let since = |peer| (peer, connected.get(&peer).copied().unwrap_or(now));
        *connected = active.map(since).collect();
    }

    /// Peers that are connected, as of the last look.
    pub(crate) fn connected(&self) -> usize {
        self.connected.lock().len()
    }

    /// Since when a peer has been connected without a break; `None` if it is not.
    pub(crate) fn connected_since(&self, peer: MemberId) -> Option<Duration> {
        self.connected.lock().get(&peer).copied()
    }

    /// Counts a message that waits for the Raft part; `None` if as much waits as may.
    pub(crate) fn take_in(&self, bytes: usize) -> Option<PeerBytes> {
        let before = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let counted = PeerBytes { waiting: Arc::clone(&self.waiting_bytes), bytes };
        (before == 0 || before + bytes <= PEER_BYTES_MAX).then_some(counted)
    }

    /// Opens a question; `None` if as many are open as may be.
    pub(crate) fn ask(&self, boot: u64) -> Option<Asked<'_>> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let mut requests = self.requests.lock();
        if requests.len() >= REQUESTS_MAX {
            return None;
        }
        requests.insert(number, reply);
        drop(requests);
        Some(Asked { network: self, name: RequestName { boot, number }, answer })
    }

    /// Takes an answer; one that nobody waits for is dropped.
    pub(crate) fn answer(&self, name: RequestName, response: PeerResponse) {
        let waiter = self.requests.lock().remove(&name.number);
        if let Some(waiter) = waiter {
            let _ = waiter.send(response);
        }
    }
}
