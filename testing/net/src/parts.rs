//! The parts of a member, stepped by a task in an order that the seed chooses.

use std::time::Duration;

use keepd_env::{Clock, Random};
use keepd_node::{Member, PartName};

/// BOUND: steps of parts within a millisecond of the simulated time; more are taken in the next one.
const STEPS_MAX: usize = 256;

/// Steps the parts until the member halts.
pub(crate) async fn run(member: &Member, clock: &dyn Clock, random: &dyn Random) {
    let mut turns = [Some(Duration::ZERO); PartName::ALL.len()];
    while !member.is_halted() {
        for _ in 0..STEPS_MAX {
            let now = clock.monotonic();
            let is_ready = |part: usize| {
                let turn: Option<Duration> = turns[part];
                turn.is_some_and(|turn| turn <= now || member.has_events(PartName::ALL[part]))
            };
            let ready: Vec<usize> = (0..turns.len()).filter(|part| is_ready(*part)).collect();
            if ready.is_empty() {
                break;
            }
            let drawn = (random.next_u64() >> 8) % ready.len() as u64;
            let part = ready[usize::try_from(drawn).expect("few parts")];
            turns[part] = member.step(PartName::ALL[part]);
            // Connections and clients of this host go on in between.
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(super::TICK).await;
    }
}
