//! Several members in one thread, with a network between them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use keepd_env::sim::CrashMode;
use keepd_env::{Clock, ManualClock, Random, SeededRandom};
use keepd_member::InitialCluster;
use keepd_node::{Bootstrap, Handle, NotReceived, Options, Receiver};
use keepd_types::MemberId;

use crate::network::SimNetwork;
use crate::{Client, RUN_TIME_MAX, SimMember};

/// A cluster that runs in the thread of its test.
#[derive(Debug)]
pub struct SimCluster {
    seed: u64,
    schedule: SeededRandom,
    clock: ManualClock,
    network: SimNetwork,
    hosts: Vec<SimMember>,
    ids: Vec<MemberId>,
    steps: u64,
    /// Timeouts of clients need a runtime; its clock stands still.
    runtime: tokio::runtime::Runtime,
}

impl SimCluster {
    /// The first members of a cluster on empty disks, none of which runs.
    ///
    /// # Panics
    /// If no runtime can be made.
    #[must_use]
    pub fn new(seed: u64, members: usize) -> Self {
        let schedule = SeededRandom::new(seed);
        let clock = ManualClock::new();
        let names: BTreeMap<String, Vec<String>> = (0..members)
            .map(|number| (format!("m{number}"), vec![format!("http://m{number}:2380")]))
            .collect();
        let mut hosts = Vec::new();
        let mut ids = Vec::new();
        for (name, urls) in &names {
            let cluster =
                InitialCluster::new(name, names.clone(), "sim").expect("the names are right");
            ids.push(cluster.local);
            let mut options = Options::new(PathBuf::from("/data"));
            options.ballast_bytes = 64 * 1024;
            options.name.clone_from(name);
            options.client_urls = vec![urls[0].replace("2380", "2379")];
            options.bootstrap = Bootstrap::New(cluster);
            hosts.push(SimMember::with(schedule.next_u64(), clock.clone(), options));
        }
        let network = SimNetwork::new(schedule.next_u64(), clock.clone());
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().expect("it needs no file");
        Self { seed, schedule, clock, network, hosts, ids, steps: 0, runtime }
    }

    /// Starts a member that does not run.
    ///
    /// # Panics
    /// If it refuses its data directory.
    pub fn start(&mut self, member: usize) {
        let started = self.hosts[member].start();
        started.unwrap_or_else(|error| panic!("{}: m{member}: {error}", self.context()));
        self.handle(member).connect(self.network.of(self.ids[member]));
    }

    /// Starts all members that do not run.
    pub fn start_all(&mut self) {
        for member in 0..self.hosts.len() {
            if !self.hosts[member].is_running() {
                self.start(member);
            }
        }
    }

    /// The way into a running member.
    #[must_use]
    pub fn handle(&self, member: usize) -> Handle {
        self.hosts[member].handle()
    }

    /// A member's id.
    #[must_use]
    pub fn id(&self, member: usize) -> MemberId {
        self.ids[member]
    }

    /// All members' ids.
    #[must_use]
    pub fn ids(&self) -> &[MemberId] {
        &self.ids
    }

    /// The network.
    #[must_use]
    pub const fn network(&self) -> &SimNetwork {
        &self.network
    }

    /// Whether a member runs.
    #[must_use]
    pub fn is_running(&self, member: usize) -> bool {
        self.hosts[member].is_running()
    }

