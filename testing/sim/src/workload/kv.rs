//! Clients that write, read, compare and compact.

use std::rc::Rc;
use std::time::Duration;

use histories::requests;

use super::World;
use crate::history::{Outcome, Request, Response};

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

/// Writes and reads until the faults end.
pub(super) async fn client(world: Rc<World>, client: usize) {
    while world.is_unsafe() {
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
        let pause =
            if is_answered { world.draw_calm(PAUSE_MAX) } else { world.draw_time(FAILED_PAUSE) };
        world.pause(pause).await;
    }
}

/// Compacts from time to time, as kube-apiserver does.
pub(super) async fn compactor(world: Rc<World>, client: usize) {
    while world.is_unsafe() {
        world.pause(COMPACTION_INTERVAL / 2 + world.draw_calm(COMPACTION_INTERVAL)).await;
        let Some((member, host)) = world.any_host() else { continue };
        let kept = i64::try_from(world.draw(KEPT_REVISIONS)).expect("a small number");
        let revision = world.revision.get() - kept;
        if revision > 0 {
            world.ask(client, (member, &host), Request::Compact { revision }).await;
        }
    }
}
