//! Three members on hosts of their own, clients on another one, and whoever moves the time.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use e2e::Client;
use hyper_util::rt::TokioIo;
use keepd_env::sim::CrashMode;
use keepd_env::{ManualClock, Random as _, SeededRandom, SimDisk};
use keepd_member::InitialCluster;
use keepd_node::{Handle, Options};
use keepd_peer::{Connect as _, Network};
use keepd_tls::ClientTls;
use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use turmoil::Sim;

use crate::certificates::Certificates;
use crate::door::{Doors, SimConnect};
use crate::host::{CLIENT_PORT, Host, PEER_PORT};

/// A step of the simulated time.
pub const TICK: Duration = Duration::from_millis(1);
/// The host of the clients.
pub const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 100));
/// The longest time that anything is waited for.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// The longest simulated time of a run.
const RUN_MAX: Duration = Duration::from_secs(900);
/// BOUND: segments on the way in one stream.
const STREAM_SEGMENTS: usize = 4096;

/// The address of a member.
///
/// # Panics
/// If there are not so many.
#[must_use]
pub fn address(member: usize) -> IpAddr {
    let last = u8::try_from(member + 1).expect("a few members");
    Ipv4Addr::new(192, 168, 1, last).into()
}

/// A cluster on a simulated network.
pub struct Cluster {
    /// The simulation.
    pub sim: Sim<'static>,
    seed: u64,
    clock: ManualClock,
    doors: Doors,
    hosts: Vec<Arc<Host>>,
    certificates: Arc<Certificates>,
    client_tls: Arc<ClientTls>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("seed", &self.seed).finish_non_exhaustive()
    }
}

impl Cluster {
    /// The first members of a cluster on empty disks, all of which start.
    ///
    /// # Panics
    /// If certificates cannot be written.
    #[must_use]
    pub fn new(seed: u64, members: usize) -> Self {
        Self::with(seed, members, |_options| {})
    }

    /// As [`Self::new`], with other options.
    ///
    /// # Panics
    /// If certificates cannot be written.
    #[must_use]
    pub fn with(seed: u64, members: usize, adjust: fn(&mut Options)) -> Self {
        let random = SeededRandom::new(seed);
        let mut builder = turmoil::Builder::new();
        builder
            .tick_duration(TICK)
            .simulation_duration(RUN_MAX)
            .min_message_latency(Duration::from_micros(200))
            .max_message_latency(Duration::from_millis(10))
            .tcp_capacity(STREAM_SEGMENTS)
            .rng_seed(random.next_u64())
            .enable_random_order();
        let mut sim = builder.build();
        let (clock, doors) = (ManualClock::new(), Doors::default());
        let certificates = Arc::new(Certificates::new(&format!("net-{seed}")));
        let url = |member| format!("https://{}:{PEER_PORT}", address(member));
        let name = |member| format!("m{member}");
        let named: BTreeMap<_, _> = (0..members).map(|it| (name(it), vec![url(it)])).collect();
        let mut hosts = Vec::new();
        for member in 0..members {
            let initial = InitialCluster::new(&name(member), named.clone(), "net");
            let host = Arc::new(Host {
                address: address(member),
                initial: initial.expect("the names are right"),
                tls: certificates.of(&name(member), address(member)),
                clock: clock.clone(),
                doors: doors.clone(),
                random: SeededRandom::new(random.next_u64()),
                adjust,
                disk: Mutex::new(SimDisk::new()),
                running: Mutex::new(None),
            });
            hosts.push(Arc::clone(&host));
            sim.host(address(member), move || Arc::clone(&host).process());
        }
        let (_, client_tls) = certificates.of("client", CLIENT);
        Self { sim, seed, clock, doors, hosts, certificates, client_tls }
    }

    /// Moves the time by one step.
    ///
    /// # Panics
    /// If a member halts, or a client fails.
    pub fn step(&mut self) {
        if let Err(error) = self.sim.step() {
            panic!("seed {}, at {:?}: {error}", self.seed, self.sim.elapsed());
        }
        self.clock.advance(TICK);
    }

    /// Lets time pass.
    ///
    /// # Panics
    /// As [`Self::step`].
    pub fn run_for(&mut self, time: Duration) {
        let end = self.sim.elapsed() + time;
        while self.sim.elapsed() < end {
            self.step();
        }
    }

    /// Lets time pass until something is so; how much it was.
    ///
    /// # Panics
    /// If it does not come to be so.
    pub fn run_until(&mut self, what: &str, mut is: impl FnMut(&Self) -> bool) -> Duration {
        let began = self.sim.elapsed();
        while !is(self) {
            self.step();
            let waited = self.sim.elapsed() - began;
            assert!(waited < WAIT_MAX, "seed {}: never: {what}", self.seed);
        }
        self.sim.elapsed() - began
    }

