//! The doors to the simulated network, and resets: every stream through a door can be broken from outside.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use keepd_peer::{Connect, Connecting, Socket};
use keepd_server::{Accept, Accepting, Stream};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use turmoil::net::{TcpListener, TcpStream};

/// All doors of a simulation.
#[derive(Clone, Debug, Default)]
pub struct Doors(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Ends the streams between two hosts, by the lower address first.
    resets: BTreeMap<(IpAddr, IpAddr), CancellationToken>,
    /// Attempts to connect: the simulated time, from, to.
    attempts: Vec<(std::time::Duration, IpAddr, SocketAddr)>,
}

impl Doors {
    /// Resets every stream between two hosts.
    pub fn reset(&self, one: IpAddr, other: IpAddr) {
        let pair = (one.min(other), one.max(other));
        if let Some(token) = self.0.lock().resets.remove(&pair) {
            token.cancel();
        }
    }

    /// The times at which a host tried to connect to an address.
    #[must_use]
    pub fn attempts(&self, from: IpAddr, to: SocketAddr) -> Vec<std::time::Duration> {
        let state = self.0.lock();
        let attempts = state.attempts.iter().filter(|it| (it.1, it.2) == (from, to));
        attempts.map(|it| it.0).collect()
    }

    fn attempt(&self, from: IpAddr, authority: &str) {
        let at = turmoil::sim_elapsed().unwrap_or_default();
        if let Ok(to) = authority.parse() {
            self.0.lock().attempts.push((at, from, to));
        }
    }

    fn wrap(&self, stream: TcpStream) -> io::Result<Breakable> {
        let (one, other) = (stream.local_addr()?.ip(), stream.peer_addr()?.ip());
        let pair = (one.min(other), one.max(other));
        let token = self.0.lock().resets.entry(pair).or_default().clone();
        Ok(Breakable { stream, reset: Box::pin(token.cancelled_owned()), is_reset: false })
    }
}

/// A simulated TCP stream that can be reset.
#[derive(Debug)]
struct Breakable {
    stream: TcpStream,
    reset: Pin<Box<WaitForCancellationFutureOwned>>,
    is_reset: bool,
}

impl Breakable {
    fn is_whole(&mut self, task: &mut Context<'_>) -> io::Result<()> {
        self.is_reset = self.is_reset || self.reset.as_mut().poll(task).is_ready();
        if self.is_reset { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Breakable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.is_whole(task)?;
        Pin::new(&mut self.stream).poll_read(task, buffer)
    }
}

impl AsyncWrite for Breakable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.is_whole(task)?;
        Pin::new(&mut self.stream).poll_write(task, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(task)
    }
}

/// The way out of a host.
#[derive(Clone, Debug)]
pub struct SimConnect {
    /// The doors of the simulation.
    pub doors: Doors,
    /// The host.
    pub host: IpAddr,
}

impl Connect for SimConnect {
    fn connect<'a>(&'a self, authority: &'a str) -> Connecting<'a> {
        Box::pin(async move {
            self.doors.attempt(self.host, authority);
            let stream = TcpStream::connect(authority).await?;
            let socket: Box<dyn Socket> = Box::new(self.doors.wrap(stream)?);
            Ok(socket)
        })
    }
}

/// The way in to a port of a host.
pub struct SimAccept {
    doors: Doors,
    listener: TcpListener,
    address: SocketAddr,
}

impl std::fmt::Debug for SimAccept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimAccept").field("address", &self.address).finish_non_exhaustive()
    }
}

impl SimAccept {
    /// Listens on a port of the host that asks for it.
    ///
    /// # Errors
    /// If somebody listens there.
    pub async fn bind(doors: Doors, host: IpAddr, port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
        Ok(Self { doors, listener, address: SocketAddr::new(host, port) })
    }
}

impl Accept for SimAccept {
    fn accept(&self) -> Accepting<'_> {
        Box::pin(async move {
            let (stream, from) = self.listener.accept().await?;
            let stream: Box<dyn Stream> = Box::new(self.doors.wrap(stream)?);
            Ok((stream, from))
        })
    }

    fn local_address(&self) -> SocketAddr {
        self.address
    }
}
