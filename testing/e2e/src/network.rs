//! The network between members: a small TCP proxy in front of each, whose faults a test chooses.
//!
//! ```text
//!   a peer --> advertised port --> chunks that wait for their time --> the port it listens on
//!                                  chunks of the other direction   <--
//! ```
//!
//! Members advertise one URL to all, so the member that dialed is found by its process. Each direction
//! between two members is a link of its own, whichever of them dialed. What a link does not carry waits,
//! as it does in TCP: nothing is lost, and nobody is told.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// BOUND: members that a network has room for.
pub const MEMBERS_MAX: usize = 6;
/// BOUND: bytes that are taken from a connection at once, and the pieces that one direction of it holds.
const CHUNK_BYTES: usize = 16 << 10;
const CHUNKS: usize = 32;
/// State of an established connection in `/proc/net/tcp`.
const ESTABLISHED: &str = "01";

/// The way from one member to another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Nothing gets through.
    pub is_cut: bool,
    /// Time that everything takes.
    pub delay: Duration,
    /// Bytes that get through in a second, if that is limited.
    pub rate: Option<u32>,
}

/// The network of a cluster. Copies are the same network.
#[derive(Clone, Debug)]
pub struct Network {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// By `from * MEMBERS_MAX + to`.
    links: Vec<watch::Sender<Link>>,
    /// Counts how often the connections of a pair were reset, in the same order.
    resets: Vec<watch::Sender<u64>>,
    processes: Mutex<[Option<u32>; MEMBERS_MAX]>,
}

impl Default for Network {
    fn default() -> Self {
        let number = MEMBERS_MAX * MEMBERS_MAX;
        let links = (0..number).map(|_| watch::Sender::new(Link::default())).collect();
        let resets = (0..number).map(|_| watch::Sender::new(0)).collect();
        Self { shared: Arc::new(Shared { links, resets, processes: Mutex::default() }) }
    }
}

impl Network {
    /// Carries what comes to one port to another one, where a member listens.
    ///
    /// # Panics
    /// If the port is taken, or outside of a runtime.
    pub fn lead(&self, member: usize, advertised: u16, listening: u16) {
        assert!(member < MEMBERS_MAX, "the network has no room for m{member}");
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, advertised));
        let listener = listener.expect("the port is free");
        listener.set_nonblocking(true).expect("sockets can be polled");
        let listener = TcpListener::from_std(listener).expect("there is a runtime");
        let network = self.clone();
        tokio::spawn(async move {
            while let Ok((near, from)) = listener.accept().await {
                let network = network.clone();
                tokio::spawn(async move { network.carry(near, from, member, listening).await });
            }
        });
    }

    /// Says by which process a member is to be known.
    pub fn knows(&self, member: usize, process: u32) {
        self.processes()[member] = Some(process);
    }

    /// Changes the link from one member to another one.
    pub fn set(&self, from: usize, to: usize, link: Link) {
        self.shared.links[index(from, to)].send_replace(link);
    }

    /// Takes all faults from all links.
    pub fn mend(&self) {
        for link in &self.shared.links {
            link.send_replace(Link::default());
        }
    }

    /// Ends all connections between two members, as a reset does.
    pub fn reset(&self, one: usize, other: usize) {
        self.shared.resets[index(one.min(other), one.max(other))].send_modify(|count| *count += 1);
    }

    fn processes(&self) -> MutexGuard<'_, [Option<u32>; MEMBERS_MAX]> {
        self.shared.processes.lock().expect("no test fails in between")
    }

    async fn carry(&self, near: TcpStream, from: SocketAddr, to: usize, listening: u16) {
        // Nobody else has a reason to come here; a stranger meets no faults.
        let Some(from) = self.dialer(from) else { return plain(near, listening).await };
        let mut resets = self.shared.resets[index(from.min(to), from.max(to))].subscribe();
        let there = self.shared.links[index(from, to)].subscribe();
        let back = self.shared.links[index(to, from)].subscribe();
        if there.clone().wait_for(|link| !link.is_cut).await.is_err() {
            return;
        }
        let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, listening)).await else { return };
        let _unlimited = (near.set_nodelay(true), far.set_nodelay(true));
        let (mut near_out, mut near_in) = near.into_split();
        let (mut far_out, mut far_in) = far.into_split();
        tokio::select! {
            () = pump(&mut near_out, &mut far_in, there) => return,
            () = pump(&mut far_out, &mut near_in, back) => return,
            _reset = resets.changed() => {}
        }
        // What is not delivered is dropped, and both ends are told.
        let _gone = (near_out.as_ref().set_zero_linger(), far_out.as_ref().set_zero_linger());
    }

    /// The member whose process has a connection's other end.
    fn dialer(&self, from: SocketAddr) -> Option<usize> {
        let socket = format!("socket:[{}]", inode(from)?);
        let processes = *self.processes();
        let has_it = |process: u32| {
            let Ok(files) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return false };
            let mut links = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
            links.any(|link| link.as_os_str() == socket.as_str())
        };
        processes.iter().position(|process| process.is_some_and(has_it))
    }
}