    /// Runs a task on the host of the clients to its end.
    ///
    /// # Panics
    /// If it fails, or takes too long.
    pub fn client(&mut self, task: impl Future<Output = ()> + 'static) {
        let is_done = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&is_done);
        self.begin_client(async move {
            task.await;
            done.store(true, Ordering::Relaxed);
        });
        self.run_until("the client ends", |_| is_done.load(Ordering::Relaxed));
    }

    /// Begins a task on the host of the clients, which has one.
    pub fn begin_client(&mut self, task: impl Future<Output = ()> + 'static) {
        self.sim.client(CLIENT, async move {
            task.await;
            Ok(())
        });
    }

    /// The way of clients to the members.
    #[must_use]
    pub fn way(&self) -> Way {
        let connect = SimConnect { doors: self.doors.clone(), host: CLIENT };
        Way { connect, tls: Arc::clone(&self.client_tls), members: self.size() }
    }

    /// The seed.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// The number of members.
    #[must_use]
    pub fn size(&self) -> usize {
        self.hosts.len()
    }

    /// The doors of all hosts.
    #[must_use]
    pub const fn doors(&self) -> &Doors {
        &self.doors
    }

    /// The CA of the members.
    #[must_use]
    pub fn certificates(&self) -> Arc<Certificates> {
        Arc::clone(&self.certificates)
    }

    /// The way into a member that runs.
    #[must_use]
    pub fn handle(&self, member: usize) -> Option<Handle> {
        self.hosts[member].running.lock().as_ref().map(|(handle, _)| handle.clone())
    }

    /// The network of a member that runs.
    #[must_use]
    pub fn network(&self, member: usize) -> Option<Network> {
        self.hosts[member].running.lock().as_ref().map(|(_, network)| network.clone())
    }

    /// The member that leads in the newest term, and that a majority follows.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        let status = |member| self.handle(member).map(|handle| (member, handle.status()));
        let all: Vec<_> = (0..self.size()).filter_map(status).collect();
        let term = all.iter().map(|(_, status)| status.term).max()?;
        let known = all.iter().filter(|(_, status)| status.term == term);
        let leaders: Vec<_> =
            known.map(|(_, status)| status.leader).filter(|it| *it != 0).collect();
        let leader = *leaders.first()?;
        if 2 * leaders.len() <= self.size() {
            return None;
        }
        self.hosts.iter().position(|host| host.initial.local.0 == leader)
    }

    /// Kills a member's process, or cuts its power.
    pub fn kill(&mut self, member: usize, power: Option<CrashMode>) {
        self.sim.crash(address(member));
        self.hosts[member].died(power);
    }

    /// Starts a member again.
    pub fn start(&mut self, member: usize) {
        self.sim.bounce(address(member));
    }

    /// Cuts a member off from the others, but not from clients.
    pub fn cut_off(&self, member: usize) {
        for other in (0..self.size()).filter(|other| *other != member) {
            self.sim.partition(address(member), address(other));
        }
    }

    /// Joins what was cut.
    pub fn heal(&self) {
        for one in 0..self.size() {
            for other in one + 1..self.size() {
                self.sim.repair(address(one), address(other));
            }
        }
    }
}

/// The way of clients to the members, over TLS; to be gone from within the simulation.
#[derive(Clone, Debug)]
pub struct Way {
    connect: SimConnect,
    tls: Arc<ClientTls>,
    members: usize,
}

impl Way {
    /// A channel to a member, whose connection is made when it is first needed, and again whenever it was
    /// lost.
    ///
    /// # Panics
    /// Never: the address is right.
    #[must_use]
    pub fn channel(&self, member: usize) -> Channel {
        let (connect, tls, host) = (self.connect.clone(), Arc::clone(&self.tls), address(member));
        let connector = tower::service_fn(move |_uri: Uri| {
            let (connect, tls) = (connect.clone(), Arc::clone(&tls));
            async move {
                let stream = connect.connect(&format!("{host}:{CLIENT_PORT}")).await?;
                let name = ServerName::from(host);
                let stream = TlsConnector::from(tls.config()).connect(name, stream).await?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        Endpoint::from_shared(format!("http://{host}:{CLIENT_PORT}"))
            .expect("the address is right")
            .connect_timeout(Duration::from_secs(2))
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(connector)
    }

    /// A client of a member.
    #[must_use]
    pub fn client(&self, member: usize) -> Client {
        Client::over(self.channel(member))
    }

    /// A client of each member.
    #[must_use]
    pub fn clients(&self) -> Vec<Client> {
        (0..self.members).map(|member| self.client(member)).collect()
    }
}
