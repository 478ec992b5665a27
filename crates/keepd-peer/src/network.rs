//! The network of a member: its peers, and the one place that knows all of them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keepd_env::Env;
use keepd_node::{Lane, PEER_MESSAGE_BYTES_MAX, PeerAddress, Receiver, StateSource, Transport};
use keepd_types::MemberId;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::link;
use crate::pace::Pace;
use crate::peer::{Peer, PeerStatus};
use crate::protocol::STATE_HEAD_BYTES_MAX;
use crate::service::PeerService;
use crate::shared::{Options, PEERS_MAX, Shared};
use crate::state::{self, Source};

/// BOUND: states that are sent at once.
const STATES_SENT_MAX: usize = 2;
/// BOUND: states that are received at once.
const STATES_RECEIVED_MAX: usize = 1;
/// Time limit for streams to end when the network is shut down.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

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
            pace: Pace::new(options.state_bytes_per_second),
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