const fn index(from: usize, to: usize) -> usize {
    from * MEMBERS_MAX + to
}

/// The inode of the socket that is bound to an address of 127.0.0.1 and connected.
fn inode(address: SocketAddr) -> Option<String> {
    let local = format!("0100007F:{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let mut rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row.get(1) == Some(&&*local) && row.get(3) == Some(&ESTABLISHED))?;
    row.get(9).map(|inode| (*inode).to_owned())
}

async fn plain(mut near: TcpStream, listening: u16) {
    if let Ok(mut far) = TcpStream::connect((Ipv4Addr::LOCALHOST, listening)).await {
        let _ended = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    }
}

/// Carries one direction of a connection until that ends.
async fn pump(from: &mut OwnedReadHalf, into: &mut OwnedWriteHalf, link: watch::Receiver<Link>) {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    tokio::select! {
        () = deliver(receiver, into, link.clone()) => {}
        () = async { take(from, sender, link).await; std::future::pending().await } => {}
    }
}

async fn take(
    from: &mut OwnedReadHalf,
    sender: mpsc::Sender<(Instant, Bytes)>,
    link: watch::Receiver<Link>,
) {
    loop {
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        if !matches!(from.read_buf(&mut chunk).await, Ok(1..)) {
            return;
        }
        let due = Instant::now() + link.borrow().delay;
        if sender.send((due, chunk.freeze())).await.is_err() {
            return;
        }
    }
}

async fn deliver(
    mut receiver: mpsc::Receiver<(Instant, Bytes)>,
    into: &mut OwnedWriteHalf,
    mut link: watch::Receiver<Link>,
) {
    while let Some((due, chunk)) = receiver.recv().await {
        sleep_until(due).await;
        let Ok(rate) = link.wait_for(|link| !link.is_cut).await.map(|link| link.rate) else {
            return;
        };
        if into.write_all(&chunk).await.is_err() {
            return;
        }
        if let Some(rate) = rate {
            let bytes = u32::try_from(chunk.len()).expect("a chunk is small");
            sleep(Duration::from_secs(1) * bytes / rate.max(1)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const SHORT: Duration = Duration::from_millis(200);

    /// Two members in this process: m0 dials m1 through the network.
    async fn connected(network: &Network) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let advertised = crate::free_port();
        network.lead(1, advertised, listener.local_addr().unwrap().port());
        network.knows(0, std::process::id());
        let near = TcpStream::connect((Ipv4Addr::LOCALHOST, advertised)).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (near, far)
    }

    async fn hears(stream: &mut TcpStream, text: &[u8]) -> bool {
        let mut found = vec![0; text.len()];
        let read = timeout(SHORT, stream.read_exact(&mut found)).await;
        matches!(read, Ok(Ok(_))) && found == text
    }

    #[tokio::test]
    async fn a_cut_link_carries_nothing_and_what_waited_comes_in_order_when_it_is_mended() {
        let network = Network::default();
        let (mut near, mut far) = connected(&network).await;
        near.write_all(b"one").await.unwrap();
        assert!(hears(&mut far, b"one").await);
        network.set(0, 1, Link { is_cut: true, ..Link::default() });
        near.write_all(b"two").await.unwrap();
        near.write_all(b"three").await.unwrap();
        far.write_all(b"back").await.unwrap();
        assert!(hears(&mut near, b"back").await, "the other direction is whole");
        let mut byte = [0];
        timeout(SHORT, far.read_exact(&mut byte)).await.unwrap_err();
        network.mend();
        assert!(hears(&mut far, b"twothree").await);
    }

    #[tokio::test]
    async fn a_slow_link_takes_its_time() {
        let network = Network::default();
        let (mut near, mut far) = connected(&network).await;
        network.set(0, 1, Link { delay: 2 * SHORT, ..Link::default() });
        let began = Instant::now();
        near.write_all(b"late").await.unwrap();
        let mut found = [0; 4];
        far.read_exact(&mut found).await.unwrap();
        assert!(began.elapsed() >= 2 * SHORT);
        network.set(0, 1, Link { rate: Some(100_000), ..Link::default() });
        let began = Instant::now();
        near.write_all(&[0; 60_000]).await.unwrap();
        let mut found = vec![0; 60_000];
        far.read_exact(&mut found).await.unwrap();
        // The last piece has not paid for itself yet.
        assert!(began.elapsed() >= Duration::from_millis(400));
    }

    #[tokio::test]
    async fn a_reset_ends_the_connections_of_two_members_and_no_others() {
        let network = Network::default();
        let (mut near, _far) = connected(&network).await;
        network.reset(0, 2);
        let mut byte = [0];
        timeout(SHORT, near.read_exact(&mut byte)).await.unwrap_err();
        network.reset(1, 0);
        near.read_exact(&mut byte).await.unwrap_err();
    }
}
