//! Listeners: accept, handshake off the accept loop, HTTP/1.1 and HTTP/2 on one port.
//!
//! A silent or slow client costs a bounded slot and a deadline, never the accept loop.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use keepd_tls::ServerTls;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;

use crate::requests::{Requests, WithRequests};

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes under way at once on one listener; more wait in the kernel's queue.
const HANDSHAKES_MAX: usize = 1024;
/// How long to wait after a failed accept (out of descriptors, most likely).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long the headers of a plain HTTP request may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a new connection may take to say what it speaks, and how many bytes that are at most.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const PREFACE_BYTES: usize = 24;
/// Receive windows of one HTTP/2 stream and connection: room for the largest request.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// The length of the kernel's queue of new connections.
const BACKLOG: i32 = 4096;

/// Where to listen.
#[derive(Clone, Debug)]
pub enum Bind {
    /// TCP, as `host:port`.
    Tcp(String),
    /// A unix socket.
    Unix(PathBuf),
}

/// How connections are treated.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionOptions {
    /// HTTP/2 streams per connection.
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
            concurrent_streams_max: u32::MAX,
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
    /// Names the listener in the log: `client`, `peer` or `metrics`.
    endpoint: &'static str,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener")
            .field("endpoint", &self.endpoint)
            .field("address", &self.local_address())
            .finish_non_exhaustive()
    }
}

/// Answers the requests of a listener.
pub(crate) trait Service: Send + Sync + 'static {
    /// Answers one request.
    fn call(
        self: Arc<Self>,
        request: Request<Incoming>,
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
        endpoint: &'static str,
    ) -> Result<Self, BindError> {
        let socket = match bind {
            Bind::Tcp(address) => bind_tcp(address, options).await.map(Socket::Tcp),
            Bind::Unix(path) => bind_unix(path),
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
        tasks: TaskTracker,
        bytes: Arc<TrafficBytes>,
        mut stop: watch::Receiver<bool>,
        cut: CancellationToken,
    ) {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        let connection = Arc::new(Connection {
            options: self.options,
            tls: self.tls.clone(),
            endpoint: self.endpoint,
        });
        loop {
            let accepted = async {
                let permit = Arc::clone(&handshakes).acquire_owned().await;
                (permit.expect("nobody closes it"), self.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                accepted = accepted => accepted,
                _ = stop.changed() => break,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, endpoint = self.endpoint, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (connection, service) = (Arc::clone(&connection), Arc::clone(&service));
            let stream = Box::new(Counted { stream, bytes: Arc::clone(&bytes) });
            let (stop, cut) = (stop.clone(), cut.clone());
            tasks.spawn(async move {
                let served = connection.run(stream, peer, service, permit, stop);
                cut.run_until_cancelled(served).await;
            });
        }
        if let Socket::Unix(_, path) = &self.socket {
            // The socket file may have been removed by hand.
            let _ = std::fs::remove_file(path);
        }
    }

    async fn accept(&self) -> io::Result<(BoxedStream, String)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                // A client whose machine is gone is noticed some day.
                socket2::SockRef::from(&stream).set_keepalive(true)?;
                Ok((Box::new(stream), peer.to_string()))
            }
            Socket::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Box::new(stream), "@".to_owned()))
            }
        }
    }
}

/// Counts the bytes of a connection.
struct Counted {
    stream: BoxedStream,
    bytes: Arc<TrafficBytes>,
}

/// Bytes that clients sent and were sent, as they go over the wire.
#[derive(Debug, Default)]
pub struct TrafficBytes {
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(task, buffer);
        let read = buffer.filled().len() - before;
        self.bytes.received.fetch_add(read as u64, Ordering::Relaxed);
        result
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(task, bytes);
        self.count_sent(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(task, slices);
        self.count_sent(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(task)
    }
}

impl Counted {
    fn count_sent(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(sent)) = &result {
            self.bytes.sent.fetch_add(*sent as u64, Ordering::Relaxed);
        }
        result
    }
}

/// Gives a connection up that does not even say which protocol it speaks.
struct Patient {
    stream: BoxedStream,
    /// Bytes that may be missing still.
    unread: usize,
    /// Runs until they have come, or something was answered.
    silence: Option<Pin<Box<Sleep>>>,
}

