//! One run: a cluster, its clients and its faults, all from one seed.
//!
//! ```text
//!   safety:    clients ask, faults come and go, invariants are observed at every step
//!   liveness:  all faults end; within a stated time every member serves, and all are equal
//!   the end:   the whole history of the clients is judged
//! ```

mod disturb;
mod observe;
mod replace;

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use keepd_node::{BootError, Options};

use self::disturb::Pending;
use self::observe::Checks;
pub(crate) use self::replace::Manner;
use self::replace::Replacement;
use crate::invariants::{Broken, Verdict, verdict};
use crate::workload::{self, Host, Phase, World};
use crate::{Client, SimCluster, faults};

/// Time in which members serve again once all faults have ended.
const SERVE_TIME: Duration = Duration::from_secs(60);
/// Time for which members wait for one another's word where disks lie: nothing that is acknowledged is lost
/// as long as faults do not last longer.
const REJOIN_TIME: Duration = Duration::from_secs(40);
/// Time in which all are equal from then on, and every watch was told of everything.
const EQUAL_TIME: Duration = Duration::from_secs(30);
/// Time for leases to end.
const LEASE_TIME: Duration = Duration::from_secs(20);
/// The longest time that passes at once: clients look at the clock in between.
const LEAP_MAX: Duration = Duration::from_millis(5);
/// BOUND: steps of a cluster that has something to do at one moment.
const BUSY_STEPS_MAX: u64 = 300_000;
/// Time between two attempts to start a member that did not start.
const START_PAUSE: Duration = Duration::from_secs(1);

/// The settings of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The members; by default 3, and in some runs 4 or 5.
    pub members: Option<usize>,
    /// Time in which faults happen, if it is not stretched.
    pub unsafe_time: Duration,
    /// The factor by which that lasts longer, with as many operations and faults: what takes long to come
    /// about gets its turn between them.
    pub stretch: u32,
    /// Members let their logs go soon, so that states are sent; by default in every second run.
    pub has_short_log: Option<bool>,
    /// Disks lie about syncs, and members wait long for one another's word; by default in every third
    /// run.
    pub forgets: Option<bool>,
}

impl Default for Settings {
    fn default() -> Self {
        let unsafe_time = Duration::from_secs(30);
        Self { members: None, unsafe_time, stretch: 1, has_short_log: None, forgets: None }
    }
}

/// A log that nobody is waited for with.
fn short_log(options: Options) -> Options {
    Options { snapshot_count: 50, log_held_bytes: 0, ..options }
}

/// A member that starts waits for the others' word for longer than faults last.
fn patient(options: Options) -> Options {
    Options { rejoin_patience: Some(REJOIN_TIME), ..options }
}

/// The settings of a seed's own.
fn drawn(seed: u64, settings: Settings) -> (usize, bool, fn(Options) -> Options) {
    let members = match seed % 16 {
        5 => 5,
        11 => 4,
        _ => 3,
    };
    let members = settings.members.unwrap_or(members);
    let forgets = settings.forgets.unwrap_or_else(|| (seed / 2).is_multiple_of(3));
    let has_short_log = settings.has_short_log.unwrap_or_else(|| !seed.is_multiple_of(2));
    let adjust: fn(Options) -> Options = match (has_short_log, forgets) {
        (true, true) => |options| patient(short_log(options)),
        (true, false) => short_log,
        (false, true) => patient,
        (false, false) => |options| options,
    };
    (members, forgets, adjust)
}

/// Numbers of a run, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Runs that this sums up.
    pub runs: u64,
    /// The time of the simulation.
    pub time: Duration,
    /// Operations of clients.
    pub operations: u64,
    /// Those that were answered.
    pub answered: u64,
    /// Events that watches were told of.
    pub events: u64,
    /// Faults.
    pub faults: u64,
    /// Members that were killed or lost their power, or stopped by themselves.
    pub crashes: u64,
    /// States that were sent whole.
    pub states: u64,
    /// Elections that were won.
    pub elections: u64,
    /// Members that were replaced.
    pub replaced: u64,
    /// Members whose disk forgot what it had synced.
    pub forgot: u64,
    /// Those of them that were found.
    pub found: u64,
    /// One number for everything that happened.
    pub digest: u64,
}

impl AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.runs += other.runs;
        self.time += other.time;
        self.operations += other.operations;
        self.answered += other.answered;
        self.events += other.events;
        self.faults += other.faults;
        self.crashes += other.crashes;
        self.states += other.states;
        self.elections += other.elections;
        self.replaced += other.replaced;
        self.forgot += other.forgot;
        self.found += other.found;
        self.digest = self.digest.rotate_left(1) ^ other.digest;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, operations, answered, events, faults, crashes, states, elections, .. } =
            self;
        let Self { replaced, forgot, found, .. } = self;
        write!(
            f,
            "{runs} seeds, {:.2} simulated hours, {operations} operations of which {answered} were \
             answered, {events} events of watches, {faults} faults, {crashes} crashes, {elections} \
             elections, {states} states sent, {replaced} members replaced, {forgot} disks that forgot, of \
             which {found} were found",
            self.time.as_secs_f64() / 3600.0
        )
    }
}

