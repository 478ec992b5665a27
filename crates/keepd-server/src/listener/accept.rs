//! The door that connections come through: a stream of bytes and its source, before TLS and HTTP.
//!
//! The system's sockets are in [`super::Listener`] itself; a simulated network has a door of its own,
//! and everything behind it is the same.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

/// The two directions of a connection.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub(super) type BoxedStream = Box<dyn Stream>;

/// A connection that is waited for, and the address that it comes from.
pub type Accepting<'a> =
    Pin<Box<dyn Future<Output = io::Result<(Box<dyn Stream>, SocketAddr)>> + Send + 'a>>;

/// A network that connections come from.
pub trait Accept: Send + Sync {
    /// Waits for the next connection. A wait that is dropped loses none.
    fn accept(&self) -> Accepting<'_>;

    /// The address that is listened on.
    fn local_address(&self) -> SocketAddr;
}
