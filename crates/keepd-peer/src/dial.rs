//! Connects to a peer URL: TCP, TLS, HTTP/2; and finds out what answers if it is no peer port of keepd.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Method, Request, StatusCode};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use keepd_tls::ClientTls;
use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::etcd;
use crate::frames::{FrameBody, FrameReader, chain};
use crate::protocol::CONTENT_TYPE;
use crate::socket::{Connect, Socket};

/// BOUND: receive window of a stream of answers, which are small.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// BOUND: receive window of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// BOUND: bytes of a stream that the HTTP/2 library has taken over and not yet written.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// The reason why a peer URL leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DialError {
    #[error("{url}: {reason}; peer URLs have the form http://HOST:PORT or https://HOST:PORT")]
    Url { url: String, reason: String },
    #[error(
        "{url}: TLS is not set up for connections to peers: give --peer-trusted-ca-file (and \
         --peer-cert-file, --peer-key-file)"
    )]
    NoTls { url: String },
    #[error("{url}: {reason}")]
    Connect { url: String, reason: String },
    #[error("{url}: no answer within {after:?}; is the port filtered, or the machine gone?")]
    Timeout { url: String, after: Duration },
    #[error("{url}: the member there starts or stops")]
    Busy { url: String },
    #[error("{url}: TLS: {reason}")]
    Tls { url: String, reason: String },
    #[error("{}", etcd::is_etcd(url, version))]
    Etcd { url: String, version: String },
    #[error(
        "{url} is a client URL of keepd, not a peer URL: give the member's peer URL (member list \
         shows it, member update corrects it)"
    )]
    ClientUrl { url: String },
    #[error("{url} does not answer as a peer port of keepd ({reason}); is the URL right?")]
    NotKeepd { url: String, reason: String },
}

/// A peer URL.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    url: String,
    is_tls: bool,
    /// `host:port`.
    authority: String,
    host: String,
}

impl Address {
    fn parse(url: &str) -> Result<Self, DialError> {
        let bad = |reason: &str| DialError::Url { url: url.to_owned(), reason: reason.to_owned() };
        let uri: http::Uri =
            url.parse().map_err(|error: http::uri::InvalidUri| bad(&error.to_string()))?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => return Err(bad("the scheme is neither http nor https")),
        };
        let authority = uri.authority().ok_or_else(|| bad("there is no host"))?;
        if authority.port().is_none() {
            return Err(bad("there is no port"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let authority = authority.as_str().rsplit('@').next().unwrap_or_default().to_owned();
        Ok(Self { url: url.to_owned(), is_tls, authority, host })
    }
}

/// The way to peer URLs.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    pub(crate) connect: Arc<dyn Connect>,
    pub(crate) tls: Option<Arc<ClientTls>>,
    /// Time limit for a connection, and for the first answer on it.
    pub(crate) timeout: Duration,
    /// Interval at which a silent connection is pinged, and the time limit for the answer.
    pub(crate) keepalive: (Duration, Duration),
}

impl Dialer {
    /// Connects.
    pub(crate) async fn connect(&self, url: &str) -> Result<Connection, DialError> {
        let address = Address::parse(url)?;
        let socket = self.open(&address, b"h2").await?;
        let failure = Failure::default();
        let socket = Watched { socket, failure: failure.clone() };
        let handshake = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .keep_alive_interval(self.keepalive.0)
            .keep_alive_timeout(self.keepalive.1)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(socket))
            .await;
        let (requests, connection) = handshake
            .map_err(|error| DialError::Connect { url: url.to_owned(), reason: chain(&error) })?;
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = chain(&error), "a connection to a peer ended");
            }
        }));
        Ok(Connection { address, requests, failure, dialer: self.clone(), _task: task })
    }

    async fn open(&self, address: &Address, alpn: &[u8]) -> Result<Box<dyn Socket>, DialError> {
        let url = || address.url.clone();
        let opening = self.handshake(address, alpn);
        timeout(self.timeout, opening)
            .await
            .unwrap_or_else(|_elapsed| Err(DialError::Timeout { url: url(), after: self.timeout }))
    }

    async fn handshake(
        &self,
        address: &Address,
        alpn: &[u8],
    ) -> Result<Box<dyn Socket>, DialError> {
        let url = || address.url.clone();
        let dialing =
            |error: io::Error| DialError::Connect { url: url(), reason: error.to_string() };
        let stream = self.connect.connect(&address.authority).await.map_err(dialing)?;
        if !address.is_tls {
            return Ok(stream);
        }
        let tls = self.tls.as_ref().ok_or_else(|| DialError::NoTls { url: url() })?;
        let refused = |reason: String| DialError::Tls { url: url(), reason };
        let name = ServerName::try_from(address.host.clone());
        let name = name.map_err(|error| refused(format!("{}: {error}", address.host)))?;
        let mut config = tls.config();
        Arc::make_mut(&mut config).alpn_protocols = vec![alpn.to_vec()];
        let stream = TlsConnector::from(config).connect(name, stream).await;
        Ok(Box::new(stream.map_err(|error| refused(keepd_tls::explain_io(&error)))?))
    }

    /// Finds out what answers at a URL where no peer port of keepd does.
    async fn explain(&self, address: &Address, reason: String) -> DialError {
        let mut socket = match self.open(address, b"http/1.1").await {
            Ok(socket) => socket,
            Err(error) => return error,
        };
        let asking = etcd::ask_version(&mut socket, &address.authority);
        let url = address.url.clone();
        match timeout(self.timeout, asking).await.ok().flatten() {
            Some(etcd::Found::Etcd(version)) => DialError::Etcd { url, version },
            Some(etcd::Found::KeepdClient) => DialError::ClientUrl { url },
            None => DialError::NotKeepd { url, reason },
        }
    }
}

