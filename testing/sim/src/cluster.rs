//! Several members in one thread, with a network between them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use keepd_env::sim::CrashMode;
use keepd_env::{Clock, ManualClock, Random, SeededRandom, SimDisk};
use keepd_machine::Membership;
use keepd_member::{Identity, InitialCluster};
use keepd_node::{BootError, Bootstrap, Handle, NotReceived, Options, PartName, Receiver};
use keepd_types::MemberId;

use crate::network::{SimNetwork, Transfer};
use crate::{Client, RUN_TIME_MAX, SimMember};

/// Time between two attempts to connect.
const DIAL_PAUSE: Duration = Duration::from_millis(20);

/// A cluster that runs in the thread of its test.
#[derive(Debug)]
pub struct SimCluster {
    seed: u64,
    schedule: SeededRandom,
    clock: ManualClock,
    network: SimNetwork,
    hosts: Vec<SimMember>,
    ids: Vec<MemberId>,
    /// Connections, by who dialed and who was dialed.
    met: BTreeSet<(MemberId, MemberId)>,
    /// The next time at which members dial those that they are not connected with.
    dials_at: Duration,
    /// Hosts that were taken away.
    gone: BTreeSet<usize>,
    adjust: fn(Options) -> Options,
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
        Self::with(seed, members, |options| options)
    }

    /// As [`Self::new`], with other options.
    ///
    /// # Panics
    /// If no runtime can be made.
    #[must_use]
    pub fn with(seed: u64, members: usize, adjust: fn(Options) -> Options) -> Self {
        let schedule = SeededRandom::new(seed);
        let clock = ManualClock::new();
        let names: BTreeMap<String, Vec<String>> = (0..members)
            .map(|number| (format!("m{number}"), vec![format!("http://m{number}:2380")]))
            .collect();
        let mut hosts = Vec::new();
        let mut ids = Vec::new();
        for name in names.keys() {
            let cluster =
                InitialCluster::new(name, names.clone(), "sim").expect("the names are right");
            ids.push(cluster.local);
            let mut options = options(name);
            options.bootstrap = Bootstrap::New(cluster);
            let options = adjust(options);
            hosts.push(SimMember::with(schedule.next_u64(), clock.clone(), options));
        }
        let network = SimNetwork::new(schedule.next_u64(), clock.clone());
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().expect("it needs no file");
        Self {
            seed,
            schedule,
            clock,
            network,
            hosts,
            ids,
            met: BTreeSet::new(),
            dials_at: Duration::ZERO,
            gone: BTreeSet::new(),
            adjust,
            steps: 0,
            runtime,
        }
    }

    /// A host with an empty disk for a member that the cluster has been told of; its number. `told` is
    /// what one of the members says of the membership.
    ///
    /// # Panics
    /// If that is no membership.
    pub fn add_host(&mut self, id: MemberId, told: Bytes) -> usize {
        let told = Membership::decode(told).expect("a member tells the membership");
        let number = self.hosts.len();
        let mut options = options(&format!("m{number}"));
        let identity = Identity { member: id, cluster: told.cluster };
        options.bootstrap = Bootstrap::Join { identity, members: told.members };
        let options = (self.adjust)(options);
        self.hosts.push(SimMember::with(self.schedule.next_u64(), self.clock.clone(), options));
        self.ids.push(id);
        number
    }

    /// The hosts, whose members run or not.
    #[must_use]
    pub fn hosts(&self) -> usize {
        self.hosts.len()
    }

    /// Takes a host away, with its disk: no member runs there any more.
    pub fn take_away(&mut self, member: usize) {
        if self.is_running(member) {
            self.kill(member);
        }
        self.gone.insert(member);
    }

    /// Whether a host was taken away.
    pub(crate) fn is_gone(&self, member: usize) -> bool {
        self.gone.contains(&member)
    }

    /// Starts a member that does not run.
    ///
    /// # Panics
    /// If it refuses its data directory.
    pub fn start(&mut self, member: usize) {
        let started = self.try_start(member);
        started.unwrap_or_else(|error| panic!("{}: m{member}: {error}", self.context()));
    }

    /// Starts a member that does not run.
    ///
    /// # Errors
    /// If it refuses its data directory.
    pub fn try_start(&mut self, member: usize) -> Result<(), BootError> {
        self.hosts[member].start()?;
        self.handle(member).connect(self.network.of(self.ids[member]));
        Ok(())
    }

    /// A member's disk.
    #[must_use]
    pub fn disk(&self, member: usize) -> &SimDisk {
        self.hosts[member].disk()
    }

    /// Puts a disk into the place of a member's, which does not run.
    ///
    /// # Panics
    /// If it runs.
    pub fn replace_disk(&mut self, member: usize, disk: SimDisk) {
        assert!(!self.is_running(member), "{}: m{member} runs", self.context());
        self.hosts[member].disk = disk;
    }

    /// Stops the process of a member as it is, or lets it go on.
    pub fn pause(&mut self, member: usize, is_paused: bool) {
        self.hosts[member].set_paused(is_paused);
    }

    /// A member's host.
    pub(crate) fn host(&self, member: usize) -> &SimMember {
        &self.hosts[member]
    }

    /// A member's host.
    pub(crate) fn host_mut(&mut self, member: usize) -> &mut SimMember {
        &mut self.hosts[member]
    }

    /// The clock of the simulation.
    pub(crate) const fn clock(&self) -> &ManualClock {
        &self.clock
    }

    /// A part of a member hangs in a call, as in a write to a disk that does not answer; `None` ends it.
    pub fn hang(&mut self, member: usize, part: Option<PartName>) {
        self.hosts[member].hang(part);
    }

    /// Has a member announce another feature level from its next start on: it stands for another binary.
    pub fn set_feature_level(&mut self, member: usize, level: u32) {
        self.hosts[member].options.feature_level = level;
    }

    /// Starts all members that do not run.
    pub fn start_all(&mut self) {
        for member in 0..self.hosts.len() {
            if !self.hosts[member].is_running() && !self.gone.contains(&member) {
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
        self.hang_up(member);
    }

    /// The power of a member fails.
    pub fn cut_power(&mut self, member: usize, mode: CrashMode) {
        self.hosts[member].cut_power(mode);
        self.hang_up(member);
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

    /// Polls one of the clients, and drops it if it has ended.
    pub(crate) fn poll(&self, clients: &mut Vec<Client<'_>>) {
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
        if self.step_ready() {
            return;
        }
        let next = self.next_event();
        let next = next.unwrap_or_else(|| panic!("{}: no member runs", self.context()));
        self.clock.advance(next.saturating_sub(self.now()));
    }

    /// The next time at which a part is due or a message arrives; `None` if all is still.
    pub(crate) fn next_event(&self) -> Option<Duration> {
        let turns = self.hosts.iter().filter_map(SimMember::next_turn);
        turns.chain(self.network.next_arrival()).min()
    }

    /// All that could happen now, for a person to read.
    pub(crate) fn describe_ready(&self) -> String {
        let parts = (0..self.hosts.len()).flat_map(|host| {
            let ready = self.hosts[host].ready().into_iter();
            ready.map(move |part| format!("m{host} {}", PartName::ALL[part].as_str()))
        });
        let parts: Vec<_> = parts.collect();
        format!("{} messages, {}", self.network.arrived(), parts.join(", "))
    }

    /// One part of a member does something, or a message arrives; `false` if there is neither now.
    pub(crate) fn step_ready(&mut self) -> bool {
        self.steps += 1;
        if self.now() >= self.dials_at {
            self.dials_at = self.now() + DIAL_PAUSE;
            self.dial();
        }
        while let Some((from, to)) = self.network.take_loss() {
            if let Some(sender) = self.running(from).filter(|it| !self.hosts[*it].is_paused()) {
                self.handle(sender).lost(to);
            }
        }
        if let Some(transfer) = self.network.take_transfer() {
            self.carry(transfer);
        }
        let ready: Vec<(usize, usize)> = (0..self.hosts.len())
            .flat_map(|host| self.hosts[host].ready().into_iter().map(move |part| (host, part)))
            .collect();
        let arrived = self.network.arrived();
        let choices = ready.len() + arrived;
        if choices == 0 {
            return false;
        }
        let chosen = self.draw_index(choices);
        match ready.get(chosen) {
            Some((host, part)) => self.hosts[*host].step_part(*part),
            None => self.deliver(chosen - ready.len()),
        }
        true
    }

    fn deliver(&mut self, which: usize) {
        let arrival = self.network.take(which);
        if self.is_paused(arrival.to) {
            self.network.put_back(arrival);
            return;
        }
        let Some(receiver) = self.meeting(arrival.from, arrival.to) else { return };
        match self.handle(receiver).receive(arrival.from, arrival.message.clone()) {
            Ok(()) | Err(NotReceived::Stopped) => {}
            Err(NotReceived::Full) => self.network.put_back(arrival),
            Err(NotReceived::Malformed(reason)) => {
                panic!("{}: a member sends what no member sends: {reason}", self.context())
            }
        }
    }

    /// Carries the next piece of a state.
    fn carry(&mut self, mut transfer: Transfer) {
        if self.is_paused(transfer.from) || self.is_paused(transfer.to) {
            return self.network.go_on(transfer);
        }
        let receiver = self.meeting(transfer.from, transfer.to);
        let Some(receiver) = receiver.filter(|_| self.network.carries(&transfer)) else {
            return self.network.end(transfer, "the receiver is out of reach".to_owned());
        };
        let Some(sink) = &mut transfer.sink else {
            return match self.handle(receiver).begin_state(transfer.from, transfer.head.clone()) {
                Ok(sink) => {
                    transfer.sink = Some(sink);
                    self.network.go_on(transfer);
                }
                Err(reason) => self.network.end(transfer, reason),
            };
        };
        let taken = match transfer.source.next_chunk() {
            Ok(Some(chunk)) => sink.chunk(chunk),
            Ok(None) => {
                let sink = transfer.sink.take().expect("it was just seen");
                return match sink.finish() {
                    Ok(()) => {
                        self.network.count_state();
                        transfer.end(Ok(()));
                    }
                    Err(reason) => self.network.end(transfer, reason),
                };
            }
            Err(reason) => Err(reason),
        };
        match taken {
            Ok(()) => self.network.go_on(transfer),
            Err(reason) => self.network.end(transfer, reason),
        }
    }

    /// The receiver of what another member sends, if it runs and they talk to each other: both say first
    /// who they are, as on a new connection.
    fn meeting(&mut self, from: MemberId, to: MemberId) -> Option<usize> {
        let (sender, receiver) = (self.running(from)?, self.running(to)?);
        if !self.met.contains(&(from, to)) {
            let (dialing, dialed) = (self.handle(sender), self.handle(receiver));
            if let Err(refusal) = dialed.meet(&dialing.hello()) {
                dialing.refused_by(to, &refusal);
                return None;
            }
            if let Err(refusal) = dialing.meet(&dialed.hello()) {
                dialed.refused_by(from, &refusal);
                return None;
            }
            self.met.insert((from, to));
        }
        Some(receiver)
    }

    /// Members dial those that they know and are not connected with.
    fn dial(&mut self) {
        let running: Vec<usize> = (0..self.hosts.len())
            .filter(|host| self.is_running(*host) && !self.hosts[*host].is_paused())
            .collect();
        for (from, to) in running.iter().flat_map(|from| running.iter().map(move |to| (from, to))) {
            let (from, to) = (self.ids[*from], self.ids[*to]);
            let is_new = from != to && !self.met.contains(&(from, to));
            if is_new && self.network.connects(from, to) {
                let _receiver = self.meeting(from, to);
            }
        }
    }

    /// Whether the process of a member is stopped as it is.
    fn is_paused(&self, id: MemberId) -> bool {
        self.running(id).is_some_and(|host| self.hosts[host].is_paused())
    }

    /// The connections of a member that has ended are gone.
    fn hang_up(&mut self, member: usize) {
        let id = self.ids[member];
        self.met.retain(|(from, to)| *from != id && *to != id);
        self.network.hang_up(id);
    }

    fn running(&self, id: MemberId) -> Option<usize> {
        let host = self.ids.iter().position(|known| *known == id)?;
        self.is_running(host).then_some(host)
    }
}

/// Options of a member with this name.
fn options(name: &str) -> Options {
    let mut options = Options::new(PathBuf::from("/data"));
    options.ballast_bytes = 64 * 1024;
    options.name = name.to_owned();
    options.client_urls = vec![format!("http://{name}:2379")];
    options
}
