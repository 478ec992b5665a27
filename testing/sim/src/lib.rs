//! Members of the production code in one thread, on a simulated disk, clock and randomness.
//!
//! ```text
//!   seed --> which part is stepped next, which client is polled
//!        --> nonces and ids (SeededRandom)
//!   clock: stands still while a part has something to do, then moves to the next turn that is due
//!   disk:  keeps what was synced; a kill keeps what was written, a power cut chooses by the seed
//! ```
//!
//! Nothing else moves a member: the same seed gives the same run, step by step and byte by byte,
//! and hours of its time pass in milliseconds.

#![expect(clippy::panic, reason = "a failed run names its seed and step")]

mod clock;
mod cluster;
mod faults;
pub mod fixture;
pub mod invariants;
pub mod logs;
mod network;
mod simulation;
mod trace;
mod truth;
pub mod workload;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use keepd_crypto::EncryptionConfig;
use keepd_env::sim::CrashMode;
use keepd_env::{Clock, Env, ManualClock, Random, SeededRandom, SimDisk};
use keepd_node::{BootError, DataDir, Handle, Member, Options, PartName};

use self::clock::SimClock;
pub use histories::history;

pub use self::cluster::SimCluster;
pub use self::network::{Faults, SimNetwork};
pub use self::simulation::{Failure, Report, Settings, Simulation};

/// The longest that a run of clients may take of the member's time.
const RUN_TIME_MAX: Duration = Duration::from_secs(600);