/// A run in which an invariant did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The invariant that does not hold.
    pub broken: Broken,
    /// The trace until then.
    pub trace: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Broken { invariant, what } = &self.broken;
        write!(f, "seed {}: {invariant}: {what}", self.seed)
    }
}

/// A cluster, its clients and its faults.
pub struct Simulation {
    cluster: SimCluster,
    world: Rc<World>,
    checks: Checks,
    pending: Pending,
    settings: Settings,
    report: Report,
    /// The members, by their hosts: those that are to go included, and those that come.
    present: Vec<usize>,
    /// The members at the start of the run.
    size: usize,
    /// Disks lie in this run.
    forgets: bool,
    /// Members whose disk was damaged behind their back.
    damaged: BTreeSet<usize>,
    /// Members whose disk lies, and those whose disk has forgotten what it had synced.
    lying: BTreeSet<usize>,
    forgetful: BTreeSet<usize>,
    /// Members that have stopped because of what they forgot, and are to be replaced.
    found: VecDeque<usize>,
    replacement: Option<Replacement>,
    /// Calls of the faults' own that are under way, or begin now.
    begun: Vec<Client<'static>>,
    /// Steps since time last passed.
    busy_steps: u64,
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl Simulation {
    /// Runs a seed from its beginning to its end.
    ///
    /// # Errors
    /// If an invariant does not hold, or a member panics.
    pub fn run(seed: u64, settings: Settings) -> Result<Report, Box<Failure>> {
        let (size, forgets, adjust) = drawn(seed, settings);
        let cluster = SimCluster::with(seed, size, adjust);
        let world = World::new(cluster.draw(u64::MAX), cluster.clock().clone(), settings.stretch);
        world.hosts.borrow_mut().resize(size, Host::default());
        let checks = Checks::new(size);
        let simulation = Self {
            cluster,
            world: Rc::clone(&world),
            checks,
            pending: Pending::default(),
            settings,
            report: Report::default(),
            present: (0..size).collect(),
            size,
            forgets,
            damaged: BTreeSet::new(),
            lying: BTreeSet::new(),
            forgetful: BTreeSet::new(),
            found: VecDeque::new(),
            replacement: None,
            begun: Vec::new(),
            busy_steps: 0,
        };
        let ended = catch_unwind(AssertUnwindSafe(move || simulation.run_to_end()));
        let verdict = ended.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned()));
            let what = text.unwrap_or_else(|| "a panic without words".to_owned());
            Err(Broken { invariant: "panic", what })
        });
        verdict.map_err(|broken| {
            world.note(format_args!("BROKEN: {}: {}", broken.invariant, broken.what));
            let trace = world.trace.borrow().text();
            Box::new(Failure { seed, broken, trace })
        })
    }

    fn run_to_end(mut self) -> Result<Report, Broken> {
        for member in self.present.clone() {
            self.start(member)?;
        }
        let mut clients = workload::clients(&self.world, self.size);
        self.pending.next_fault = Some(faults::calm(&self.world));
        let end = self.settings.unsafe_time * self.settings.stretch;
        while self.now() < end {
            self.disturb()?;
            self.step(&mut clients)?;
        }
        self.settle(&mut clients)?;
        self.conclude()?;
        let mut report = self.report;
        let history = self.world.history.borrow();
        report.runs = 1;
        report.time = self.now();
        report.operations = history.operations().len() as u64;
        report.answered = history.answered() as u64;
        report.events = self.checks.events();
        report.states = self.cluster.network().states();
        report.elections = self.checks.elections();
        report.digest = self.world.trace.borrow().digest() ^ self.cluster.trace();
        Ok(report)
    }

    pub(crate) fn now(&self) -> Duration {
        self.cluster.now()
    }

    /// One thing happens, or time passes.
    fn step(&mut self, clients: &mut Vec<Client<'static>>) -> Verdict {
        clients.append(&mut self.begun);
        for failed in self.cluster.network().take_failed() {
            self.world.note(failed);
        }
        if !clients.is_empty() {
            self.cluster.poll(clients);
        }
        self.busy_steps += 1;
        if self.busy_steps > BUSY_STEPS_MAX {
            let what = format!("no time passes: {}", self.cluster.describe_ready());
            return verdict("liveness", Err(what));
        }
        if !self.cluster.step_ready() {
            self.observe()?;
            // Whoever waits for an answer may have it.
            for _ in 0..clients.len() {
                self.cluster.poll(clients);
                if clients.is_empty() {
                    break;
                }
            }
            let latest = self.now() + LEAP_MAX;
            let next = self.cluster.next_event().unwrap_or(latest).min(latest);
            if next > self.now() {
                self.busy_steps = 0;
                self.cluster.clock().advance(next - self.now());
            }
        }
        self.observe()
    }

    /// Starts a member; one that cannot start is tried again later.
    fn start(&mut self, member: usize) -> Verdict {
        let is_gone = !self.present.contains(&member) || self.is_ending(member);
        if self.cluster.is_running(member) || is_gone {
            return Ok(());
        }
        match self.cluster.try_start(member) {
            Ok(()) => {
                self.world.note(format_args!("m{member} starts"));
                self.checks.disturb(self.now());
                let mut hosts = self.world.hosts.borrow_mut();
                let host = &mut hosts[member];
                host.handle = Some(self.cluster.handle(member));
                host.start += 1;
                host.is_paused = false;
                drop(hosts);
                self.observe_start(member)
            }
            Err(error) => self.refused(member, &error),
        }
    }

    fn refused(&mut self, member: usize, error: &BootError) -> Verdict {
        self.world.note(format_args!("m{member} does not start: {error}"));
        // What it has opened is closed.
        self.cluster.kill(member);
        let is_excused = self.damaged.contains(&member) || self.pending.has_disk_fault(member);
        if !is_excused {
            return verdict("starts", Err(format!("m{member} does not start: {error}")));
        }
        self.pending.disk_faults.remove(&member);
        if self.pending.restarts.iter().all(|(_, waiting)| *waiting != member) {
            self.pending.restarts.push((self.now() + START_PAUSE, member));
        }
        Ok(())
    }

    /// Ends all faults: within a stated time every member serves and all are equal.
    fn settle(&mut self, clients: &mut Vec<Client<'static>>) -> Verdict {
        self.world.note("all faults end");
        self.world.phase.set(Phase::Settling);
        self.heal_all()?;
        let begin = self.now();
        let limit = if self.forgets { SERVE_TIME + REJOIN_TIME } else { SERVE_TIME };
        while !self.is_serving(clients)? {
            self.restart_due()?;
            self.replace()?;
            self.step(clients)?;
            if self.now() > begin + limit {
                return verdict("liveness", Err(self.describe("not all members serve")));
            }
        }
        let begin = self.now();
        while !self.is_equal() {
            self.step(clients)?;
            if self.now() > begin + EQUAL_TIME {
                return verdict("liveness", Err(self.describe("members do not become equal")));
            }
        }
        let end = self.now() + LEASE_TIME;
        while self.now() < end {
            self.step(clients)?;
        }
        let begin = self.now();
        while !self.is_equal() {
            self.step(clients)?;
            if self.now() > begin + EQUAL_TIME {
                return verdict("liveness", Err(self.describe("members do not stay equal")));
            }
        }
        Ok(())
    }

    /// Whether every member has been read from and written through since the faults ended.
    fn is_serving(&mut self, clients: &mut Vec<Client<'static>>) -> Result<bool, Broken> {
        let is_changing = self.replacement.is_some() || !self.found.is_empty();
        if self.cluster.leader().is_none() || is_changing {
            return Ok(false);
        }
        for member in self.present.clone() {
            if self.cluster.is_running(member) && self.pending.asked.insert(member) {
                let (world, served) = (Rc::clone(&self.world), Rc::clone(&self.pending.served));
                clients.push(Box::pin(async move {
                    while !(world.reads(usize::MAX, member).await
                        && world.writes(usize::MAX, member).await)
                    {
                        world.pause(Duration::from_millis(100)).await;
                    }
                    served.borrow_mut().insert(member);
                }));
            }
        }
        let served = self.pending.served.borrow();
        Ok(self.present.iter().all(|member| served.contains(member)))
    }

    fn is_equal(&self) -> bool {
        let mut applied =
            self.present.iter().map(|member| match self.cluster.is_running(*member) {
                true => Some(self.cluster.handle(*member).view().applied()),
                false => None,
            });
        let first = applied.next().flatten();
        let are_equal = first.is_some() && applied.all(|other| other == first);
        are_equal && self.checks.watches_are_up_to_date(&self.world)
    }

    fn describe(&mut self, what: &str) -> String {
        let progress = Rc::new(RefCell::new(Vec::new()));
        if let Some(leader) = self.cluster.leader() {
            let (handle, told) = (self.cluster.handle(leader), Rc::clone(&progress));
            let asks: Client<'_> = Box::pin(async move {
                *told.borrow_mut() = handle.progress().await.unwrap_or_default();
            });
            self.cluster.run_for(LEAP_MAX, vec![asks]);
        }
        let progress = progress.take();
        let members = self.present.iter().map(|member| {
            if !self.cluster.is_running(*member) {
                return format!("m{member} does not run");
            }
            format!("m{member} {:?}", self.cluster.handle(*member).status())
        });
        let members = members.collect::<Vec<_>>().join("; ");
        let changes = (&self.replacement, &self.found);
        format!("{what}: {members}; {changes:?}; the leader's view: {progress:?}")
    }
}
