//! Clients that hold a lease: they keep it alive for a while, through any member, and then revoke it or
//! let it end.

use std::rc::Rc;
use std::time::Duration;

use histories::lease_key;
use keepd_types::LeaseId;

use super::World;
use crate::history::{Outcome, Request, Response};

/// The longest time to live, in seconds; the shortest is the server's.
const TTL_MAX: u64 = 6;
const TTL_MIN: u64 = 2;
const FAILED_PAUSE: Duration = Duration::from_millis(200);
/// The longest time for which a lease is kept alive.
const KEPT_MAX: Duration = Duration::from_secs(10);

pub(super) async fn client(world: Rc<World>, client: usize) {
    while world.is_unsafe() {
        let Some((member, host)) = world.any_host() else {
            world.pause(FAILED_PAUSE).await;
            continue;
        };
        let id = LeaseId(i64::try_from(world.number()).expect("a small number"));
        let ttl = i64::try_from(TTL_MIN + world.draw(TTL_MAX - TTL_MIN + 1)).expect("small");
        let granted = world.ask(client, (member, &host), Request::Grant { id, ttl }).await;
        if !matches!(granted, Outcome::Ok(_)) {
            world.pause(FAILED_PAUSE).await;
            continue;
        }
        let put = Request::Put { key: lease_key(id), value: world.value(client), lease: id };
        if matches!(world.ask(client, (member, &host), put).await, Outcome::Ok(_)) {
            hold(&world, client, id, ttl).await;
        }
        world.pause(world.draw_calm(Duration::from_secs(1))).await;
    }
}

/// Keeps a lease alive for a while.
async fn hold(world: &World, client: usize, id: LeaseId, ttl: i64) {
    let end = world.now() + world.draw_calm(KEPT_MAX);
    let interval = Duration::from_secs(ttl.unsigned_abs()) / 3;
    while world.now() < end && world.is_unsafe() {
        world.pause(interval).await;
        let Some((member, host)) = world.any_host() else { continue };
        let renewed = world.ask(client, (member, &host), Request::Renew { id }).await;
        if renewed == Outcome::Ok(Response::Gone) {
            return;
        }
    }
    if world.is_unsafe()
        && world.draw(2) == 0
        && let Some((member, host)) = world.any_host()
    {
        world.ask(client, (member, &host), Request::Revoke { id }).await;
    }
}
