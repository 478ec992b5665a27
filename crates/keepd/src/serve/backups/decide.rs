//! Whether this member does what is due: a pure function of the claim in force, who is connected, and how
//! long each has been so. Time is this member's own and only ever counted, never compared with another's.

use std::time::Duration;

use keepd_archive::Moment;
use keepd_machine::claims::{BackupClaim, ClaimState};
use keepd_types::MemberId;

/// The lead that each member in line has on the next.
pub(super) const STAGGER: Duration = Duration::from_secs(2);
/// Time for which whoever holds a claim is not connected before another takes over.
const TAKEOVER: Duration = Duration::from_secs(30);
/// BOUND: time in which whoever holds a claim renews it; one that is connected and does not is stuck.
const STALE: Duration = Duration::from_secs(600);
/// BOUND: pause after a failed attempt, the first and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));

/// The holder of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// This member; the process that asks is not at it.
    Own,
    /// Another that is connected.
    Connected,
    /// Another that has not been for so long.
    Away(Duration),
}

/// The claim in force.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) claim: BackupClaim,
    pub(super) holder: Holder,
    /// Time since this member saw it first as it is.
    pub(super) unchanged: Duration,
}

/// All that the decision follows from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene {
    /// The moment that is due and has no backup yet.
    pub(super) due: Moment,
    /// Time since this member saw first that it is.
    pub(super) waited: Duration,
    pub(super) seen: Option<Seen>,
    /// Members that come before this one.
    pub(super) before: u32,
}

/// The decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Another is at it, or it is not yet this one's turn.
    Wait,
    /// Nothing is left to do for this moment.
    Done,
    /// Claim it, as the attempt of this number.
    Claim(u32),
}

