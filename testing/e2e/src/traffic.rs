//! Concurrent clients of a cluster, and a history of all that they asked and were told.
//!
//! The clients are those of the simulator (`testing/sim/src/workload`), over gRPC: the history is checked
//! by the same invariants, in `conclude.rs`. Every key and value begins with a mark that must never be read
//! on a disk.

mod ask;
mod conclude;
mod kv;
mod leases;
mod watches;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use histories::MARKER;
use histories::history::{History, Moment, Outcome, Request};
use histories::requests;
use histories::truth::Fact;
use histories::watches::Watch;
use keepd_env::{Random, SeededRandom};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

pub use self::conclude::Summary;
use crate::client::Client;

/// Time after which a client gives an answer up; longer than a member has for it.
const PATIENCE: Duration = Duration::from_secs(6);
/// Pause of a client that was not answered, or finds no member.
const FAILED_PAUSE: Duration = Duration::from_millis(100);

/// The part of a run that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Clients ask.
    Busy,
    /// No more requests: watches are told of the rest.
    Settling,
    /// Watches end too.
    Over,
}

/// A member as clients see it.
#[derive(Clone, Debug)]
struct Host {
    client: Client,
    /// Counts its starts.
    start: u64,
    is_running: bool,
}

/// Clients at work.
#[derive(Debug)]
pub struct Traffic {
    world: Arc<World>,
    clients: Vec<JoinHandle<()>>,
    watchers: Vec<JoinHandle<()>>,
}

/// All that the clients share.
#[derive(Debug)]
struct World {
    began: Instant,
    random: SeededRandom,
    hosts: Mutex<Vec<Host>>,
    history: Mutex<History>,
    watches: Mutex<Vec<Watch>>,
    /// Every change, as one watch of everything is told of it.
    changes: Mutex<Vec<Fact>>,
    phase: watch::Sender<Phase>,
    /// The highest revision that a client was told of.
    revision: AtomicI64,
    /// The highest revision that anyone asked to compact to.
    compacted: AtomicI64,
    numbers: AtomicU64,
}

impl Traffic {
    /// Begins to ask the members at these endpoints, all of which run.
    ///
    /// # Panics
    /// If an endpoint is none.
    #[must_use]
    pub fn start(seed: u64, endpoints: &[String]) -> Self {
        let client = |endpoint: &String| {
            Client::lazy(endpoint.clone()).expect("an endpoint of a test is one")
        };
        Self::among(seed, endpoints.iter().map(client).collect())
    }

    /// As [`Self::start`], with a way to each of the members.
    #[must_use]
    pub fn among(seed: u64, members: Vec<Client>) -> Self {
        let size = members.len();
        let host = |client| Host { client, start: 1, is_running: true };
        let world = Arc::new(World {
            began: Instant::now(),
            random: SeededRandom::new(seed),
            hosts: Mutex::new(members.into_iter().map(host).collect()),
            history: Mutex::default(),
            watches: Mutex::default(),
            changes: Mutex::default(),
            phase: watch::Sender::new(Phase::Busy),
            revision: AtomicI64::new(1),
            compacted: AtomicI64::new(0),
            numbers: AtomicU64::new(0),
        });
        let (mut clients, mut watchers) = (Vec::new(), Vec::new());
        for _ in 0..2 * size {
            clients.push(tokio::spawn(kv::client(Arc::clone(&world), clients.len())));
        }
        for _ in 0..2 {
            clients.push(tokio::spawn(leases::client(Arc::clone(&world), clients.len())));
        }
        clients.push(tokio::spawn(kv::compactor(Arc::clone(&world), clients.len())));
        watchers.push(tokio::spawn(watches::recorder(Arc::clone(&world))));
        for _ in 0..size {
            watchers.push(tokio::spawn(watches::client(Arc::clone(&world))));
        }
        Self { world, clients, watchers }
    }

    /// Says that a member is about to end.
    pub fn ends(&self, member: usize) {
        self.world.hosts()[member].is_running = false;
    }

    /// Says that a member was started again.
    pub fn starts(&self, member: usize) {
        let host = &mut self.world.hosts()[member];
        (host.start, host.is_running) = (host.start + 1, true);
    }

    /// Operations that were answered so far.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.world.history().answered()
    }
}

impl World {
    fn hosts(&self) -> MutexGuard<'_, Vec<Host>> {
        self.hosts.lock().expect("no client fails in between")
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().expect("no client fails in between")
    }

    fn watches(&self) -> MutexGuard<'_, Vec<Watch>> {
        self.watches.lock().expect("no client fails in between")
    }

    fn changes(&self) -> MutexGuard<'_, Vec<Fact>> {
        self.changes.lock().expect("no client fails in between")
    }

    fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    fn is_busy(&self) -> bool {
        self.phase() == Phase::Busy
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn moment(&self) -> Moment {
        // The time is taken inside, so that moments and times have one order.
        let mut history = self.history();
        history.moment(self.now())
    }

    /// A number below `bound` from the seed.
    fn draw(&self, bound: u64) -> u64 {
        (self.random.next_u64() >> 8) % bound.max(1)
    }

    fn draw_index(&self, len: usize) -> usize {
        usize::try_from(self.draw(len as u64)).expect("an index of something in memory")
    }

    async fn pause(&self, max: Duration) {
        let max = u64::try_from(max.as_micros()).expect("a short time");
        sleep(Duration::from_micros(self.draw(max))).await;
    }

    /// A number that is drawn once in a run.
    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A value that is written once in a run.
    fn value(&self, client: usize) -> Bytes {
        format!("{MARKER}/value {client}.{}", self.number()).into()
    }

    fn learn(&self, revision: i64) {
        self.revision.fetch_max(revision, Ordering::Relaxed);
    }

    fn revision(&self) -> i64 {
        self.revision.load(Ordering::Relaxed)
    }

    /// A member that runs; any of them.
    fn any_host(&self) -> Option<(usize, Host)> {
        let hosts = self.hosts();
        let running: Vec<usize> = (0..hosts.len()).filter(|it| hosts[*it].is_running).collect();
        if running.is_empty() {
            return None;
        }
        let host = running[self.draw_index(running.len())];
        Some((host, hosts[host].clone()))
    }

    fn is_same_start(&self, member: usize, start: u64) -> bool {
        let host = &self.hosts()[member];
        host.start == start && host.is_running
    }

    /// One operation, from its call to its end.
    async fn ask(
        &self,
        client: usize,
        (member, host): (usize, &Host),
        request: Request,
    ) -> Outcome {
        let operation = {
            let mut history = self.history();
            let now = self.now();
            history.call((client, member, host.start), request.clone(), now)
        };
        let answer = timeout(PATIENCE, ask::perform(&host.client, &request)).await;
        let mut outcome =
            answer.unwrap_or_else(|_| Outcome::Unknown("the client has given up".to_owned()));
        let is_read = matches!(request, Request::Read { .. });
        if is_read && !self.is_same_start(member, host.start) {
            // The connection may have been made anew meanwhile, to another start of the member.
            outcome = Outcome::Failed("the member has ended meanwhile".to_owned());
        }
        if let Outcome::Ok(response) = &outcome {
            self.learn(response.revision().unwrap_or(0));
        }
        let mut history = self.history();
        let now = self.now();
        history.end(operation, outcome.clone(), now);
        outcome
    }
}

impl requests::Run for World {
    fn draw(&self, bound: u64) -> u64 {
        Self::draw(self, bound)
    }

    fn value(&self, client: usize) -> Bytes {
        Self::value(self, client)
    }

    fn revision(&self) -> i64 {
        Self::revision(self)
    }
}
