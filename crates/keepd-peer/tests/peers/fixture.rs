//! A member that notes what it receives, its network and its listener; and the log of all of them.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use keepd_env::Env;
use keepd_node::{Hello, NotReceived, PeerAddress, Receiver, Refusal, StateSink, Transport as _};
use keepd_peer::{Network, Options, PeerService, Remote, Tcp};
use keepd_tls::{
    Authority, ClientTls, ClientTlsOptions, PeerIdentity, ServerTls, Subject, TlsOptions,
};
use keepd_types::{ClusterId, MemberId};
use parking_lot::Mutex;
use testkit::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

pub(crate) const ELECTION_TIMEOUT: Duration = Duration::from_millis(600);
const WAIT_MAX: Duration = Duration::from_secs(20);
const WINDOW_BYTES: u32 = 1024 * 1024;

/// Heads and bytes of states.
type States = Arc<Mutex<Vec<(Bytes, Vec<u8>)>>>;

/// Waits for something to come true.
pub(crate) async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let waiting = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT_MAX, waiting)
        .await
        .unwrap_or_else(|_elapsed| panic!("never: {what}"));
}

/// A member that notes everything.
#[derive(Debug)]
pub(crate) struct Recorder {
    hello: Hello,
    pub(crate) refuses: Mutex<Option<Refusal>>,
    /// No space for messages that begin with `log`.
    pub(crate) is_full: AtomicBool,
    pub(crate) received: Mutex<Vec<(MemberId, Bytes)>>,
    pub(crate) lost: Mutex<Vec<MemberId>>,
    pub(crate) refused_by: Mutex<Vec<(MemberId, Refusal)>>,
    pub(crate) states: States,
    pub(crate) dropped_sinks: Arc<Mutex<usize>>,
    /// A state is refused once it has so many bytes.
    pub(crate) state_bytes_max: Mutex<usize>,
    /// Keeps a state from going on.
    pub(crate) is_state_held: Arc<AtomicBool>,
}

impl Recorder {
    pub(crate) fn texts(&self) -> Vec<String> {
        let received = self.received.lock();
        received.iter().map(|(_, text)| String::from_utf8_lossy(text).into_owned()).collect()
    }
}

impl Receiver for Recorder {
    fn hello(&self) -> Hello {
        self.hello.clone()
    }

    fn meet(&self, _hello: &Hello) -> Result<(), Refusal> {
        self.refuses.lock().clone().map_or(Ok(()), Err)
    }

    fn receive(&self, from: MemberId, message: Bytes) -> Result<(), NotReceived> {
        if message.starts_with(b"log") && self.is_full.load(Ordering::Relaxed) {
            return Err(NotReceived::Full);
        }
        if message.starts_with(b"bad") {
            return Err(NotReceived::Malformed("a bad message".to_owned()));
        }
        self.received.lock().push((from, message));
        Ok(())
    }

    fn begin_state(&self, _from: MemberId, head: Bytes) -> Result<Box<dyn StateSink>, String> {
        if head.starts_with(b"unwanted") {
            return Err("nobody wants it".to_owned());
        }
        Ok(Box::new(Sink {
            head,
            bytes: Vec::new(),
            bytes_max: *self.state_bytes_max.lock(),
            states: Arc::clone(&self.states),
            dropped: Arc::clone(&self.dropped_sinks),
            is_held: Arc::clone(&self.is_state_held),
        }))
    }

    fn lost(&self, to: MemberId) {
        self.lost.lock().push(to);
    }

    fn refused_by(&self, peer: MemberId, refusal: &Refusal) {
        self.refused_by.lock().push((peer, refusal.clone()));
    }

    fn membership(&self) -> Bytes {
        Bytes::from_static(b"the membership")
    }
}

struct Sink {
    head: Bytes,
    bytes: Vec<u8>,
    bytes_max: usize,
    states: States,
    dropped: Arc<Mutex<usize>>,
    is_held: Arc<AtomicBool>,
}

impl StateSink for Sink {
    fn chunk(&mut self, chunk: Bytes) -> Result<(), String> {
        while self.is_held.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.bytes.extend_from_slice(&chunk);
        if self.bytes.len() > self.bytes_max {
            return Err("the disk is full".to_owned());
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), String> {
        let state = (self.head.clone(), std::mem::take(&mut self.bytes));
        self.states.lock().push(state);
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        *self.dropped.lock() += 1;
    }
}

/// Certificates of one cluster.
pub(crate) struct Certificates {
    dir: TempDir,
    authority: Authority,
}

impl Certificates {
    pub(crate) fn new(name: &str) -> Self {
        let dir = TempDir::new(name);
        let authority = Authority::create(&Env::real(), &dir.join("ca"), "peers").unwrap();
        Self { dir, authority }
    }

    fn ca(&self) -> std::path::PathBuf {
        self.dir.join("ca/ca.crt")
    }

