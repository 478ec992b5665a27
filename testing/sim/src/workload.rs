//! The clients of a run, and what they know of the cluster.
//!
//! Every client is a future that is polled by the simulation. It asks whichever member it likes, gives
//! up after a while, and writes down its calls and what came of them.

mod kv;
mod leases;
mod perform;
mod watches;

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
pub use histories::MARKER;
use histories::requests;
use histories::watches::Watch;
use keepd_env::{Clock, ManualClock, Random, SeededRandom};
use keepd_node::Handle;

use crate::Client;
use crate::history::{History, Outcome, Request, Response};
use crate::trace::Trace;

/// Time after which a client gives an answer up; longer than any member takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A member as clients see it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Host {
    /// The way in, while it runs.
    pub(crate) handle: Option<Handle>,
    /// Counts its starts.
    pub(crate) start: u64,
    /// It does nothing, and no call to it gets on.
    pub(crate) is_paused: bool,
}

/// The part of a run that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Faults happen.
    Unsafe,
    /// No more operations: all members come to the same state.
    Settling,
    /// Watches end too.
    Over,
}

/// All that the clients of a run share.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) clock: ManualClock,
    random: SeededRandom,
    stretch: u32,
    pub(crate) hosts: RefCell<Vec<Host>>,
    pub(crate) history: RefCell<History>,
    pub(crate) watches: RefCell<Vec<Watch>>,
    pub(crate) trace: RefCell<Trace>,
    pub(crate) phase: Cell<Phase>,
    /// The highest revision that a client was told of.
    revision: Cell<i64>,
    numbers: Cell<u64>,
}

impl World {
    pub(crate) fn new(seed: u64, clock: ManualClock, stretch: u32) -> Rc<Self> {
        Rc::new(Self {
            clock,
            random: SeededRandom::new(seed),
            stretch,
            hosts: RefCell::default(),
            history: RefCell::default(),
            watches: RefCell::default(),
            trace: RefCell::default(),
            phase: Cell::new(Phase::Unsafe),
            revision: Cell::new(1),
            numbers: Cell::new(0),
        })
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    pub(crate) fn note(&self, what: impl Display) {
        self.trace.borrow_mut().add(self.now(), &what);
    }

    /// A number below `bound` from the seed.
    pub(crate) fn draw(&self, bound: u64) -> u64 {
        // The low bits of a multiplied word are its weakest.
        (self.random.next_u64() >> 8) % bound.max(1)
    }

    pub(crate) fn draw_index(&self, len: usize) -> usize {
        usize::try_from(self.draw(len as u64)).expect("an index of something in memory")
    }

    pub(crate) fn draw_time(&self, max: Duration) -> Duration {
        Duration::from_nanos(self.draw(u64::try_from(max.as_nanos()).expect("a short time")))
    }

    /// A time between two things that happen, `max` at most in a run that is not stretched.
    pub(crate) fn draw_calm(&self, max: Duration) -> Duration {
        self.draw_time(max) * self.stretch
    }

    /// A number that is drawn once in a run.
    fn number(&self) -> u64 {
        self.numbers.set(self.numbers.get() + 1);
        self.numbers.get()
    }

    /// A value that is written once in a run.
    fn value(&self, client: usize) -> Bytes {
        format!("{MARKER}/value {client}.{}", self.number()).into()
    }

    pub(crate) fn is_unsafe(&self) -> bool {
        self.phase.get() == Phase::Unsafe
    }

    fn learn(&self, revision: i64) {
        self.revision.set(self.revision.get().max(revision));
    }

    /// A member that takes calls; any of them.
    fn any_host(&self) -> Option<(usize, Host)> {
        let hosts = self.hosts.borrow();
        let running: Vec<usize> =
            (0..hosts.len()).filter(|host| hosts[*host].handle.is_some()).collect();
        if running.is_empty() {
            return None;
        }
        let host = running[self.draw_index(running.len())];
        Some((host, hosts[host].clone()))
    }

    /// Whether a member still runs that was started so.
    fn is_same_start(&self, host: usize, start: u64) -> bool {
        let hosts = self.hosts.borrow();
        hosts[host].start == start && hosts[host].handle.is_some()
    }

    /// Lets time pass.
    pub(crate) async fn pause(&self, time: Duration) {
        let end = self.now() + time;
        poll_fn(|_| if self.now() >= end { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Lets a call to a member get on while the member does; `None` if the time is over first.
    pub(crate) async fn within<T>(
        &self,
        host: usize,
        limit: Duration,
        call: impl Future<Output = T>,
    ) -> Option<T> {
        let end = self.now() + limit;
        let mut call = pin!(call);
        poll_fn(|context| {
            let is_paused = self.hosts.borrow()[host].is_paused;
            if !is_paused && let Poll::Ready(answer) = call.as_mut().poll(context) {
                return Poll::Ready(Some(answer));
            }
            if self.now() >= end { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }

    /// One operation, from its call to its end.
    pub(crate) async fn ask(
        &self,
        client: usize,
        (member, host): (usize, &Host),
        request: Request,
    ) -> Outcome {
        let Some(handle) = host.handle.clone() else {
            return Outcome::Failed("the member does not run".to_owned());
        };
        let at = self.now();
        let asked = (client, member, host.start);
        let operation = self.history.borrow_mut().call(asked, request.clone(), at);
        let answer = self.within(member, PATIENCE, perform::perform(&handle, &request)).await;
        let outcome =
            answer.unwrap_or_else(|| Outcome::Unknown("the client has given up".to_owned()));
        if let Outcome::Ok(response) = &outcome {
            self.learn(response.revision().unwrap_or(0));
        }
        let mut history = self.history.borrow_mut();
        history.end(operation, outcome.clone(), self.now());
        self.note(&history.operations()[operation]);
        outcome
    }

    /// Makes a linearizable read on a member; whether it was answered.
    pub(crate) async fn reads(&self, client: usize, member: usize) -> bool {
        let host = self.hosts.borrow()[member].clone();
        let range = keepd_types::KeyRange::all();
        let request = Request::Read { range, at: 0, is_serializable: false };
        let outcome = self.ask(client, (member, &host), request).await;
        matches!(outcome, Outcome::Ok(Response::Read { .. }))
    }

    /// Writes through a member; whether it was acknowledged.
    pub(crate) async fn writes(&self, client: usize, member: usize) -> bool {
        let host = self.hosts.borrow()[member].clone();
        let (key, value) = (requests::key(0), self.value(client));
        let request = Request::Put { key, value, lease: keepd_types::LeaseId::NONE };
        matches!(self.ask(client, (member, &host), request).await, Outcome::Ok(_))
    }
}

/// The clients of a run.
pub(crate) fn clients(world: &Rc<World>, members: usize) -> Vec<Client<'static>> {
    let mut clients: Vec<Client<'static>> = Vec::new();
    for _ in 0..2 * members {
        let client = clients.len();
        clients.push(Box::pin(kv::client(Rc::clone(world), client)));
    }
    for _ in 0..2 {
        let client = clients.len();
        clients.push(Box::pin(leases::client(Rc::clone(world), client)));
    }
    clients.push(Box::pin(kv::compactor(Rc::clone(world), clients.len())));
    for _ in 0..members {
        clients.push(Box::pin(watches::client(Rc::clone(world))));
    }
    clients
}

impl requests::Run for World {
    fn draw(&self, bound: u64) -> u64 {
        Self::draw(self, bound)
    }

    fn value(&self, client: usize) -> Bytes {
        Self::value(self, client)
    }

    fn revision(&self) -> i64 {
        self.revision.get()
    }
}
