//! Clients that write, read, compare and compact.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use histories::history::{Outcome, Request, Response};
use histories::requests;

use super::{FAILED_PAUSE, World};

/// The longest pause between two operations.
const PAUSE_MAX: Duration = Duration::from_millis(20);
/// Interval between two compactions.
const COMPACTION_INTERVAL: Duration = Duration::from_secs(3);
/// Revisions that a compaction leaves, at most, and that a read goes back.
const PAST_REVISIONS: u64 = 300;

/// Writes and reads until the faults end.
pub(super) async fn client(world: Arc<World>, client: usize) {
    while world.is_busy() {
        let Some((member, host)) = world.any_host() else {
            world.pause(FAILED_PAUSE).await;
            continue;
        };
        let request = requests::draw(&*world, client, PAST_REVISIONS);
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
