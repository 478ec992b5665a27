//! One kind of scheduled work of the cluster, as this member follows it.

use std::time::Duration;

use keepd_archive::Moment;
use keepd_archive::schedule::Schedule;
use keepd_machine::claims::{BackupClaim, BackupTask, ClaimState};
use keepd_types::MemberId;

use super::decide::{Holder, Scene, Seen};

/// Work on a schedule.
pub(super) struct Duty {
    pub(super) task: BackupTask,
    schedule: Schedule,
    /// The latest moment that has begun; zero before the first.
    latest: Moment,
    /// Since when this member knows of it.
    since: Duration,
    /// The moment for which nothing is left to do.
    done: Option<Moment>,
    /// The claim that was seen last, and since when it is as it is.
    claim: Option<((u64, BackupClaim), Duration)>,
    /// The holder that is not connected, and since when.
    away: Option<(MemberId, Duration)>,
    /// Attempts that did not come as far as a claim, and when the next may be made.
    pub(super) fruitless: u32,
    pub(super) not_before: Duration,
}

/// The members as this one sees them.
pub(super) struct Around {
    pub(super) own: MemberId,
    pub(super) connected: Vec<MemberId>,
    /// Members that come before this one.
    pub(super) before: u32,
}

impl Duty {
    pub(super) fn new(task: BackupTask, schedule: Schedule) -> Self {
        Self {
            task,
            schedule,
            latest: Moment::of_millis(0),
            since: Duration::ZERO,
            done: None,
            claim: None,
            away: None,
            fruitless: 0,
            not_before: Duration::ZERO,
        }
    }

    /// The moment that is due and not known to be done. `now` is the time of day, `at` that of the clock
    /// that only goes forward.
    pub(super) fn due(&mut self, now: Moment, at: Duration, cluster: u64) -> Option<Moment> {
        if now < self.latest {
            // The time of day was set back.
            self.latest = Moment::of_millis(0);
        }
        if let Some(due) = self.schedule.due(self.latest, now, cluster) {
            (self.latest, self.since) = (due, at);
            (self.fruitless, self.not_before) = (0, Duration::ZERO);
        }
        Some(self.latest).filter(|due| due.millis() > 0 && self.done != Some(*due))
    }

    /// The moment from which on a backup has the state of what is due at `due`.
    pub(super) fn begin(&self, due: Moment, cluster: u64) -> Moment {
        self.schedule.begin(due, cluster)
    }

    /// The begin of what comes next, or of what is due and not done.
    pub(super) fn next(&self, now: Moment, cluster: u64) -> Option<Moment> {
        let is_open = self.latest.millis() > 0 && self.done != Some(self.latest);
        let due = if is_open { Some(self.latest) } else { self.schedule.next(now) };
        due.map(|due| self.schedule.begin(due, cluster))
    }

    pub(super) const fn mark_done(&mut self, due: Moment) {
        self.done = Some(due);
    }

    /// The time for which `due` has been known to be due.
    pub(super) const fn waited(&self, at: Duration) -> Duration {
        at.saturating_sub(self.since)
    }

    /// Looks at the claim in force; whether it says that `due` is done.
    pub(super) fn see(
        &mut self,
        due: Moment,
        current: Option<(u64, BackupClaim)>,
        around: &Around,
        at: Duration,
    ) -> bool {
        if self.claim.map(|(claim, _)| claim) != current {
            self.claim = current.map(|claim| (claim, at));
        }
        self.away = current
            .map(|(_, claim)| claim.member)
            .filter(|member| *member != around.own && !around.connected.contains(member))
            .map(|member| match self.away {
                Some((known, since)) if known == member => (member, since),
                _ => (member, at),
            });
        current.is_some_and(|(_, claim)| {
            claim.moment == due.millis() && claim.state == ClaimState::Done
        })
    }

