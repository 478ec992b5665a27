//! The network of a member: its peers, and the one place that knows all of them.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keepd_env::{Env, Random};
use keepd_node::{Lane, PEER_MESSAGE_BYTES_MAX, PeerAddress, Receiver, StateSource, Transport};
use keepd_tls::ClientTls;
use keepd_types::MemberId;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dial::Dialer;
use crate::link;
use crate::peer::{Peer, PeerStatus};
use crate::protocol::STATE_HEAD_BYTES_MAX;
use crate::service::PeerService;
use crate::state::{self, Source};

/// BOUND: states that are sent at once.
const STATES_SENT_MAX: usize = 2;
/// BOUND: states that are received at once.
const STATES_RECEIVED_MAX: usize = 1;
/// BOUND: refusals of which the log keeps the last reason, so that it has each once.
const REFUSALS_MAX: usize = 256;
/// BOUND: members that the network knows. A cluster has a few.
const PEERS_MAX: usize = 1024;
/// Time limit for streams to end when the network is shut down.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Options of the network.
#[derive(Clone, Debug)]
pub struct Options {
    /// TLS for `https` peer URLs.
    pub tls: Option<Arc<ClientTls>>,
    /// The election timeout, by which a dead connection is noticed, and the longest pause between two
    /// attempts to connect.
    pub election_timeout: Duration,
    /// The rate at which states are sent, all together.
    pub state_bytes_per_second: Option<u64>,
}

impl Options {
    /// Three pings within the time after which a silent peer is no longer active.
    pub(crate) fn ping_interval(&self) -> Duration {
        (self.election_timeout / 3).max(Duration::from_millis(1))
    }

    /// Time limit of a peer's silence, after which its stream is given up.
    pub(crate) fn silence_max(&self) -> Duration {
        self.election_timeout * 10
    }

    fn dialer(&self) -> Dialer {
        Dialer {
            tls: self.tls.clone(),
            // As etcd: a second to connect, and an election timeout to write and read.
            timeout: Duration::from_secs(1) + self.election_timeout,
            keepalive: (self.election_timeout / 2, self.election_timeout),
        }
    }
}

/// What all tasks of the network share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) dialer: Dialer,
    pub(crate) pace: state::Pace,
    pub(crate) state_sends: Arc<Semaphore>,
    pub(crate) state_receives: Arc<Semaphore>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    runtime: Handle,
    random: Arc<dyn Random>,
    receiver: watch::Sender<Option<Arc<dyn Receiver>>>,
    peers: Mutex<HashMap<MemberId, Arc<Peer>>>,
    refusals: Mutex<HashMap<MemberId, String>>,
}

impl Shared {
    /// The member, once it is there; `None` at the end.
    pub(crate) async fn attached(&self) -> Option<Arc<dyn Receiver>> {
        let mut receiver = self.receiver.subscribe();
        let receiver = receiver.wait_for(Option::is_some).await.ok()?;
        receiver.clone()
    }

    /// The member, if it is there.
    pub(crate) fn receiver(&self) -> Option<Arc<dyn Receiver>> {
        self.receiver.borrow().clone()
    }

    pub(crate) fn peer(&self, id: MemberId) -> Option<Arc<Peer>> {
        self.peers.lock().get(&id).map(Arc::clone)
    }

    /// A member that has dialed, and that the receiver has met.
    pub(crate) fn peer_or_new(&self, id: MemberId) -> Option<Arc<Peer>> {
        let mut peers = self.peers.lock();
        if peers.len() >= PEERS_MAX && !peers.contains_key(&id) {
            return None;
        }
        Some(Arc::clone(peers.entry(id).or_insert_with(|| Peer::new(id))))
    }

    /// Between a half and the whole of a pause, so that members do not dial in step.
    pub(crate) fn jittered(&self, pause: Duration) -> Duration {
        let part = u32::try_from(self.random.next_u64() % 1024).unwrap_or_default();
        pause / 2 + pause / 2 * part / 1024
    }

    /// Whether a reason is news for the log.
    pub(crate) fn is_new_refusal(&self, of: MemberId, reason: &str) -> bool {
        let mut refusals = self.refusals.lock();
        if refusals.get(&of).is_some_and(|before| before == reason) {
            return false;
        }
        if refusals.len() >= REFUSALS_MAX {
            refusals.clear();
        }
        refusals.insert(of, reason.to_owned());
        true
    }

    /// Forgets a refusal, because the member is welcome now.
    pub(crate) fn is_welcome(&self, member: MemberId) {
        self.refusals.lock().remove(&member);
    }