fn silence() -> Pin<Box<Sleep>> {
    Box::pin(tokio::time::sleep(SILENCE_MAX))
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(task, buffer);
        if self.silence.is_none() {
            return result;
        }
        self.unread = self.unread.saturating_sub(buffer.filled().len() - before);
        if self.unread == 0 {
            self.silence = None;
        } else if result.is_pending()
            && let Some(silence) = &mut self.silence
            && silence.as_mut().poll(task).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        result
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.silence = None;
        Pin::new(&mut self.stream).poll_write(task, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.silence = None;
        Pin::new(&mut self.stream).poll_write_vectored(task, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(task)
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}
type BoxedStream = Box<dyn Stream>;

/// Cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("{}", describe(bind, source))]
pub struct BindError {
    bind: Bind,
    #[source]
    source: io::Error,
}

impl BindError {
    /// Whether something else listens there.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }
}

fn describe(bind: &Bind, error: &io::Error) -> String {
    let known = [
        (io::ErrorKind::AddrInUse, "bind: address already in use"),
        (io::ErrorKind::PermissionDenied, "bind: permission denied"),
        (io::ErrorKind::AddrNotAvailable, "bind: cannot assign requested address"),
    ];
    let reason = known.iter().find(|(kind, _)| *kind == error.kind());
    let reason = reason.map_or_else(|| error.to_string(), |(_, words)| (*words).to_owned());
    match bind {
        Bind::Tcp(address) => format!("listen tcp {address}: {reason}"),
        Bind::Unix(path) => format!("listen unix {}: {reason}", path.display()),
    }
}

async fn bind_tcp(address: &str, options: ConnectionOptions) -> io::Result<TcpListener> {
    let mut last =
        io::Error::new(io::ErrorKind::NotFound, format!("lookup {address}: no such host"));
    let mut addresses: Vec<_> = tokio::net::lookup_host(address).await?.collect();
    // `localhost` means 127.0.0.1 to Go, whichever a resolver puts first.
    addresses.sort_by_key(SocketAddr::is_ipv6);
    for address in addresses {
        match bind_address(address, options) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind_address(address: SocketAddr, options: ConnectionOptions) -> io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted server takes its port over from connections that linger; a listening one stays
    // in the way.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn bind_unix(path: &PathBuf) -> io::Result<Socket> {
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        // Left by a process that was killed.
        std::fs::remove_file(path)?;
    }
    Ok(Socket::Unix(UnixListener::bind(path)?, path.clone()))
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
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout);
    builder
}

/// What all connections of a listener share.
struct Connection {
    options: ConnectionOptions,
    tls: Option<Arc<ServerTls>>,
    endpoint: &'static str,
}

impl Connection {
    async fn run(
        &self,
        stream: BoxedStream,
        peer: String,
        service: Arc<impl Service>,
        permit: tokio::sync::OwnedSemaphorePermit,
        stop: watch::Receiver<bool>,
    ) {
        let Some(tls) = &self.tls else {
            drop(permit);
            return self.http(stream, &peer, service, stop).await;
        };
        let acceptor = TlsAcceptor::from(tls.config());
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
        drop(permit);
        match handshake {
            Ok(Ok(stream)) => self.http(Box::new(stream), &peer, service, stop).await,
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.rejected(&peer, &"EOF", true);
            }
            Ok(Err(error)) => {
                self.rejected(&peer, &keepd_tls::explain_io(&error), false);
            }
            Err(_elapsed) => self.rejected(&peer, &"the handshake took too long", false),
        }
    }

    fn rejected(&self, peer: &str, error: &dyn std::fmt::Display, quiet: bool) {
        let message = if self.endpoint == "peer" {
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
        stream: BoxedStream,
        peer: &str,
        service: Arc<impl Service>,
        mut stop: watch::Receiver<bool>,
    ) {
        let service = hyper::service::service_fn(move |request| {
            let answer = Arc::clone(&service).call(request);
            async move { Ok::<_, std::convert::Infallible>(answer.await) }
        });
        let requests = Requests::default();
        let builder = builder(&self.options, requests.clone());
        let stream = Patient { stream, unread: PREFACE_BYTES, silence: Some(silence()) };
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
