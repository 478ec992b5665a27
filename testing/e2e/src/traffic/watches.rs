//! Clients that watch: one records everything, the others watch from now or from an old revision, at one
//! member after the other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use histories::history::Moment;
use histories::requests;
use histories::truth::Fact;
use histories::watches::{Seen, Watch};
use keepd_api::etcdserverpb as pb;
use keepd_api::mvccpb;
use keepd_types::{KeyRange, Revision};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Status, Streaming};

use super::{FAILED_PAUSE, Host, PATIENCE, Phase, World, ask};

/// The longest time that a client stays with one member.
const STAY_MAX: Duration = Duration::from_secs(8);
/// Interval at which a watch that is told of nothing looks whether its time is over.
const LOOK: Duration = Duration::from_millis(200);
/// The longest time between two looks of a slow client.
const SLOW_LOOK: Duration = Duration::from_millis(400);

/// Records every change, across all members.
pub(super) async fn recorder(world: Arc<World>) {
    let mut next = 2;
    while world.phase() != Phase::Over {
        let Some((_, host)) = world.any_host() else {
            world.pause(FAILED_PAUSE).await;
            continue;
        };
        let Ok(mut stream) = open(&host, &KeyRange::all(), next).await else {
            world.pause(FAILED_PAUSE).await;
            continue;
        };
        while let Ok(message) = timeout(PATIENCE, stream.message()).await {
            let Ok(Some(response)) = message else { break };
            assert_eq!(response.compact_revision, 0, "nothing is compacted before it is recorded");
            if response.canceled || world.phase() == Phase::Over {
                break;
            }
            let facts = facts(response.events, world.moment());
            if let Some(last) = facts.last() {
                next = last.revision.main + 1;
                world.changes().extend(facts);
            }
        }
    }
}

async fn open(
    host: &Host,
    range: &KeyRange,
    start_revision: i64,
) -> Result<Streaming<pb::WatchResponse>, Status> {
    let (key, range_end) = ask::bounds(range);
    let create = pb::WatchCreateRequest {
        key,
        range_end,
        start_revision,
        progress_notify: true,
        ..Default::default()
    };
    let union = pb::watch_request::RequestUnion::CreateRequest(create);
    let request = pb::WatchRequest { request_union: Some(union) };
    let mut client = host.client.watcher();
    // The client's half of the stream ends here; the watch goes on.
    let opened = timeout(PATIENCE, client.watch(tokio_stream::once(request))).await;
    let opened = opened.map_err(|_late| Status::deadline_exceeded("the stream does not open"))?;
    Ok(opened?.into_inner())
}

/// Changes as a client sees them. Every revision of a run has one key: the clients write one at a time, and
/// a lease has one.
fn facts(events: Vec<mvccpb::Event>, shown: Moment) -> Vec<Fact> {
    let fact = |event: mvccpb::Event| {
        let kv = event.kv.unwrap_or_default();
        let (revision, key) = (Revision::first(kv.mod_revision), kv.key.clone());
        let is_put = event.r#type == mvccpb::event::EventType::Put as i32;
        Fact { revision, key, pair: is_put.then(|| ask::pair(kv)), shown }
    };
    events.into_iter().map(fact).collect()
}

/// Watches until the run is over.
pub(super) async fn client(world: Arc<World>) {
    let range = requests::watched(&*world);
    let watch = {
        let mut watches = world.watches();
        watches.push(Watch { range: range.clone(), seen: VecDeque::new(), member: 0 });
        watches.len() - 1
    };
    // The revision to go on from; 0 is from now.
    let mut next = 0;
    while world.phase() != Phase::Over {
        let Some((member, host)) = world.any_host() else {
            world.pause(FAILED_PAUSE).await;
            continue;
        };
        world.watches()[watch].member = member;
        let stay = Stay { world: &world, watch, member, host: &host };
        if stay.watch(&range, &mut next).await.is_err() {
            world.pause(FAILED_PAUSE).await;
        }
        stay.tell(Seen::Left);
        if world.is_busy() && next > 0 && world.draw(5) == 0 {
            // Another watch of the same keys, which begins in the past.
            next = 1 + i64::try_from(world.draw(next.unsigned_abs())).expect("it is smaller");
        }
    }
}

/// A watch's time at one member.
struct Stay<'a> {
    world: &'a World,
    watch: usize,
    member: usize,
    host: &'a Host,
}

impl Stay<'_> {
    /// Watches for a while.
    async fn watch(&self, range: &KeyRange, next: &mut i64) -> Result<(), Status> {
        let world = self.world;
        let mut stream = open(self.host, range, *next).await?;
        let is_slow = world.draw(3) == 0;
        let stay = Duration::from_millis(world.draw(STAY_MAX.as_secs() * 1000));
        let end = Instant::now() + stay;
        loop {
            let is_over = match world.phase() {
                Phase::Busy => Instant::now() >= end,
                Phase::Settling => false,
                Phase::Over => true,
            };
            if is_over || !world.is_same_start(self.member, self.host.start) {
                return Ok(());
            }
            let Ok(message) = timeout(LOOK, stream.message()).await else { continue };
            let message = message?.ok_or_else(|| Status::unavailable("the watch ended"))?;
            if self.see(message, next) {
                return Ok(());
            }
            if is_slow && world.is_busy() {
                world.pause(SLOW_LOOK).await;
            }
        }
    }

    /// Takes a message in; whether it ends the watch.
    fn see(&self, response: pb::WatchResponse, next: &mut i64) -> bool {
        let revision = response.header.map_or(0, |header| header.revision);
        if response.compact_revision > 0 {
            self.tell(Seen::Compacted(response.compact_revision));
            *next = response.compact_revision + 1;
            return true;
        }
        if response.canceled {
            return true;
        }
        if response.created {
            if *next == 0 {
                *next = revision + 1;
            }
            self.tell(Seen::Begun(*next));
        } else if response.events.is_empty() {
            self.tell(Seen::Progress(revision));
        } else {
            let facts = facts(response.events, self.world.moment());
            *next = facts.last().map_or(*next, |last| last.revision.main + 1);
            self.tell(Seen::Facts(facts));
        }
        false
    }

    fn tell(&self, seen: Seen) {
        self.world.watches()[self.watch].seen.push_back(seen);
    }
}

impl World {
    /// Waits until one watch of everything was told of a revision.
    pub(super) async fn is_recorded(&self, revision: i64, limit: Duration) -> bool {
        let began = Instant::now();
        while self.changes().last().map_or(1, |fact| fact.revision.main) < revision {
            if began.elapsed() > limit {
                return false;
            }
            sleep(LOOK).await;
        }
        true
    }
}
