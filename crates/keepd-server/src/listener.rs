//! Listeners: bind an address and accept connections, which [`connection`] serves.
//!
//! Silent or slow clients never keep out others: [`connection_slots`] decides which connection is closed.

mod accept;
mod bind;
mod connection;
mod connection_slots;
mod metered_stream;
mod preface_timeout;
mod remote_names;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keepd_tls::ServerTls;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::accept::BoxedStream;
pub use self::accept::{Accept, Accepting, Stream};
pub use self::bind::{Bind, BindError};
use self::connection::Connection;
pub use self::connection::ConnectionOptions;
pub(crate) use self::connection::Service;
pub(crate) use self::connection_slots::ConnectionSlots;
pub use self::connection_slots::{Endpoint, RESERVED_DESCRIPTORS};
use self::connection_slots::{Slot, Source};
pub use self::metered_stream::TrafficBytes;
use self::metered_stream::metered;
use crate::peer::LOCAL;
use crate::unfinished::Unfinished;

/// The pause after a failed accept (out of descriptors, most likely); doubled up to the maximum.
const ACCEPT_PAUSE: Duration = Duration::from_millis(5);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
    /// Another network than the system's.
    Other(Box<dyn Accept>),
}

/// A bound listener.
pub struct Listener {
    socket: Socket,
    tls: Option<Arc<ServerTls>>,
    options: ConnectionOptions,
    endpoint: Endpoint,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener")
            .field("endpoint", &self.endpoint)
            .field("address", &self.local_address())
            .finish_non_exhaustive()
    }
}

/// The counters for the connections of a listener.
pub(crate) struct Accounts {
    pub(crate) bytes: Arc<TrafficBytes>,
    pub(crate) unfinished: Arc<Unfinished>,
}

impl Listener {
    /// Binds an address.
    ///
    /// # Errors
    /// In the words of the system, as etcd shows them: `listen tcp ADDRESS: bind: ...`.
    pub async fn bind(
        bind: &Bind,
        tls: Option<Arc<ServerTls>>,
        options: ConnectionOptions,
        endpoint: Endpoint,
    ) -> Result<Self, BindError> {
        let socket = match bind {
            Bind::Tcp(address) => bind::tcp(address, options).await.map(Socket::Tcp),
            Bind::Unix(path) => bind::unix(path).map(|it| Socket::Unix(it, path.clone())),
        };
        let socket = socket.map_err(|source| BindError { bind: bind.clone(), source })?;
        Ok(Self { socket, tls, options, endpoint })
    }

    /// Listens where somebody else accepts: in another network than the system's.
    #[must_use]
    pub fn over(
        accept: Box<dyn Accept>,
        tls: Option<Arc<ServerTls>>,
        options: ConnectionOptions,
        endpoint: Endpoint,
    ) -> Self {
        Self { socket: Socket::Other(accept), tls, options, endpoint }
    }

    /// The bound address, which tells the port when 0 was asked for.
    #[must_use]
    pub fn local_address(&self) -> String {
        match &self.socket {
            Socket::Tcp(listener) => {
                listener.local_addr().map(|address| address.to_string()).unwrap_or_default()
            }
            Socket::Unix(_, path) => path.display().to_string(),
            Socket::Other(accept) => accept.local_address().to_string(),
        }
    }

    /// The bound TCP port.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok().map(|address| address.port()),
            Socket::Unix(..) => None,
            Socket::Other(accept) => Some(accept.local_address().port()),
        }
    }

    /// The TLS configuration of the connections.
    pub(crate) fn tls(&self) -> Option<Arc<ServerTls>> {
        self.tls.clone()
    }

    /// Whether connections are encrypted.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Accepts until `stop` says so; connections then finish what they are doing, until `cut`.
    pub(crate) async fn serve(
        self,
        service: Arc<impl Service>,
        slots: Arc<ConnectionSlots>,
        tasks: TaskTracker,
        accounts: Accounts,
        mut stop: watch::Receiver<bool>,
        cut: CancellationToken,
    ) {
        let connection = Arc::new(Connection {
            options: self.options,
            tls: self.tls.clone(),
            endpoint: self.endpoint,
            unfinished: accounts.unfinished,
        });
        loop {
            let (accepted, slot) = tokio::select! {
                admitted = self.accept_admitted(&slots) => admitted,
                _ = stop.changed() => break,
            };
            let Accepted { stream, peer, .. } = accepted;
            let (connection, service) = (Arc::clone(&connection), Arc::clone(&service));
            let bytes = Arc::clone(&accounts.bytes);
            let stream = metered(stream, bytes);
            let (stop, cut) = (stop.clone(), cut.clone());
            tasks.spawn(async move {
                let slot = Arc::new(slot);
                let served = connection.run(stream, peer, service, Arc::clone(&slot), stop);
                let served = async {
                    tokio::select! {
                        biased;
                        () = served => {}
                        () = slot.gives_way() => {}
                    }
                };
                cut.run_until_cancelled(served).await;
            });
        }
        if let Socket::Unix(_, path) = &self.socket {
            bind::remove_unix(path);
        }
    }

    async fn accept_admitted(&self, slots: &Arc<ConnectionSlots>) -> (Accepted, Slot) {
        let mut pause = ACCEPT_PAUSE;
        loop {
            match self.accept().await {
                Ok(it) => {
                    let slot = slots.admit(self.endpoint, it.source, it.descriptor).await;
                    return (it, slot);
                }
                // The client went away before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    let endpoint = self.endpoint.name();
                    tracing::warn!(%error, endpoint, ?pause, "cannot accept a connection; if descriptors ran out, raise the limit of open files");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
                }
            }
        }
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                // A client that has gone already is noticed when it is read.
                let _ = stream.set_nodelay(true);
                // One whose machine is gone is noticed some day.
                let _ = socket2::SockRef::from(&stream).set_keepalive(true);
                Ok(Accepted {
                    descriptor: Some(stream.as_raw_fd()),
                    stream: Box::new(stream),
                    source: peer.ip().into(),
                    peer: peer.to_string(),
                })
            }
            Socket::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok(Accepted {
                    descriptor: Some(stream.as_raw_fd()),
                    stream: Box::new(stream),
                    source: Source::Local,
                    peer: LOCAL.to_owned(),
                })
            }
            Socket::Other(accept) => {
                let (stream, peer) = accept.accept().await?;
                Ok(Accepted {
                    descriptor: None,
                    stream,
                    source: peer.ip().into(),
                    peer: peer.to_string(),
                })
            }
        }
    }
}

/// A new connection.
struct Accepted {
    stream: BoxedStream,
    /// The system's number for it, which says how many are open.
    descriptor: Option<std::os::fd::RawFd>,
    source: Source,
    /// For the log.
    peer: String,
}