/// The seeds of a run of a test: `KEEPD_SIM_SEEDS`, or as many as it takes by itself.
#[must_use]
pub fn seeds(usual: u64) -> u64 {
    std::env::var("KEEPD_SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(usual)
}

/// A client: a future that ends when it has nothing more to do.
pub type Client<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// A member that runs in the thread of its test.
#[derive(Debug)]
pub struct SimMember {
    seed: u64,
    starts: u64,
    /// Chooses the next step.
    schedule: SeededRandom,
    clock: SimClock,
    disk: SimDisk,
    options: Options,
    config: EncryptionConfig,
    member: Option<Member>,
    /// The time of the next turn of each part that has not ended, by the member's clock.
    turns: BTreeMap<usize, Duration>,
    /// A part that hangs in a call.
    hung: Option<usize>,
    /// Nothing is stepped: the process is stopped, and may go on.
    is_paused: bool,
    /// Time that each write to the log takes.
    slow: Duration,
    /// The end of the write to the log that is under way.
    writes_until: Cell<Option<Duration>>,
    /// The digest of all steps so far.
    trace: u64,
    steps: u64,
    /// Timeouts of clients need a runtime; its clock stands still.
    runtime: tokio::runtime::Runtime,
}

impl SimMember {
    /// A host with an empty disk.
    ///
    /// # Panics
    /// If no runtime can be made.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut options = Options::new(PathBuf::from("/data"));
        options.ballast_bytes = 64 * 1024;
        Self::with(seed, ManualClock::new(), options)
    }

    /// A host with an empty disk beside others that go by the same clock.
    fn with(seed: u64, clock: ManualClock, options: Options) -> Self {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        Self {
            seed,
            starts: 0,
            schedule: SeededRandom::new(seed),
            clock: SimClock::new(clock),
            disk: SimDisk::new(),
            options,
            config: fixture::encryption(),
            member: None,
            turns: BTreeMap::new(),
            hung: None,
            is_paused: false,
            slow: Duration::ZERO,
            writes_until: Cell::new(None),
            trace: 0,
            steps: 0,
            runtime: runtime.enable_time().start_paused(true).build().expect("it needs no file"),
        }
    }

    /// Starts the member, with a new boot id and the randomness of its own start.
    ///
    /// # Errors
    /// If it refuses its data directory.
    ///
    /// # Panics
    /// If it runs already.
    pub fn start(&mut self) -> Result<(), BootError> {
        assert!(self.member.is_none(), "{}: the member runs already", self.context());
        self.starts += 1;
        let env = Env {
            disk: Arc::new(self.disk.clone()),
            clock: Arc::new(self.clock.clone()),
            random: Arc::new(SeededRandom::new(self.seed ^ self.starts << 32)),
        };
        let data_dir = DataDir::prepare(&env, &self.options, Some(self.config.clone()))?;
        self.member = Some(Member::open(env, self.options.clone(), data_dir)?);
        self.turns = (0..PartName::ALL.len()).map(|part| (part, Duration::ZERO)).collect();
        self.is_paused = false;
        self.writes_until.set(None);
        Ok(())
    }

    /// Starts the member and runs it until it serves.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_and_lead(&mut self) {
        let started = self.start();
        started.unwrap_or_else(|error| panic!("{}: it does not start: {error}", self.context()));
        let handle = self.handle();
        let clients: Vec<Client<'_>> =
            vec![Box::pin(async move { while handle.linearizable_view().await.is_err() {} })];
        self.run(clients);
    }

    /// The way in.
    ///
    /// # Panics
    /// If the member does not run.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.running().handle()
    }

    fn running(&self) -> &Member {
        self.member.as_ref().unwrap_or_else(|| panic!("{}: it does not run", self.context()))
    }

    /// The member's disk.
    #[must_use]
    pub const fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// The time of the simulation.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.clock.global()
    }

    /// Stops the process as it is, or lets it go on.
    pub(crate) fn set_paused(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
    }

    /// Whether the process is stopped as it is.
    pub(crate) const fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Has each write to the log take so long from now on.
    pub(crate) fn set_slow(&mut self, slow: Duration) {
        self.slow = slow;
    }

    /// The member's clock.
    pub(crate) const fn clock(&self) -> &SimClock {
        &self.clock
    }

    /// The encryption configuration of the next start.
    pub(crate) fn set_config(&mut self, config: EncryptionConfig) {
        self.config = config;
    }

    /// The encryption configuration of the last start, or the next one.
    pub(crate) const fn config(&self) -> &EncryptionConfig {
        &self.config
    }

    /// The data directory.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.options.data_dir
    }

    /// The digest of every step so far: which part, at what time, and what was on the disk.
    #[must_use]
    pub const fn trace(&self) -> u64 {
        self.trace
    }

    /// The place of a failure: with the seed it can be run again.
    #[must_use]
    pub fn context(&self) -> String {
        format!("seed {}, start {}, step {}", self.seed, self.starts, self.steps)
    }

    /// A number below `bound` from the seed.
    pub fn draw(&self, bound: u64) -> u64 {
        self.schedule.next_u64() % bound
    }

    /// Steps the parts and polls the clients until all of these have ended.
    ///
    /// # Panics
    /// If they do not end.
    pub fn run(&mut self, clients: Vec<Client<'_>>) {
        self.run_while(clients, |_| true);
    }

    /// As [`Self::run`], until `goes_on` says no before one of the steps; whether all clients have ended.
    ///
    /// # Panics
    /// If the clients do not end.
    pub fn run_while(
        &mut self,
        mut clients: Vec<Client<'_>>,
        mut goes_on: impl FnMut(&Self) -> bool,
    ) -> bool {
        let limit = self.now() + RUN_TIME_MAX;
        while !clients.is_empty() {
            if !goes_on(self) {
                return false;
            }
            let polled = usize::try_from(self.draw(clients.len() as u64)).expect("few clients");
            let entered = self.runtime.enter();
            let mut context = Context::from_waker(Waker::noop());
            if clients[polled].as_mut().poll(&mut context) == Poll::Ready(()) {
                drop(clients.swap_remove(polled));
            }
            drop(entered);
            self.step();
            assert!(self.now() < limit, "{}: clients do not come to an end", self.context());
        }
        true
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now() + time;
        while self.now() < end {
            self.step();
        }
    }

    /// One part does something; if none has anything to do, time passes until one has.
    fn step(&mut self) {
        let ready = self.ready();
        if ready.is_empty() {
            let next = self.next_turn();
            let next = next.unwrap_or_else(|| panic!("{}: it has halted", self.context()));
            self.clock.advance(next.saturating_sub(self.now()));
            return;
        }
        let chosen = ready[usize::try_from(self.draw(ready.len() as u64)).expect("few parts")];
        self.step_part(chosen);
    }

    /// The parts that have something to do now.
    fn ready(&self) -> Vec<usize> {
        let (now, Some(member)) = (self.clock.monotonic(), &self.member) else {
            return Vec::new();
        };
        if self.is_paused {
            return Vec::new();
        }
        let has_work =
            |part: usize, due: Duration| due <= now || member.has_events(PartName::ALL[part]);
        let moves = |part: usize| self.hung != Some(part);
        let ready =
            self.turns.iter().filter(|(part, due)| moves(**part) && has_work(**part, **due));
        ready.map(|(part, _)| *part).filter(|part| !self.is_writing(*part)).collect()
    }

    /// Whether a part is the log's, and what it has to write takes its time.
    fn is_writing(&self, part: usize) -> bool {
        if self.slow.is_zero() || PartName::ALL[part] != PartName::Wal {
            return false;
        }
        let until = self.writes_until.get().unwrap_or_else(|| self.now() + self.slow);
        self.writes_until.set(Some(until));
        self.now() < until
    }

    /// The time of the simulation at which a part is due next; `None` if the member does nothing.
    fn next_turn(&self) -> Option<Duration> {
        if self.is_paused {
            return None;
        }
        let written = self.writes_until.get().filter(|until| *until > self.now());
        let is_log = |part: usize| PartName::ALL[part] == PartName::Wal;
        let moving = self.turns.iter().filter(|(part, _)| self.hung != Some(**part));
        let turns = moving.filter(|(part, _)| written.is_none() || !is_log(**part));
        let due = turns.map(|(_, due)| *due).min().map(|due| self.clock.global_at(due));
        due.into_iter().chain(written).min()
    }

    fn step_part(&mut self, part: usize) {
        match self.running().step(PartName::ALL[part]) {
            Some(next) => self.turns.insert(part, next),
            None => self.turns.remove(&part),
        };
        self.steps += 1;
        if PartName::ALL[part] == PartName::Wal {
            self.writes_until.set(None);
        }
        for fact in [
            part as u64,
            u64::try_from(self.now().as_nanos()).expect("less than 584 years"),
            self.disk.used_bytes(),
        ] {
            // FNV-1a, by words.
            self.trace = (self.trace ^ fact).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// The process dies; what it wrote stays, synced or not.
    pub fn kill(&mut self) {
        self.disk = self.disk.kill();
        self.end();
    }

    /// The power fails.
    pub fn cut_power(&mut self, mode: CrashMode) {
        self.disk = self.disk.crash(mode);
        self.end();
    }

    /// Stops the member in order.
    pub fn stop(&mut self) {
        if let Some(member) = self.member.take() {
            member.stop();
        }
        self.turns.clear();
    }

    /// Whether the member runs: it was started and has not ended by itself.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let is_halted = self.member.as_ref().is_none_or(Member::is_halted);
        !is_halted && !self.turns.is_empty()
    }

    /// One of the parts hangs in a call from now on, or no longer.
    fn hang(&mut self, part: Option<PartName>) {
        self.hung = part.and_then(|part| PartName::ALL.iter().position(|known| *known == part));
    }

    fn end(&mut self) {
        self.hung = None;
        self.member = None;
        self.turns.clear();
    }
}