/// A connection to a peer. Dropped, it is closed.
pub(crate) struct Connection {
    address: Address,
    requests: http2::SendRequest<FrameBody>,
    failure: Failure,
    dialer: Dialer,
    _task: AbortOnDropHandle<()>,
}

impl Connection {
    /// Sends a request, and gives the answer once it begins.
    pub(crate) async fn call(
        &mut self,
        path: &str,
        body: FrameBody,
    ) -> Result<FrameReader, DialError> {
        let scheme = if self.address.is_tls { "https" } else { "http" };
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{scheme}://{}{path}", self.address.authority))
            .header(http::header::CONTENT_TYPE, CONTENT_TYPE)
            .body(body);
        let url = || self.address.url.clone();
        let request =
            request.map_err(|error| DialError::Url { url: url(), reason: error.to_string() })?;
        let after = self.dialer.timeout;
        let answer = match timeout(after, self.requests.send_request(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(self.broken(chain(&error)).await),
            Err(_elapsed) => return Err(DialError::Timeout { url: url(), after }),
        };
        let content_type = answer.headers().get(http::header::CONTENT_TYPE);
        if answer.status() == StatusCode::OK
            && content_type.is_some_and(|it| it.as_bytes() == CONTENT_TYPE.as_bytes())
        {
            return Ok(FrameReader::new(answer.into_body()));
        }
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
            return Err(DialError::Busy { url: url() });
        }
        let reason = format!("HTTP status {}", answer.status());
        Err(self.dialer.explain(&self.address, reason).await)
    }

    /// The error of a connection that broke before it was answered on.
    async fn broken(&self, reason: String) -> DialError {
        let url = self.address.url.clone();
        let failure = self.failure.0.lock().take();
        match failure {
            // In TLS 1.3 a server refuses a client's certificate only after the handshake.
            Some((reason, true)) => DialError::Tls { url, reason },
            other => {
                let reason = other.map_or(reason, |(reason, _)| reason);
                self.dialer.explain(&self.address, reason).await
            }
        }
    }
}

/// The error of a read, for people, and whether it is of TLS: the HTTP/2 library keeps only its kind.
#[derive(Clone, Default)]
struct Failure(Arc<Mutex<Option<(String, bool)>>>);

/// A socket that notes the error of its reads.
struct Watched {
    socket: Box<dyn Socket>,
    failure: Failure,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.socket).poll_read(task, buffer));
        if let Err(error) = &result {
            let is_tls =
                error.get_ref().is_some_and(|inner| inner.is::<tokio_rustls::rustls::Error>());
            *self.failure.0.lock() = Some((keepd_tls::explain_io(error), is_tls));
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(task, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(task, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_urls_are_read_as_etcd_writes_them() {
        for (url, is_tls, authority, host) in [
            ("http://10.0.0.1:2380", false, "10.0.0.1:2380", "10.0.0.1"),
            ("https://m1.example:2380/", true, "m1.example:2380", "m1.example"),
            ("https://[::1]:2380", true, "[::1]:2380", "::1"),
            ("https://user@h:1", true, "h:1", "h"),
        ] {
            let (authority, host) = (authority.to_owned(), host.to_owned());
            let address = Address { url: url.to_owned(), is_tls, authority, host };
            assert_eq!(Address::parse(url), Ok(address), "{url}");
        }
        for url in ["m1:2380", "ftp://m1:2380", "http://m1", "unix://x:1", "http://", ""] {
            let error = Address::parse(url).unwrap_err();
            assert!(error.to_string().contains("http://HOST:PORT"), "{error}");
        }
    }
}
