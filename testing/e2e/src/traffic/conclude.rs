//! The end of a run: every member serves again, and all that was asked and told fits together.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use histories::history::{History, Moment, Outcome, Request, Response};
use histories::lease_bounds::Circumstances;
use histories::requests;
use histories::truth::{Fact, Replay, Truth};
use histories::watch_events::WatchEvents;
use histories::watches::{Seen, Watch};
use histories::{acknowledged_writes, is_leased, lease_bounds, reads, real_time};
use keepd_types::{KeyRange, LeaseId};
use tokio::time::{Instant, sleep};

use super::{FAILED_PAUSE, Phase, Traffic, World};

/// Time in which every member has to serve again when nothing is in its way any more.
const RECOVERY: Duration = Duration::from_secs(60);
/// The rate of a clock that keeps the time, in parts of a million.
const TRUE_RATE: u32 = 1_000_000;

/// The extent of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Operations that were asked.
    pub operations: usize,
    /// Operations that were answered.
    pub answered: usize,
    /// Operations of which nobody knows whether they had an effect.
    pub unknown: usize,
    /// Changes of keys.
    pub changes: usize,
    /// Events that watches were told of.
    pub events: u64,
}

impl std::ops::Add for Summary {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            operations: self.operations + other.operations,
            answered: self.answered + other.answered,
            unknown: self.unknown + other.unknown,
            changes: self.changes + other.changes,
            events: self.events + other.events,
        }
    }
}

impl Traffic {
    /// Ends the clients once every member serves, and checks the whole run.
    ///
    /// # Panics
    /// If an invariant does not hold, or a member does not serve in time.
    pub async fn conclude(self) -> Summary {
        let Self { world, clients, watchers } = self;
        let size = world.hosts().len();
        for member in 0..size {
            serves(&world, member).await;
        }
        world.phase.send_replace(Phase::Settling);
        for client in clients {
            client.await.expect("clients do not fail");
        }
        let members = equal_members(&world).await;
        let mut events = WatchEvents::default();
        let began = Instant::now();
        loop {
            let (mut watches, truth) = observed(&world).await;
            if let Err(broken) = events.observe(&mut watches, &truth, false) {
                panic!("{broken:?}");
            }
            if events.are_up_to_date(&watches, &truth) {
                break;
            }
            assert!(began.elapsed() < RECOVERY, "a watch is not told of everything");
            sleep(FAILED_PAUSE).await;
        }
        world.phase.send_replace(Phase::Over);
        for watcher in watchers {
            watcher.await.expect("watches do not fail");
        }
        let truth = truth(&world, &BTreeMap::new());
        let history = world.history();
        for (member, pairs) in members {
            let (at, pairs) = pairs;
            let mut replay = Replay::default();
            replay.go_to(&truth, at);
            assert_eq!(replay.range(&KeyRange::all()), pairs, "the keys of m{member} at {at}");
        }
        check(&history, &truth, world.now());
        let is_unknown = |it: &&_| matches!(outcome(it), Outcome::Unknown(_));
        Summary {
            operations: history.operations().len(),
            answered: history.answered(),
            unknown: history.operations().iter().filter(is_unknown).count(),
            changes: truth.facts().len(),
            events: events.events(),
        }
    }
}

fn outcome(operation: &histories::history::Operation) -> &Outcome {
    &operation.outcome
}

fn check(history: &History, truth: &Truth, end: Duration) {
    let rates = (TRUE_RATE, TRUE_RATE);
    // Elections and busy machines make ends late, so that lateness proves nothing here.
    let about = Circumstances { rates, disturbances: None, end };
    let verdict = acknowledged_writes::conclude(history, truth, is_leased)
        .and_then(|()| real_time::conclude(history, truth))
        .and_then(|()| reads::conclude(history, truth))
        .and_then(|()| lease_bounds::conclude(history, truth, about));
    if let Err(broken) = verdict {
        panic!("{broken:?}");
    }
}

/// Waits until a member answers a read and a write.
async fn serves(world: &World, member: usize) {
    let began = Instant::now();
    let client = usize::MAX;
    loop {
        let host = world.hosts()[member].clone();
        let read = Request::Read { range: KeyRange::all(), at: 0, is_serializable: false };
        let value = world.value(member);
        let put = Request::Put { key: requests::key(0), value, lease: LeaseId::NONE };
        if matches!(world.ask(client, (member, &host), read).await, Outcome::Ok(_))
            && matches!(world.ask(client, (member, &host), put).await, Outcome::Ok(_))
        {
            return;
        }
        assert!(began.elapsed() < RECOVERY, "m{member} does not serve again");
        sleep(FAILED_PAUSE).await;
    }
}

type Shown = (i64, Vec<histories::history::Pair>);

/// The keys of each member as it has them itself, all with one hash.
async fn equal_members(world: &World) -> Vec<(usize, Shown)> {
    let mut members = Vec::new();
    let mut hashes = Vec::new();
    let size = world.hosts().len();
    // A member that answers a linearizable read has applied everything that came before.
    let mut revision = 0;
    for member in 0..size {
        let host = world.hosts()[member].clone();
        for is_serializable in [false, true] {
            let read = Request::Read { range: KeyRange::all(), at: revision, is_serializable };
            match world.ask(usize::MAX, (member, &host), read).await {
                Outcome::Ok(Response::Read { revision: shown, pairs }) => {
                    revision = if revision == 0 { shown } else { revision };
                    if is_serializable {
                        members.push((member, (revision, pairs)));
                    }
                }
                other => panic!("m{member} does not read: {other:?}"),
            }
        }
        let hash = host.client.hash(revision).await;
        hashes.push(hash.unwrap_or_else(|error| panic!("m{member} has no hash: {error}")));
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "members differ: {hashes:?}");
    members
}

/// Messages of watches that were not looked at yet, and a truth that reaches as far.
async fn observed(world: &World) -> (Vec<Watch>, Truth) {
    let mut watches = Vec::new();
    let (mut shown, mut reach): (BTreeMap<i64, Moment>, i64) = (BTreeMap::new(), 0);
    for watch in world.watches().iter_mut() {
        let seen = std::mem::take(&mut watch.seen);
        for message in &seen {
            match message {
                Seen::Facts(facts) => {
                    for fact in facts {
                        let at = shown.entry(fact.revision.main).or_insert(fact.shown);
                        *at = fact.shown.min(*at);
                        reach = reach.max(fact.revision.main);
                    }
                }
                Seen::Progress(revision) => reach = reach.max(*revision),
                _ => {}
            }
        }
        watches.push(Watch { range: watch.range.clone(), seen, member: watch.member });
    }
    reach = reach.max(world.revision());
    assert!(world.is_recorded(reach, RECOVERY).await, "revision {reach} is not recorded");
    let truth = truth(world, &shown);
    (watches, truth)
}

/// All changes, each with the moment at which the first watch was told of it.
fn truth(world: &World, shown: &BTreeMap<i64, Moment>) -> Truth {
    let mut changes = world.changes();
    for fact in changes.iter_mut() {
        if let Some(at) = shown.get(&fact.revision.main) {
            fact.shown = fact.shown.min(*at);
        }
    }
    let facts: Vec<Fact> = changes.clone();
    let mut truth = Truth::with(facts);
    truth.compact(world.compacted.load(Ordering::Relaxed));
    truth
}