    /// Runs a task of the network, from whichever thread.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, &self.runtime);
    }
}

/// The network of one member.
#[derive(Clone)]
pub struct Network(Arc<Shared>);

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("options", &self.0.options).finish_non_exhaustive()
    }
}

impl Network {
    /// A network that talks to nobody before it is given the member by [`attach`](Self::attach). It
    /// runs on the tokio runtime that it is made in.
    #[must_use]
    pub fn new(options: Options, env: &Env) -> Self {
        Self(Arc::new(Shared {
            dialer: options.dialer(),
            pace: state::Pace::new(options.state_bytes_per_second),
            options,
            state_sends: Arc::new(Semaphore::new(STATES_SENT_MAX)),
            state_receives: Arc::new(Semaphore::new(STATES_RECEIVED_MAX)),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
            random: Arc::clone(&env.random),
            receiver: watch::Sender::new(None),
            peers: Mutex::default(),
            refusals: Mutex::default(),
        }))
    }

    /// Gives it the member: from now on it dials and answers.
    pub fn attach(&self, receiver: Arc<dyn Receiver>) {
        self.0.receiver.send_replace(Some(receiver));
    }

    /// The accepting side, for the peer listener.
    #[must_use]
    pub fn service(&self) -> PeerService {
        PeerService::new(Arc::clone(&self.0))
    }

    /// The peers and their counters, by id.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        let lately = self.0.options.election_timeout;
        let peers: Vec<_> = self.0.peers.lock().values().map(Arc::clone).collect();
        let mut all: Vec<_> = peers.iter().map(|peer| peer.status(lately)).collect();
        all.sort_by_key(|peer| peer.id);
        all
    }

    /// Bytes that wait to be sent to a peer in a lane.
    #[must_use]
    pub fn queued_bytes(&self, peer: MemberId, lane: Lane) -> usize {
        self.0.peer(peer).map_or(0, |peer| peer.queued_bytes(lane))
    }

    /// States that are being sent and received.
    #[must_use]
    pub fn states_under_way(&self) -> (usize, usize) {
        let sent = STATES_SENT_MAX - self.0.state_sends.available_permits();
        (sent, STATES_RECEIVED_MAX - self.0.state_receives.available_permits())
    }

    /// Ends all connections, and lets go of the member.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, self.0.tasks.wait()).await.is_err() {
            tracing::debug!("streams between members did not end in time");
        }
        self.0.receiver.send_replace(None);
        self.0.peers.lock().clear();
    }
}

impl Transport for Network {
    fn send(&self, to: MemberId, lane: Lane, message: Bytes) -> bool {
        if message.len() > PEER_MESSAGE_BYTES_MAX {
            let bytes = message.len();
            tracing::error!(peer = %to, bytes, "dropped a message over the bound");
            return false;
        }
        self.0.peer(to).is_some_and(|peer| peer.send(lane, message))
    }

    fn set_peers(&self, peers: Vec<PeerAddress>) {
        let shared = &self.0;
        let mut known = shared.peers.lock();
        known.retain(|id, peer| {
            let stays = peers.iter().any(|address| address.id == *id);
            if !stays {
                peer.leave();
            }
            stays
        });
        for PeerAddress { id, urls } in peers.into_iter().take(PEERS_MAX) {
            let peer = Arc::clone(known.entry(id).or_insert_with(|| Peer::new(id)));
            if let Some(stop) = peer.dial(urls, &shared.stop) {
                shared.spawn(link::run(Arc::clone(shared), peer, stop));
            }
        }
    }

    fn send_state(
        &self,
        to: MemberId,
        head: Bytes,
        source: Box<dyn StateSource>,
    ) -> Result<(), Box<dyn StateSource>> {
        let Ok(permit) = Arc::clone(&self.0.state_sends).try_acquire_owned() else {
            return Err(source);
        };
        let (shared, source) = (Arc::clone(&self.0), Source::new(source));
        let peer = self.0.peer(to);
        self.0.spawn(async move {
            match &peer {
                Some(peer) if head.len() <= STATE_HEAD_BYTES_MAX => {
                    state::send(&shared, peer, head, source).await;
                }
                Some(_) => {
                    source.end(Err("the head of the state is over its bound".to_owned())).await;
                }
                None => source.end(Err(format!("member {to} is not a peer"))).await,
            }
            drop(permit);
        });
        Ok(())
    }

    fn is_active(&self, peer: MemberId) -> bool {
        self.0.peer(peer).is_some_and(|peer| peer.is_active(self.0.options.election_timeout))
    }
}