    pub(crate) fn tls(&self, name: &str, allowed: &[&str]) -> (Arc<ServerTls>, Arc<ClientTls>) {
        let subject = Subject::peer(name, &["127.0.0.1".to_owned()]);
        let (cert, key) = self.authority.issue(name, &subject).unwrap();
        let server = TlsOptions {
            cert_file: cert.clone(),
            key_file: key.clone(),
            trusted_ca_file: Some(self.ca()),
            client_cert_auth: true,
            allowed_cns: allowed.iter().map(|&name| name.to_owned()).collect(),
            ..TlsOptions::default()
        };
        let client = ClientTlsOptions {
            trusted_ca_file: Some(self.ca()),
            cert_and_key_files: Some((cert, key)),
            ..ClientTlsOptions::default()
        };
        let env = Env::real();
        let server = ServerTls::new(server, &env).unwrap();
        (Arc::new(server), Arc::new(ClientTls::new(client, &env).unwrap()))
    }
}

/// A member with its network and its listener.
pub(crate) struct Member {
    pub(crate) id: MemberId,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) network: Network,
    pub(crate) address: SocketAddr,
    tls: Option<Arc<ServerTls>>,
    serving: Option<AbortOnDropHandle<()>>,
}

impl Member {
    pub(crate) fn new(id: u64) -> Self {
        Self::with(id, 0xc1, None, None)
    }

    pub(crate) fn with(
        id: u64,
        cluster: u64,
        tls: Option<(Arc<ServerTls>, Arc<ClientTls>)>,
        state_bytes_per_second: Option<u64>,
    ) -> Self {
        LazyLock::force(&LOG);
        let id = MemberId(id);
        let hello = Hello {
            cluster: ClusterId(cluster),
            member: id,
            version: "0.1.0".to_owned(),
            feature_level: 1,
            urls: Vec::new(),
            keys: vec![Bytes::from_static(b"12345678")],
        };
        let recorder = Arc::new(Recorder {
            hello,
            refuses: Mutex::default(),
            is_full: AtomicBool::new(false),
            received: Mutex::default(),
            lost: Mutex::default(),
            refused_by: Mutex::default(),
            states: Arc::default(),
            dropped_sinks: Arc::default(),
            state_bytes_max: Mutex::new(usize::MAX),
            is_state_held: Arc::default(),
        });
        let (server, client) = tls.unzip();
        let options = Options {
            connect: Arc::new(Tcp::default()),
            tls: client,
            election_timeout: ELECTION_TIMEOUT,
            state_bytes_per_second,
        };
        let network = Network::new(options, &Env::real());
        network.attach(recorder.clone());
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut member = Self { id, recorder, network, address, tls: server, serving: None };
        member.listen();
        member
    }

    /// Listens, at the address of before if there was one.
    pub(crate) fn listen(&mut self) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        let listener = socket.listen(16).unwrap();
        self.address = listener.local_addr().unwrap();
        let serving = serve(listener, self.network.service(), self.tls.clone());
        self.serving = Some(AbortOnDropHandle::new(tokio::spawn(serving)));
    }

    /// Closes the listener and every connection of it.
    pub(crate) fn close(&mut self) {
        self.serving = None;
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    pub(crate) fn peer(&self) -> PeerAddress {
        PeerAddress { id: self.id, urls: vec![self.url()] }
    }

    pub(crate) fn knows(&self, peers: &[&Self]) {
        self.network.set_peers(peers.iter().map(|peer| peer.peer()).collect());
    }

    pub(crate) async fn is_connected_to(&self, peer: &Self) {
        eventually("connected", || {
            let peers = self.network.peers();
            peers.iter().any(|it| it.id == peer.id && it.connected_for.is_some())
        })
        .await;
    }
}

/// Two members that know each other and are connected.
pub(crate) async fn pair(first: u64, second: u64) -> (Member, Member) {
    let (a, b) = (Member::new(first), Member::new(second));
    a.knows(&[&b]);
    b.knows(&[&a]);
    a.is_connected_to(&b).await;
    b.is_connected_to(&a).await;
    (a, b)
}

async fn serve(listener: TcpListener, service: PeerService, tls: Option<Arc<ServerTls>>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, address) = listener.accept().await.unwrap();
        connections.spawn(connection(stream, address, service.clone(), tls.clone()));
    }
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    service: PeerService,
    tls: Option<Arc<ServerTls>>,
) -> io::Result<()> {
    let remote = Remote { address: address.to_string(), identity: None };
    let Some(tls) = tls else {
        http(stream, remote, service).await;
        return Ok(());
    };
    let stream = TlsAcceptor::from(tls.config()).accept(stream).await?;
    let identity = PeerIdentity::from_chain(stream.get_ref().1.peer_certificates());
    http(stream, Remote { identity, ..remote }, service).await;
    Ok(())
}

async fn http(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    remote: Remote,
    service: PeerService,
) {
    let service = hyper::service::service_fn(move |request| {
        let answer = service.call(request, remote.clone());
        std::future::ready(Ok::<_, std::convert::Infallible>(answer))
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(16 * WINDOW_BYTES);
    // The tests end connections as they like.
    let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
}

/// The log of this process.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

static LOG: LazyLock<Log> = LazyLock::new(|| {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO)
        .with_writer(move || writer.clone())
        .init();
    log
});

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines of the log that have all of these.
pub(crate) fn logged(parts: &[&str]) -> Vec<String> {
    let log = LOG.0.lock();
    let log = String::from_utf8_lossy(&log);
    let lines = log.lines().filter(|line| parts.iter().all(|part| line.contains(part)));
    lines.map(str::to_owned).collect()
}
