//! The door to the network: a stream of bytes to the address of a peer URL, below TLS and HTTP.
//!
//! Real members go through [`Tcp`]; a simulated network has a door of its own, and everything above it
//! is the same.

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};

/// A stream of bytes to another member.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A connection that is being made.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Socket>>> + Send + 'a>>;

/// A network that members can be reached in.
pub trait Connect: Send + Sync + Debug {
    /// Connects to `host:port`; the caller bounds the time.
    fn connect<'a>(&'a self, authority: &'a str) -> Connecting<'a>;
}

/// The system's TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp {
    /// The address that connections come from, if it is not the system that chooses it.
    pub local_address: Option<IpAddr>,
}

impl Connect for Tcp {
    fn connect<'a>(&'a self, authority: &'a str) -> Connecting<'a> {
        Box::pin(async move {
            let stream = match self.local_address {
                None => TcpStream::connect(authority).await?,
                Some(local) => connect_from(local, authority).await?,
            };
            stream.set_nodelay(true)?;
            let socket: Box<dyn Socket> = Box::new(stream);
            Ok(socket)
        })
    }
}

async fn connect_from(local: IpAddr, authority: &str) -> io::Result<TcpStream> {
    let mut failed = None;
    // BOUND: the addresses of one name; the caller bounds the time.
    for address in tokio::net::lookup_host(authority).await? {
        if address.is_ipv4() != local.is_ipv4() {
            continue;
        }
        let socket = if local.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(SocketAddr::new(local, 0))?;
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = Some(error),
        }
    }
    let text = format!("it has no address that can be reached from {local}");
    Err(failed.unwrap_or_else(|| io::Error::new(io::ErrorKind::AddrNotAvailable, text)))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn connections_come_from_the_address_that_was_chosen() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        for local in ["127.0.0.2", "127.0.0.3"] {
            let local: IpAddr = local.parse().unwrap();
            let tcp = Tcp { local_address: Some(local) };
            let (connected, accepted) = tokio::join!(tcp.connect(&authority), listener.accept());
            assert!(connected.is_ok());
            assert_eq!(accepted.unwrap().1.ip(), local);
        }
        let tcp = Tcp { local_address: Some("::1".parse().unwrap()) };
        let refused = tcp.connect(&authority).await.err().unwrap();
        assert_eq!(refused.to_string(), "it has no address that can be reached from ::1");
    }
}