    /// All that the decision follows from.
    pub(super) fn scene(&self, due: Moment, around: &Around, at: Duration) -> Scene {
        let seen = self.claim.map(|((_, claim), since)| {
            let holder = match self.away {
                Some((_, since)) => Holder::Away(at.saturating_sub(since)),
                None if claim.member == around.own => Holder::Own,
                None => Holder::Connected,
            };
            Seen { claim, holder, unchanged: at.saturating_sub(since) }
        });
        Scene { due, waited: self.waited(at), seen, before: around.before }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn duty() -> Duty {
        let schedule = Schedule::new("*/30 * * * *", "UTC", Duration::ZERO).unwrap();
        Duty::new(BackupTask::Take, schedule)
    }

    fn moment(text: &str) -> Moment {
        text.parse().unwrap()
    }

    #[test]
    fn a_moment_is_due_until_it_is_done_and_a_later_one_takes_its_place() {
        let mut duty = duty();
        let at = Duration::from_secs;
        let (ten, half) = (moment("2026-11-28T10:00:00Z"), moment("2026-11-28T10:30:00Z"));
        let five_past = moment("2026-11-28T10:05:00Z");
        assert_eq!(duty.due(five_past, at(1), 7), Some(ten));
        assert_eq!(duty.next(five_past, 7), Some(ten), "what is due comes next");
        assert_eq!(duty.due(five_past, at(9), 7), Some(ten));
        assert_eq!(duty.waited(at(9)), at(8));
        duty.mark_done(ten);
        assert_eq!(duty.due(five_past, at(10), 7), None);
        assert_eq!(duty.next(five_past, 7), Some(half));
        assert_eq!(duty.due(moment("2026-11-28T10:31:00Z"), at(20), 7), Some(half));
        assert_eq!(duty.waited(at(20)), Duration::ZERO);
        // Set back by a day: the moments come again, and the places know what they have.
        assert_eq!(
            duty.due(moment("2026-11-27T12:05:00Z"), at(30), 7),
            Some(moment("2026-11-27T12:00:00Z"))
        );
    }

    #[test]
    fn time_counts_from_when_a_claim_or_an_absence_was_seen_first() {
        let mut duty = duty();
        let at = Duration::from_secs;
        let (own, other) = (MemberId(1), MemberId(2));
        let due = duty.due(moment("2026-11-28T10:05:00Z"), at(0), 7).unwrap();
        let claim = BackupClaim {
            moment: due.millis(),
            attempt: 1,
            member: other,
            state: ClaimState::Held,
        };
        let around =
            |connected: &[MemberId]| Around { own, connected: connected.to_vec(), before: 0 };
        let holder = |duty: &Duty, time| duty.scene(due, &around(&[]), at(time)).seen.unwrap();
        assert!(!duty.see(due, Some((1, claim)), &around(&[other]), at(5)));
        assert_eq!(holder(&duty, 9).holder, Holder::Connected);
        assert_eq!(holder(&duty, 9).unchanged, at(4));
        duty.see(due, Some((1, claim)), &around(&[]), at(20));
        duty.see(due, Some((1, claim)), &around(&[]), at(25));
        assert_eq!(holder(&duty, 30).holder, Holder::Away(at(10)));
        duty.see(due, Some((1, claim)), &around(&[other]), at(31));
        duty.see(due, Some((2, claim)), &around(&[]), at(40));
        let seen = holder(&duty, 41);
        assert_eq!((seen.holder, seen.unchanged), (Holder::Away(at(1)), at(1)), "it was renewed");
        let own_claim = BackupClaim { member: own, ..claim };
        duty.see(due, Some((3, own_claim)), &around(&[]), at(50));
        assert_eq!(holder(&duty, 50).holder, Holder::Own);
        let done = BackupClaim { state: ClaimState::Done, ..claim };
        assert!(duty.see(due, Some((4, done)), &around(&[]), at(60)));
        let earlier = BackupClaim { moment: claim.moment - 1, ..done };
        assert!(!duty.see(due, Some((5, earlier)), &around(&[]), at(60)));
    }
}
