//! Listeners: accept, handshake off the accept loop, HTTP/1.1 and HTTP/2 on one port.
//!
//! A silent or slow client never costs another one its turn: [`admission`] says who gives way.

mod admission;
mod bind;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use keepd_tls::ServerTls;
use keepd_types::limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;

pub(crate) use self::admission::Admission;
pub use self::admission::{Endpoint, RESERVED_DESCRIPTORS};
use self::admission::{Source, Ticket};
pub use self::bind::{Bind, BindError};
pub use self::stream::TrafficBytes;
use self::stream::{BoxedStream, Counted, Patient};
use crate::http2::{self, Mended};
use crate::requests::{Requests, WithRequests};
use crate::unfinished::{Share, Unfinished};

/// How long a client may take for its first TLS message, which needs nothing from the server.
const CLIENT_HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a client may take to read why its handshake was refused, and how many bytes are read
/// meanwhile.
const ALERT_TIMEOUT: Duration = Duration::from_secs(1);
const ALERT_BYTES: u64 = 64 * 1024;
/// How long the rest of a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait after a failed accept (out of descriptors, most likely); doubled up to the most.
const ACCEPT_PAUSE: Duration = Duration::from_millis(5);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long the headers of a plain HTTP request may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// BOUND: receive windows of one HTTP/2 stream and connection, what may lie there unread: a request
/// that waits for room (`unfinished`) fills them, and its client waits too. The library ends a
/// connection on which small messages lie unread: half the connection's window is spent, 256 bytes
/// for each. A stream whose reader has fallen behind must not come there, so its window is small
/// against the connection's.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// How connections are treated.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionOptions {
    /// HTTP/2 streams per connection; a client with more requests waits for earlier ones to end.
    pub concurrent_streams_max: u32,
    /// How often a silent client is pinged.
    pub keepalive_interval: Option<Duration>,
    /// How long it may take to answer.
    pub keepalive_timeout: Duration,
    /// SO_REUSEPORT.
    pub reuse_port: bool,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self {
            concurrent_streams_max: limits::CONCURRENT_STREAMS_MAX,
            keepalive_interval: Some(Duration::from_secs(2 * 3600)),
            keepalive_timeout: Duration::from_secs(20),
            reuse_port: false,
        }
    }
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
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

/// What the connections of a listener are counted in.
pub(crate) struct Accounts {
    pub(crate) bytes: Arc<TrafficBytes>,
    pub(crate) unfinished: Arc<Unfinished>,
}

/// Answers the requests of a listener.
pub(crate) trait Service: Send + Sync + 'static {
    /// Answers one request.
    fn call(
        self: Arc<Self>,
        request: Request<Incoming>,
        share: Arc<Share>,
    ) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
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

    /// The bound address, which tells the port when 0 was asked for.
    #[must_use]
    pub fn local_address(&self) -> String {
        match &self.socket {
            Socket::Tcp(listener) => {
                listener.local_addr().map(|address| address.to_string()).unwrap_or_default()
            }
            Socket::Unix(_, path) => path.display().to_string(),
        }
    }

    /// The bound TCP port.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok().map(|address| address.port()),
            Socket::Unix(..) => None,
        }
    }

    /// What encrypts the connections.
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
        admission: Arc<Admission>,
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
            let (accepted, ticket) = tokio::select! {
                admitted = self.accept_admitted(&admission) => admitted,
                _ = stop.changed() => break,
            };
            let Accepted { stream, peer, .. } = accepted;
            let (connection, service) = (Arc::clone(&connection), Arc::clone(&service));
            let bytes = Arc::clone(&accounts.bytes);
            let stream = Box::new(Counted { stream, bytes, turn: 0 });
            let (stop, cut) = (stop.clone(), cut.clone());
            tasks.spawn(async move {
                let ticket = Arc::new(ticket);
                let served = connection.run(stream, peer, service, Arc::clone(&ticket), stop);
                let served = async {
                    tokio::select! {
                        biased;
                        () = served => {}
                        () = ticket.gives_way() => {}
                    }
                };
                cut.run_until_cancelled(served).await;
            });
        }
        if let Socket::Unix(_, path) = &self.socket {
            bind::remove_unix(path);
        }
    }

    async fn accept_admitted(&self, admission: &Arc<Admission>) -> (Accepted, Ticket) {
        let mut pause = ACCEPT_PAUSE;
        loop {
            match self.accept().await {
                Ok(it) => {
                    let ticket = admission.admit(self.endpoint, it.source, it.descriptor).await;
                    return (it, ticket);
                }
                // The client went away before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    let endpoint = self.endpoint.name();
                    tracing::warn!(%error, endpoint, ?pause, "cannot accept a connection");
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
                    descriptor: stream.as_raw_fd(),
                    stream: Box::new(stream),
                    source: peer.ip().into(),
                    peer: peer.to_string(),
                })
            }
            Socket::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok(Accepted {
                    descriptor: stream.as_raw_fd(),
                    stream: Box::new(stream),
                    source: Source::Local,
                    peer: "@".to_owned(),
                })
            }
        }
    }
}

