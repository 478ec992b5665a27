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

use super::accept::BoxedStream;
use super::connection_slots::{Endpoint, Slot};
use super::preface_timeout::Preface;
use super::remote_names;
use crate::connection_executor::{ConnectionTask, InlineExecutor};
use crate::gathered::gathered;
use crate::http2::{self, Mended};
use crate::peer::Peer;
use crate::unfinished::{Share, UNREAD_STREAMS_OF_CONNECTION_MAX, Unfinished};

/// Time limit for the first TLS message, which needs nothing from the server.
const CLIENT_HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit for a client to read why its handshake was refused, and bytes read from it meanwhile.
const ALERT_TIMEOUT: Duration = Duration::from_secs(1);
const ALERT_BYTES: u64 = 64 * 1024;
/// Time limit for the rest of a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for the headers of an HTTP/1.1 request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// BOUND: receive window of one HTTP/2 stream, which holds what is not read: a request that waits for
/// room (`unfinished`) fills it, and its client waits too.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// BOUND: that of a stream between members, and their number: so much of the log may be ahead of a
/// heartbeat, and a state must get on.
const PEER_STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const PEER_STREAMS_MAX: u32 = 8;
/// The receive window of a connection, the largest there is. It bounds nothing: that is done by the
/// windows of streams and the number of those that may wait unread. But the library ends a connection
/// when the small frames in all its streams have spent half of this, each 256 bytes less its length,
/// and offers no other way to say how much that is.
const CONNECTION_WINDOW_BYTES: u32 = i32::MAX as u32;
/// BOUND: requests that a client has withdrawn before they were accepted. A client whose deadlines pass
/// while it is busy withdraws hundreds at once, and the library ends its connection beyond this. What a
/// connection reads before it yields (`http2`) holds fewer.
const WITHDRAWN_REQUESTS_MAX: usize = 4096;
/// The smallest message, a progress request of a watch, with its prefix.
const MESSAGE_BYTES_MIN: usize = 7;

// The streams of a connection that may wait unread do not end it, whatever messages fill their windows.
const _: () = assert!(
    UNREAD_STREAMS_OF_CONNECTION_MAX
        * (STREAM_WINDOW_BYTES as usize / MESSAGE_BYTES_MIN)
        * (256 - MESSAGE_BYTES_MIN)
        < CONNECTION_WINDOW_BYTES as usize / 2
);
const _: () = assert!(
    PEER_STREAMS_MAX as usize
        * (PEER_STREAM_WINDOW_BYTES as usize / MESSAGE_BYTES_MIN)
        * (256 - MESSAGE_BYTES_MIN)
        < CONNECTION_WINDOW_BYTES as usize / 2
);

/// Options of connections.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionOptions {
    /// HTTP/2 streams per connection; a client with more requests waits for earlier ones to end.
    pub concurrent_streams_max: u32,
    /// Interval at which a silent client is pinged.
    pub keepalive_interval: Option<Duration>,
    /// Time limit for its answer.
    pub keepalive_timeout: Duration,
    /// SO_REUSEPORT.
    pub reuse_port: bool,
    /// Whether the certificate of whoever connects must be one for the address that it connects from.
    pub checks_addresses: bool,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self {
            concurrent_streams_max: limits::CONCURRENT_STREAMS_MAX,
            keepalive_interval: Some(Duration::from_secs(2 * 3600)),
            keepalive_timeout: Duration::from_secs(20),
            reuse_port: false,
            checks_addresses: false,
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

/// The state that all connections of a listener share.
pub(super) struct Connection {
    pub(super) options: ConnectionOptions,
    pub(super) tls: Option<Arc<ServerTls>>,
    pub(super) endpoint: Endpoint,
    pub(super) unfinished: Arc<Unfinished>,
}

impl Connection {
    /// Serves one connection to its end.
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
                        // The handshake has verified them.
                        let certificates = stream.get_ref().1.peer_certificates();
                        peer.identity = PeerIdentity::from_chain(certificates);
                        if !self.admits(&peer).await {
                            return;
                        }
                        Box::new(stream)
                    }
                    None => return,
                }
            }
        };
        self.http(stream, Preface::new(slot), peer, service, stop).await;
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

    /// Whether a certificate may be shown from the address that it comes from.
    async fn admits(&self, peer: &Peer) -> bool {
        let Some(identity) = peer.identity.as_ref().filter(|_| self.options.checks_addresses)
        else {
            return true;
        };
        let checking = remote_names::check(identity, &peer.address, &remote_names::System);
        let error = match timeout(HANDSHAKE_TIMEOUT, checking).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => error,
            Err(_elapsed) => "the name servers do not answer".to_owned(),
        };
        self.rejected(&peer.address, &error, false);
        false
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
        stream: BoxedStream,
        preface: Arc<Preface>,
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
        let builder = builder(&self.options, self.endpoint, requests.clone());
        let (stream, outlet) = gathered(preface.watch(stream));
        let stream = Mended::new(stream, share);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = ConnectionTask::new(connection, outlet, requests);
        let served = async {
            tokio::select! {
                result = &mut connection => result,
                _ = stop.changed() => {
                    connection.connection().graceful_shutdown();
                    connection.await
                }
            }
        };
        let error = tokio::select! {
            result = served => result.err(),
            () = preface.timeout() => Some("no protocol preface came".into()),
        };
        if let Some(error) = error {
            tracing::debug!(remote_addr = address, %error, "a connection ended");
        }
    }
}

