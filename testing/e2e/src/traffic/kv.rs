//! Clients that write, read, compare and compact.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use histories::MARKER;
use histories::history::{Outcome, Request, Response};
use keepd_types::{KeyRange, LeaseId, RangeEnd};

use super::{FAILED_PAUSE, World};

/// Keys that the clients share: few, so that they meet.
const KEYS: u64 = 6;
/// The longest pause between two operations.
const PAUSE_MAX: Duration = Duration::from_millis(20);
/// Interval between two compactions.
const COMPACTION_INTERVAL: Duration = Duration::from_secs(3);
/// Revisions that a compaction leaves, at most, and that a read goes back.
const PAST_REVISIONS: u64 = 300;

/// One of the keys that the clients share.
pub(super) fn key(number: u64) -> Bytes {
    format!("{MARKER}/key/{number}").into()
}

/// The keys that the clients share, and no other.
pub(super) fn all_keys() -> KeyRange {
    let end = Bytes::from(format!("{MARKER}/key0"));
    KeyRange { start: format!("{MARKER}/key/").into(), end: RangeEnd::Before(end) }
}

/// Writes and reads until the faults end.
pub(super) async fn client(world: Arc<World>, client: usize) {
    while world.is_busy() {
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
        world.pause(if is_answered { PAUSE_MAX } else { FAILED_PAUSE }).await;
    }
}

fn draw(world: &World, client: usize) -> Request {
    let key = key(world.draw(KEYS));
    let read = |range, at, is_serializable| Request::Read { range, at, is_serializable };
    let range = |world: &World, key| match world.draw(3) {
        0 => all_keys(),
        _ => KeyRange::point(key),
    };
    match world.draw(20) {
        0..7 => Request::Put { key, value: world.value(client), lease: LeaseId::NONE },
        7..9 => Request::Delete { key },
        9 => Request::Swap { key, expected: 0, value: world.value(client) },
        10 => {
            let past = i64::try_from(world.draw(PAST_REVISIONS)).expect("a small number");
            read(all_keys(), (world.revision() - past).max(1), world.draw(2) == 0)
        }
        11..16 => read(range(world, key), 0, false),
        _ => read(range(world, key), 0, true),
    }
}

/// Compacts from time to time, as kube-apiserver does, but nothing that is not recorded yet.
pub(super) async fn compactor(world: Arc<World>, client: usize) {
    while world.is_busy() {
        tokio::time::sleep(COMPACTION_INTERVAL / 2).await;
        world.pause(COMPACTION_INTERVAL).await;
        let Some((member, host)) = world.any_host() else { continue };
        let recorded = world.changes().last().map_or(0, |fact| fact.revision.main);
        let kept = i64::try_from(world.draw(PAST_REVISIONS)).expect("a small number");
        let revision = recorded - kept;
        if revision > 0 {
            world.compacted.fetch_max(revision, Ordering::Relaxed);
            world.ask(client, (member, &host), Request::Compact { revision }).await;
        }
    }
}
