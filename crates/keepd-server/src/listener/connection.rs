//! One connection: its TLS handshake, then HTTP/1.1 or HTTP/2.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use keepd_tls::{PeerIdentity, ServerTls};
use keepd_types::limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::body::Body;

use super::connection_slots::{Endpoint, Slot};
use super::metered_stream::BoxedStream;
use super::preface_timeout::PrefaceTimeout;
use crate::connection_executor::{ConnectionTask, InlineExecutor};
use crate::grpc::call::Peer;
use crate::http2::{self, Mended};
use crate::unfinished::{Share, Unfinished};

/// How long a client may take for its first TLS message, which needs nothing from the server.
const CLIENT_HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a client may take to read why its handshake was refused, and how many bytes are read
/// meanwhile.
const ALERT_TIMEOUT: Duration = Duration::from_secs(1);
const ALERT_BYTES: u64 = 64 * 1024;
/// How long the rest of a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
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

/// Answers the requests of a listener.
pub(crate) trait Service: Send + Sync + 'static {
    /// Answers one request.
    fn call(
        self: Arc<Self>,
        request: Request<Incoming>,
        share: Arc<Share>,
    ) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
}

/// What all connections of a listener share.
pub(super) struct Connection {
    pub(super) options: ConnectionOptions,
    pub(super) tls: Option<Arc<ServerTls>>,
    pub(super) endpoint: Endpoint,
    pub(super) unfinished: Arc<Unfinished>,
}

impl Connection {
    /// Serves one of them to its end.
    pub(super) async fn run(
        &self,
        stream: BoxedStream,
        peer: String,
        service: Arc<impl Service>,
        slot: Arc<Slot>,
        stop: watch::Receiver<bool>,
    ) {
        let mut peer = Peer { address: peer, identity: None };
        let stream = match &self.tls {
            None => stream,
            Some(tls) => {
                match Box::pin(self.handshake(tls, stream, &peer.address, &slot)).await {
                    Some(stream) => {
                        // Only what the handshake has verified comes here.
                        let certificates = stream.get_ref().1.peer_certificates();
                        peer.identity = PeerIdentity::from_chain(certificates);
                        Box::new(stream)
                    }
                    None => return,
                }
            }
        };
        self.http(PrefaceTimeout::new(stream, slot), peer, service, stop).await;
    }

    /// The handshake; `None` if it failed, which is logged.
    async fn handshake(
        &self,
        tls: &ServerTls,
        stream: BoxedStream,
        peer: &str,
        slot: &Slot,
    ) -> Option<TlsStream<BoxedStream>> {
        let hello = LazyConfigAcceptor::new(Default::default(), stream);
        let handshake = match timeout(CLIENT_HELLO_TIMEOUT, hello).await {
            Ok(Ok(hello)) => {
                slot.opening();
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
        stream: PrefaceTimeout,
        peer: Peer,
        service: Arc<impl Service>,
        mut stop: watch::Receiver<bool>,
    ) {
        let address = peer.address.clone();
        let share = self.unfinished.share(peer);
        let of_requests = Arc::clone(&share);
        let service = hyper::service::service_fn(move |request| {
            let answer = Arc::clone(&service).call(request, Arc::clone(&of_requests));
            async move { Ok::<_, std::convert::Infallible>(answer.await) }
        });
        let requests = InlineExecutor::default();
        let builder = builder(&self.options, requests.clone());
        let stream = Mended::new(stream, share);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = ConnectionTask::new(connection, requests);
        let result = tokio::select! {
            result = &mut connection => result,
            _ = stop.changed() => {
                connection.connection().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(remote_addr = address, %error, "a connection ended");
        }
    }
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

fn builder(options: &ConnectionOptions, requests: InlineExecutor) -> auto::Builder<InlineExecutor> {
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