/// The number of members that are asked before this one: those that are connected, the leader last.
pub(super) fn before(own: MemberId, leader: MemberId, connected: &[MemberId]) -> u32 {
    let order = |member: MemberId| (member == leader, member);
    let count = connected.iter().filter(|other| order(**other) < order(own)).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Decides.
pub(super) fn decide(scene: &Scene) -> Step {
    let turn = STAGGER.saturating_mul(scene.before);
    let Some(Seen { claim, holder, unchanged }) = scene.seen else {
        return after(scene.waited, turn, 1);
    };
    if claim.moment != scene.due.millis() {
        // One at a time: whoever is still at an earlier one is waited for. A claim of a moment that is yet
        // to come was made by a clock that was wrong, and counts no more than any other.
        let is_at_it = claim.state == ClaimState::Held
            && holder == Holder::Connected
            && unchanged < STALE.saturating_add(turn);
        return if is_at_it { Step::Wait } else { after(scene.waited, turn, 1) };
    }
    let next = claim.attempt.saturating_add(1);
    match (claim.state, holder) {
        (ClaimState::Done, _) => Step::Done,
        // Whoever has failed gives the others precedence.
        (ClaimState::Failed, Holder::Own) => {
            after(unchanged, backoff(claim.attempt) + turn + STAGGER, next)
        }
        (ClaimState::Failed, _) => after(unchanged, backoff(claim.attempt) + turn, next),
        (ClaimState::Held, Holder::Own) => Step::Claim(next),
        (ClaimState::Held, Holder::Connected) => after(unchanged, STALE.saturating_add(turn), next),
        (ClaimState::Held, Holder::Away(away)) => after(away, TAKEOVER.saturating_add(turn), next),
    }
}

fn after(passed: Duration, needed: Duration, attempt: u32) -> Step {
    if passed >= needed { Step::Claim(attempt) } else { Step::Wait }
}

/// The pause after so many failures.
pub(super) fn backoff(attempts: u32) -> Duration {
    let (first, longest) = BACKOFF;
    let doubled = 2_u32.saturating_pow(attempts.saturating_sub(1));
    first.saturating_mul(doubled).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUE: i64 = 1_795_000_000_000;
    const LONG: Duration = Duration::from_secs(100_000);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn scene(waited: u64, before: u32, seen: Option<Seen>) -> Scene {
        Scene { due: Moment::of_millis(DUE), waited: seconds(waited), seen, before }
    }

    fn seen(moment: i64, state: ClaimState, holder: Holder, unchanged: u64) -> Option<Seen> {
        let claim = BackupClaim { moment, attempt: 3, member: MemberId(9), state };
        Some(Seen { claim, holder, unchanged: seconds(unchanged) })
    }

    #[test]
    fn the_leader_is_last_and_whoever_is_alone_is_first() {
        let ids = [1, 2, 3].map(MemberId);
        assert_eq!(before(ids[0], ids[0], &[]), 0);
        assert_eq!(before(ids[0], ids[0], &[ids[1], ids[2]]), 2);
        assert_eq!(before(ids[1], ids[0], &[ids[0], ids[2]]), 0);
        assert_eq!(before(ids[2], ids[0], &[ids[0], ids[1]]), 1);
        assert_eq!(before(ids[2], ids[0], &[ids[0]]), 0, "one that is gone is not waited for");
    }

    #[test]
    fn members_come_one_after_the_other() {
        assert_eq!(decide(&scene(0, 0, None)), Step::Claim(1));
        assert_eq!(decide(&scene(1, 1, None)), Step::Wait);
        assert_eq!(decide(&scene(2, 1, None)), Step::Claim(1));
        assert_eq!(decide(&scene(3, 2, None)), Step::Wait);
    }

    #[test]
    fn what_is_done_is_not_done_again() {
        for holder in [Holder::Own, Holder::Connected, Holder::Away(LONG)] {
            let done = seen(DUE, ClaimState::Done, holder, 100_000);
            assert_eq!(decide(&scene(100_000, 0, done)), Step::Done);
        }
    }

    #[test]
    fn a_holder_is_taken_over_from_when_it_is_gone_or_stuck_and_not_before() {
        let held = |holder, unchanged| seen(DUE, ClaimState::Held, holder, unchanged);
        assert_eq!(decide(&scene(590, 0, held(Holder::Connected, 590))), Step::Wait);
        assert_eq!(decide(&scene(600, 0, held(Holder::Connected, 600))), Step::Claim(4));
        let away = |away| held(Holder::Away(seconds(away)), away);
        assert_eq!(decide(&scene(100, 0, away(29))), Step::Wait);
        assert_eq!(decide(&scene(100, 0, away(30))), Step::Claim(4));
        assert_eq!(decide(&scene(100, 1, away(31))), Step::Wait, "the one before it is first");
        // A process that was killed finds its own claim.
        assert_eq!(decide(&scene(0, 2, held(Holder::Own, 0))), Step::Claim(4));
    }

    #[test]
    fn a_failed_attempt_is_made_again_later_and_by_another_first() {
        let failed = |holder, unchanged| seen(DUE, ClaimState::Failed, holder, unchanged);
        // The third attempt failed: 5, 10, 20 seconds.
        assert_eq!(decide(&scene(90, 0, failed(Holder::Connected, 19))), Step::Wait);
        assert_eq!(decide(&scene(90, 0, failed(Holder::Connected, 20))), Step::Claim(4));
        assert_eq!(decide(&scene(90, 0, failed(Holder::Own, 20))), Step::Wait);
        assert_eq!(decide(&scene(90, 0, failed(Holder::Own, 22))), Step::Claim(4));
        assert_eq!(backoff(1), seconds(5));
        assert_eq!(backoff(100), seconds(600));
    }

    #[test]
    fn another_moment_is_in_the_way_only_while_somebody_is_at_it() {
        let other = |state, holder, unchanged| seen(DUE - 1, state, holder, unchanged);
        let is_at_it = other(ClaimState::Held, Holder::Connected, 500);
        assert_eq!(decide(&scene(500, 0, is_at_it)), Step::Wait);
        for free in [
            other(ClaimState::Held, Holder::Connected, 600),
            other(ClaimState::Held, Holder::Away(Duration::ZERO), 0),
            other(ClaimState::Held, Holder::Own, 0),
            other(ClaimState::Done, Holder::Connected, 0),
            other(ClaimState::Failed, Holder::Connected, 0),
        ] {
            assert_eq!(decide(&scene(0, 0, free)), Step::Claim(1), "{free:?}");
        }
        // Made by a clock that was ahead by a year: it stops nobody.
        let ahead = seen(DUE + 31_536_000_000, ClaimState::Done, Holder::Connected, 0);
        assert_eq!(decide(&scene(0, 0, ahead)), Step::Claim(1));
    }
}
