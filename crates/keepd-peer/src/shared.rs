//! The state that all tasks of the network share.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use keepd_env::Random;
use keepd_node::Receiver;
use keepd_tls::ClientTls;
use keepd_types::MemberId;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dial::Dialer;
use crate::pace::Pace;
use crate::peer::Peer;
use crate::socket::Connect;

/// BOUND: refusals of which the log keeps the last reason, so that it has each once.
const REFUSALS_MAX: usize = 256;
/// BOUND: members that the network knows. A cluster has a few.
pub(crate) const PEERS_MAX: usize = 1024;

/// Options of the network.
#[derive(Clone, Debug)]
pub struct Options {
    /// The network that peers are dialed in.
    pub connect: Arc<dyn Connect>,
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

    pub(crate) fn dialer(&self) -> Dialer {
        Dialer {
            connect: Arc::clone(&self.connect),
            tls: self.tls.clone(),
            // As etcd: a second to connect, and an election timeout to write and read.
            timeout: Duration::from_secs(1) + self.election_timeout,
            keepalive: (self.election_timeout / 2, self.election_timeout),
        }
    }
}

/// The state that all tasks of the network share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) dialer: Dialer,
    pub(crate) pace: Pace,
    pub(crate) state_sends: Arc<Semaphore>,
    pub(crate) state_receives: Arc<Semaphore>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) runtime: Handle,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) receiver: watch::Sender<Option<Arc<dyn Receiver>>>,
    pub(crate) peers: Mutex<HashMap<MemberId, Arc<Peer>>>,
    pub(crate) refusals: Mutex<HashMap<MemberId, String>>,
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