/// A new connection.
struct Accepted {
    stream: BoxedStream,
    descriptor: std::os::fd::RawFd,
    source: Source,
    /// For the log.
    peer: String,
}

/// Closes a connection whose handshake was refused. A socket that is closed with unread bytes in it is
/// reset, and a reset overtakes the alert that says why: so what the client sent is read first.
async fn let_alert_arrive(mut stream: BoxedStream) {
    let read = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(ALERT_BYTES), &mut tokio::io::sink()).await
    };
    // Whether it was read or not, the connection ends here.
    let _ = timeout(ALERT_TIMEOUT, read).await;
}

fn builder(options: &ConnectionOptions, requests: Requests) -> auto::Builder<Requests> {
    let mut builder = auto::Builder::new(requests);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(options.concurrent_streams_max)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(http2::FIELD_BYTES_MAX)
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout);
    builder
}

/// What all connections of a listener share.
struct Connection {
    options: ConnectionOptions,
    tls: Option<Arc<ServerTls>>,
    endpoint: Endpoint,
    unfinished: Arc<Unfinished>,
}

impl Connection {
    async fn run(
        &self,
        stream: BoxedStream,
        peer: String,
        service: Arc<impl Service>,
        ticket: Arc<Ticket>,
        stop: watch::Receiver<bool>,
    ) {
        let stream = match &self.tls {
            None => stream,
            Some(tls) => match Box::pin(self.handshake(tls, stream, &peer, &ticket)).await {
                Some(stream) => Box::new(stream),
                None => return,
            },
        };
        self.http(Patient::new(stream, ticket), &peer, service, stop).await;
    }

    /// The handshake; `None` if it failed, which is logged.
    async fn handshake(
        &self,
        tls: &ServerTls,
        stream: BoxedStream,
        peer: &str,
        ticket: &Ticket,
    ) -> Option<TlsStream<BoxedStream>> {
        let hello = LazyConfigAcceptor::new(Default::default(), stream);
        let handshake = match timeout(CLIENT_HELLO_TIMEOUT, hello).await {
            Ok(Ok(hello)) => {
                ticket.opening();
                let rest = hello.into_stream(tls.config()).into_fallible();
                match timeout(HANDSHAKE_TIMEOUT, rest).await {
                    Ok(Ok(stream)) => return Some(stream),
                    Ok(Err((error, stream))) => {
                        let_alert_arrive(stream).await;
                        Ok(error)
                    }
                    Err(elapsed) => Err(elapsed),
                }
            }
            Ok(Err(error)) => Ok(error),
            Err(_elapsed) => {
                self.rejected(peer, &"no TLS ClientHello came", true);
                return None;
            }
        };
        match handshake {
            Ok(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.rejected(peer, &"EOF", true);
            }
            Ok(error) => self.rejected(peer, &keepd_tls::explain_io(&error), false),
            Err(_elapsed) => self.rejected(peer, &"the handshake took too long", false),
        }
        None
    }

    fn rejected(&self, peer: &str, error: &dyn std::fmt::Display, quiet: bool) {
        let message = if self.endpoint == Endpoint::Peer {
            "rejected connection on peer endpoint"
        } else {
            "rejected connection on client endpoint"
        };
        if quiet {
            tracing::debug!(remote_addr = peer, %error, "{message}");
        } else {
            tracing::warn!(remote_addr = peer, %error, "{message}");
        }
    }

    async fn http(
        &self,
        stream: Patient,
        peer: &str,
        service: Arc<impl Service>,
        mut stop: watch::Receiver<bool>,
    ) {
        let share = self.unfinished.share();
        let of_requests = Arc::clone(&share);
        let service = hyper::service::service_fn(move |request| {
            let answer = Arc::clone(&service).call(request, Arc::clone(&of_requests));
            async move { Ok::<_, std::convert::Infallible>(answer.await) }
        });
        let requests = Requests::default();
        let builder = builder(&self.options, requests.clone());
        let stream = Mended::new(stream, share);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = WithRequests::new(connection, requests);
        let result = tokio::select! {
            result = &mut connection => result,
            _ = stop.changed() => {
                connection.connection().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(remote_addr = peer, %error, "a connection ended");
        }
    }
}
