//! Clients that write, read, compare and compact.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use keepd_types::{KeyRange, LeaseId, RangeEnd};

use super::{MARKER, World};
use crate::history::{Outcome, Request, Response};

/// Keys that the clients share: few, so that they meet.
const KEYS: u64 = 6;
/// The longest pause between two operations.
const PAUSE_MAX: Duration = Duration::from_millis(60);
/// Pause of a client that was not answered, or finds no member.
const FAILED_PAUSE: Duration = Duration::from_millis(150);
/// Interval between two compactions.
const COMPACTION_INTERVAL: Duration = Duration::from_secs(3);
/// Revisions that a compaction leaves, at most.
const KEPT_REVISIONS: u64 = 120;
/// Revisions that a read goes back, at most.
const PAST_REVISIONS: u64 = 60;

/// One of the keys that the clients share.
pub(super) fn key(number: u64) -> Bytes {
    format!("{MARKER}/key/{number}").into()
}

/// The keys that the clients share, and no other.
fn all_keys() -> KeyRange {
    let end = Bytes::from(format!("{MARKER}/key0"));
    KeyRange { start: format!("{MARKER}/key/").into(), end: RangeEnd::Before(end) }
}

/// Writes and reads until the faults end.
pub(super) async fn client(world: Rc<World>, client: usize) {
    while world.is_unsafe() {
        let Some((member, host)) = world.any_host() else {
            world.pause(FAILED_PAUSE).await;
            continue;
        };
        let request = draw(&world, client);
        let outcome = world.ask(client, (member, &host), request.clone()).await;
        let is_answered = matches!(outcome, Outcome::Ok(_));
        if let (Request::Read { .. }, Outcome::Ok(Response::Read { pairs, .. })) =
            (&request, &outcome)
            && let Some(pair) = pairs.get(world.draw_index(pairs.len() + 1))
        {
            // What a client does who changes what it has read.
            let (key, expected) = (pair.key.clone(), pair.mod_revision);
            let swap = Request::Swap { key, expected, value: world.value(client) };
            world.ask(client, (member, &host), swap).await;
        }
        let pause = if is_answered { PAUSE_MAX } else { FAILED_PAUSE };
        world.pause(world.draw_time(pause)).await;
    }
}

fn draw(world: &World, client: usize) -> Request {
    let key = key(world.draw(KEYS));
    match world.draw(20) {
        0..7 => Request::Put { key, value: world.value(client), lease: LeaseId::NONE },
        7..9 => Request::Delete { key },
        9 => Request::Swap { key, expected: 0, value: world.value(client) },
        10 => {
            let past = i64::try_from(world.draw(PAST_REVISIONS)).expect("a small number");
            let at = (world.revision.get() - past).max(1);
            Request::Read { range: all_keys(), at, is_serializable: world.draw(2) == 0 }
        }
        11..16 => Request::Read { range: range(world, key), at: 0, is_serializable: false },
        _ => Request::Read { range: range(world, key), at: 0, is_serializable: true },
    }
}

fn range(world: &World, key: Bytes) -> KeyRange {
    if world.draw(3) == 0 { all_keys() } else { KeyRange::point(key) }
}

/// Compacts from time to time, as kube-apiserver does.
pub(super) async fn compactor(world: Rc<World>, client: usize) {
    while world.is_unsafe() {
        world.pause(COMPACTION_INTERVAL / 2 + world.draw_time(COMPACTION_INTERVAL)).await;
        let Some((member, host)) = world.any_host() else { continue };
        let kept = i64::try_from(world.draw(KEPT_REVISIONS)).expect("a small number");
        let revision = world.revision.get() - kept;
        if revision > 0 {
            world.ask(client, (member, &host), Request::Compact { revision }).await;
        }
    }
}
