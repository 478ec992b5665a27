//! Connects to an endpoint: its address, TLS or not, and the name that the certificate must have.
//!
//! Accepted are `host:port`, `http://`, `https://`, `unix://` and `unixs://`. A scheme decides on
//! TLS; without one (and for `unix`) TLS is used when any of its options was given.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use keepd_tls::ClientTls;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::global::{self, Options};
use crate::engine::exit::Exit;
use crate::engine::plain_os_error;

#[derive(Clone, Debug, Eq, PartialEq)]
enum Address {
    Tcp(String),
    Unix(String),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Security {
    Required,
    Optional,
    Never,
}

/// Times of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Dialing {
    /// BOUND: time for connecting, and for the server's first bytes.
    pub timeout: Duration,
    /// Interval at which an idle connection with open streams is pinged.
    pub keepalive_time: Duration,
    /// BOUND: time for the answer to a ping.
    pub keepalive_timeout: Duration,
}

impl Dialing {
    /// Those of a command.
    pub(crate) const fn of(options: &Options) -> Self {
        Self {
            timeout: options.dial_timeout,
            keepalive_time: options.keepalive_time,
            keepalive_timeout: options.keepalive_timeout,
        }
    }
}

/// A member to connect to.
#[derive(Clone, Debug)]
pub struct Target {
    /// The endpoint as given.
    pub name: String,
    address: Address,
    /// The host that the server's certificate must name.
    server_name: String,
    tls: Option<Arc<ClientTls>>,
}

fn parse(endpoint: &str) -> (Address, String, Security) {
    for (scheme, security) in [("unixs:", Security::Required), ("unix:", Security::Optional)] {
        if let Some(path) = endpoint.strip_prefix(scheme) {
            let path = path.strip_prefix("//").unwrap_or(path);
            let name = path.rsplit('/').next().unwrap_or_default();
            return (Address::Unix(path.to_owned()), name.to_owned(), security);
        }
    }
    let (host_port, security) = match endpoint.split_once("://") {
        Some(("https", rest)) => (rest, Security::Required),
        Some(("http", rest)) => (rest, Security::Never),
        Some((_, rest)) => (rest, Security::Optional),
        None => (endpoint, Security::Optional),
    };
    let host_port = host_port.split(['/', '?', '#']).next().unwrap_or_default();
    // A URL may name a user; like etcdctl nothing here asks who it is.
    let host_port = match host_port.rsplit_once('@') {
        Some((_, after)) if endpoint.contains("://") => after,
        _ => host_port,
    };
    let host = host_port.rsplit_once(':').map_or(host_port, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        // To Go no host is this one.
        return (Address::Tcp(format!("localhost{host_port}")), "localhost".to_owned(), security);
    }
    (Address::Tcp(host_port.to_owned()), host.to_owned(), security)
}

/// A failed connection to an endpoint.
#[derive(Debug)]
pub struct DialError {
    /// The error for people, in gRPC's words.
    pub text: String,
    /// Whether TLS refused one side: unlike a server that is down, that does not go away by itself.
    pub is_refusal: bool,
}

impl DialError {
    fn absent(text: String) -> Self {
        Self { text, is_refusal: false }
    }

    /// A failed read or handshake.
    fn of(what: &str, error: &io::Error) -> Self {
        let is_refusal = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
        Self { text: format!("{what}: {}", keepd_tls::explain_io(error)), is_refusal }
    }
}

impl Target {
    /// Reads an endpoint of a command.
    pub(crate) fn new(endpoint: &str, options: &Options) -> Result<Self, Exit> {
        Self::at(endpoint, options.tls.as_ref()).map_err(global::unusable)
    }

    /// Reads an endpoint. `tls` is for those whose scheme asks for it or leaves it open; without it
    /// the system's CAs are trusted if the scheme asks for TLS.
    ///
    /// # Errors
    /// If there are no such CAs.
    pub fn at(endpoint: &str, tls: Option<&Arc<ClientTls>>) -> Result<Self, keepd_tls::Error> {
        let (address, server_name, security) = parse(endpoint);
        let tls = match (security, tls) {
            (Security::Never, _) => None,
            (Security::Required, None) => Some(global::default_tls()?),
            (_, given) => given.cloned(),
        };
        Ok(Self { name: endpoint.to_owned(), address, server_name, tls })
    }