/// Closes a connection whose handshake was refused. A socket closed with unread bytes in it is reset,
/// and a reset overtakes the alert that says why; so the bytes of the client are read first.
async fn let_alert_arrive(mut stream: BoxedStream) {
    let read = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(ALERT_BYTES), &mut tokio::io::sink()).await
    };
    // Whether it was read or not, the connection ends here.
    let _ = timeout(ALERT_TIMEOUT, read).await;
}

fn builder(
    options: &ConnectionOptions,
    endpoint: Endpoint,
    requests: InlineExecutor,
) -> auto::Builder<InlineExecutor> {
    let (streams_max, window_bytes) = match endpoint {
        Endpoint::Peer => (PEER_STREAMS_MAX, PEER_STREAM_WINDOW_BYTES),
        Endpoint::Client | Endpoint::Metrics => {
            (options.concurrent_streams_max, STREAM_WINDOW_BYTES)
        }
    };
    let mut builder = auto::Builder::new(requests);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_pending_accept_reset_streams(WITHDRAWN_REQUESTS_MAX)
        .max_concurrent_streams(streams_max)
        .initial_stream_window_size(window_bytes)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(http2::FIELD_BYTES_MAX)
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout);
    builder
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// Streams with 20 MB worth of small frames, as the library counts them, wait unread; the connection
    /// serves another call.
    #[tokio::test]
    async fn small_frames_in_streams_that_wait_unread_do_not_end_their_connection() {
        const STREAMS: usize = 40;
        const FRAMES: usize = 2000;
        let (client, server) = tokio::io::duplex(1 << 20);
        let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
            if request.uri().path() != "/alive" {
                // Its body is kept, and not read.
                std::future::pending::<()>().await;
            }
            Ok::<_, std::convert::Infallible>(Response::new(Body::empty()))
        });
        let requests = InlineExecutor::default();
        let options = ConnectionOptions::default();
        let builder = builder(&options, Endpoint::Client, requests.clone());
        let share = Unfinished::new(1024).share(Peer::default());
        let (stream, outlet) = gathered(server);
        let stream = Mended::new(stream, share);
        tokio::spawn(async move {
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            ConnectionTask::new(connection, outlet, requests).await
        });

        let (mut client, connection) = h2::client::handshake(client).await.unwrap();
        tokio::spawn(connection);
        let mut open = async |path: &str| {
            let request = Request::post(format!("http://localhost{path}")).body(()).unwrap();
            std::future::poll_fn(|task| client.poll_ready(task)).await.unwrap();
            client.send_request(request, false).unwrap()
        };
        let mut unread = Vec::new();
        for _ in 0..STREAMS {
            unread.push(open("/unread").await);
        }
        for _ in 0..FRAMES {
            for (_, sending) in &mut unread {
                sending.send_data(Bytes::from_static(&[0; MESSAGE_BYTES_MIN]), false).unwrap();
            }
            tokio::task::yield_now().await;
        }
        let (answer, _sending) = open("/alive").await;
        assert!(answer.await.unwrap().status().is_success());
    }
}