    /// The member that leads, if the running ones agree on one that runs.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        let running = || (0..self.hosts.len()).filter(|member| self.is_running(*member));
        let mut told = running().map(|member| self.handle(member).status().leader);
        let leader = told.next().filter(|leader| told.all(|other| other == *leader))?;
        running().find(|member| self.ids[*member].0 == leader)
    }

    /// The time of the simulation.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// The place of a failure: with the seed it can be run again.
    #[must_use]
    pub fn context(&self) -> String {
        format!("seed {}, step {}, {:?}", self.seed, self.steps, self.now())
    }

    /// The digest of every step so far.
    #[must_use]
    pub fn trace(&self) -> u64 {
        let traces = self.hosts.iter().map(SimMember::trace);
        traces.fold(self.steps, |all, trace| (all ^ trace).wrapping_mul(0x0000_0100_0000_01b3))
    }

    /// A number below `bound` from the seed.
    pub fn draw(&self, bound: u64) -> u64 {
        self.schedule.next_u64() % bound
    }

    fn draw_index(&self, len: usize) -> usize {
        usize::try_from(self.draw(len as u64)).expect("an index of something in memory")
    }

    /// The process of a member dies; what it wrote stays, synced or not.
    pub fn kill(&mut self, member: usize) {
        self.hosts[member].kill();
        self.network.hang_up(self.ids[member]);
    }

    /// The power of a member fails.
    pub fn cut_power(&mut self, member: usize, mode: CrashMode) {
        self.hosts[member].cut_power(mode);
        self.network.hang_up(self.ids[member]);
    }

    /// Steps the members, carries messages and polls the clients until all of these have ended.
    ///
    /// # Panics
    /// If they do not end.
    pub fn run(&mut self, mut clients: Vec<Client<'_>>) {
        let limit = self.now() + RUN_TIME_MAX;
        while !clients.is_empty() {
            self.poll(&mut clients);
            self.step();
            assert!(self.now() < limit, "{}: clients do not come to an end", self.context());
        }
    }

    /// As [`Self::run`], for as long; the clients that have not ended are dropped.
    pub fn run_for(&mut self, time: Duration, mut clients: Vec<Client<'_>>) {
        let end = self.now() + time;
        while self.now() < end {
            if !clients.is_empty() {
                self.poll(&mut clients);
            }
            self.step();
        }
    }

    /// Steps the members until a condition holds.
    ///
    /// # Panics
    /// If that takes longer than `limit`.
    pub fn run_until(&mut self, limit: Duration, mut holds: impl FnMut(&Self) -> bool) {
        let end = self.now() + limit;
        while !holds(self) {
            self.step();
            assert!(self.now() < end, "{}: it did not come to that", self.context());
        }
    }

    fn poll(&self, clients: &mut Vec<Client<'_>>) {
        let polled = self.draw_index(clients.len());
        let entered = self.runtime.enter();
        let mut context = Context::from_waker(Waker::noop());
        if clients[polled].as_mut().poll(&mut context) == Poll::Ready(()) {
            drop(clients.swap_remove(polled));
        }
        drop(entered);
    }

    /// One part of a member does something, or a message arrives; if there is neither, time passes.
    fn step(&mut self) {
        self.steps += 1;
        while let Some((from, to)) = self.network.take_loss() {
            if let Some(sender) = self.running(from) {
                self.handle(sender).lost(to);
            }
        }
        let ready: Vec<(usize, usize)> = (0..self.hosts.len())
            .flat_map(|host| self.hosts[host].ready().into_iter().map(move |part| (host, part)))
            .collect();
        let arrived = self.network.arrived();
        let choices = ready.len() + arrived;
        if choices == 0 {
            let turns = self.hosts.iter().filter_map(SimMember::next_turn);
            let next = turns.chain(self.network.next_arrival()).min();
            let next = next.unwrap_or_else(|| panic!("{}: no member runs", self.context()));
            self.clock.advance(next - self.now());
            return;
        }
        let chosen = self.draw_index(choices);
        match ready.get(chosen) {
            Some((host, part)) => self.hosts[*host].step_part(*part),
            None => self.deliver(chosen - ready.len()),
        }
    }

    fn deliver(&self, which: usize) {
        let arrival = self.network.take(which);
        let Some(receiver) = self.running(arrival.to) else { return };
        match self.handle(receiver).receive(arrival.from, arrival.message.clone()) {
            Ok(()) | Err(NotReceived::Stopped) => {}
            Err(NotReceived::Full) => self.network.put_back(arrival),
            Err(NotReceived::Malformed(reason)) => {
                panic!("{}: a member sends what no member sends: {reason}", self.context())
            }
        }
    }

    fn running(&self, id: MemberId) -> Option<usize> {
        let host = self.ids.iter().position(|known| *known == id)?;
        self.is_running(host).then_some(host)
    }
}