    /// Connects once, and waits for the server's first bytes: in TLS 1.3 a server that refuses the
    /// client's certificate says so only after the handshake.
    ///
    /// # Errors
    /// For people, in gRPC's words.
    pub async fn connect(&self, dialing: Dialing) -> Result<Channel, DialError> {
        // gRPC libraries allow no more than one probe in ten seconds, and servers count.
        let keepalive = dialing.keepalive_time.max(Duration::from_secs(10));
        let authority = match &self.address {
            Address::Tcp(host_port) => host_port.as_str(),
            Address::Unix(_) => "localhost",
        };
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let origin: Uri =
            format!("{scheme}://{authority}").parse().map_err(|error: http::uri::InvalidUri| {
                DialError::absent(format!("transport: {error}"))
            })?;
        let endpoint = Endpoint::from_shared(format!("http://{authority}"))
            .map_err(|error| DialError::absent(format!("transport: {error}")))?
            .origin(origin)
            .http2_keep_alive_interval(keepalive)
            .keep_alive_timeout(dialing.keepalive_timeout);
        // The socket is opened before the channel, so that its error is not wrapped away.
        let socket = timeout(dialing.timeout, self.open()).await.map_err(|_elapsed| {
            DialError::absent(format!("transport: dial {}: i/o timeout", self.describe()))
        })??;
        let (socket, heard) = Heard::new(socket);
        let mut socket = Some(TokioIo::new(socket));
        let channel = endpoint
            .connect_with_connector(service_fn(move |_: Uri| {
                let socket = socket.take();
                async move { socket.ok_or_else(|| io::Error::other("connection closed")) }
            }))
            .await
            .map_err(|error| DialError::absent(format!("transport: {error:?}")))?;
        const READING: &str = "error reading server preface";
        match timeout(dialing.timeout, heard).await {
            Ok(Ok(None)) => Ok(channel),
            Ok(Ok(Some(error))) => Err(DialError::of(READING, &error)),
            Ok(Err(_dropped)) => Err(DialError::absent(format!("{READING}: EOF"))),
            Err(_elapsed) => Err(DialError::absent(format!("{READING}: i/o timeout"))),
        }
    }

    fn describe(&self) -> String {
        match &self.address {
            Address::Tcp(host_port) => format!("tcp {host_port}"),
            Address::Unix(path) => format!("unix {path}"),
        }
    }

    async fn open(&self) -> Result<Box<dyn Socket>, DialError> {
        let dialling = |error: io::Error| {
            let reason = plain_os_error(&error);
            DialError::absent(format!("transport: dial {}: connect: {reason}", self.describe()))
        };
        let socket: Box<dyn Socket> = match &self.address {
            Address::Tcp(host_port) => {
                let stream = TcpStream::connect(host_port).await.map_err(dialling)?;
                stream.set_nodelay(true).map_err(dialling)?;
                Box::new(stream)
            }
            Address::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(dialling)?),
        };
        let Some(tls) = &self.tls else { return Ok(socket) };
        let name = ServerName::try_from(self.server_name.clone()).map_err(|error| {
            DialError::absent(format!("transport: {}: {error}", self.server_name))
        })?;
        let handshake = TlsConnector::from(tls.config()).connect(name, socket).await;
        let stream = handshake
            .map_err(|error| DialError::of("transport: authentication handshake failed", &error))?;
        Ok(Box::new(stream))
    }
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A socket that tells once how its first read went: the error, if it failed.
struct Heard {
    socket: Box<dyn Socket>,
    first: Option<oneshot::Sender<Option<io::Error>>>,
}

impl Heard {
    fn new(socket: Box<dyn Socket>) -> (Self, oneshot::Receiver<Option<io::Error>>) {
        let (first, heard) = oneshot::channel();
        (Self { socket, first: Some(first) }, heard)
    }
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.socket).poll_read(context, buffer));
        let Some(first) = self.first.take() else { return Poll::Ready(result) };
        let (told, result) = match result {
            Ok(()) if buffer.filled().len() == before => {
                (Some(io::ErrorKind::UnexpectedEof.into()), Ok(()))
            }
            Ok(()) => (None, Ok(())),
            // The connection fails by this too; why it does is told to who dialled.
            Err(error) => {
                let kind = error.kind();
                (Some(error), Err(kind.into()))
            }
        };
        // Nobody listens any more when the dial timed out.
        let _unheard = first.send(told);
        Poll::Ready(result)
    }
}

impl AsyncWrite for Heard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_endpoint_is_understood() {
        let tcp = |text: &str| Address::Tcp(text.to_owned());
        let unix = |text: &str| Address::Unix(text.to_owned());
        for (text, address, name, security) in [
            ("127.0.0.1:2379", tcp("127.0.0.1:2379"), "127.0.0.1", Security::Optional),
            ("http://h:1/", tcp("h:1"), "h", Security::Never),
            ("http://user:p@w@h:1", tcp("h:1"), "h", Security::Never),
            ("https://h:1?x=/@y", tcp("h:1"), "h", Security::Required),
            (":2379", tcp("localhost:2379"), "localhost", Security::Optional),
            ("https://[::1]:2379", tcp("[::1]:2379"), "::1", Security::Required),
            ("unix:///run/a.sock", unix("/run/a.sock"), "a.sock", Security::Optional),
            ("unix://a.sock", unix("a.sock"), "a.sock", Security::Optional),
            ("unixs:///run/a.sock", unix("/run/a.sock"), "a.sock", Security::Required),
        ] {
            assert_eq!(parse(text), (address, name.to_owned(), security), "{text}");
        }
    }
}
