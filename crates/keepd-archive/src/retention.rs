//! Retention: which backups go. Pure; the hours and days are UTC's.
//!
//! INVARIANT: never removed are those that a person asked for, the newest one, the newest proven one, and
//! those of the future, which a clock that jumped has made.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{Datelike as _, Timelike as _};

use crate::Moment;
use crate::name::Kind;

/// Numbers of backups that are kept. Of a class the newest proven one of each of the last N hours (days, ...)
/// that have any is kept; the newest if none of them is proven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest ones.
    pub last: u32,
    /// All that are not older.
    pub within: Duration,
    /// One for each of as many hours.
    pub hourly: u32,
    /// One for each of as many days.
    pub daily: u32,
    /// One for each of as many weeks, which begin on Monday.
    pub weekly: u32,
    /// One for each of as many months.
    pub monthly: u32,
}

/// A backup that is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The moment that it was begun.
    pub time: Moment,
    /// The one that asked for it.
    pub kind: Kind,
    /// Whether it was proven to restore.
    pub is_proven: bool,
}

/// Reason why a backup stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A person asked for it.
    OnDemand,
    /// It is later than now.
    Future,
    /// None is newer.
    Newest,
    /// No proven one is newer.
    NewestProven,
    /// It is among the last ones.
    Last,
    /// It is young.
    Within,
    /// It stands for an hour.
    Hourly,
    /// It stands for a day.
    Daily,
    /// It stands for a week.
    Weekly,
    /// It stands for a month.
    Monthly,
}

impl Reason {
    /// For people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::OnDemand => "on demand",
            Self::Future => "later than now",
            Self::Newest => "newest",
            Self::NewestProven => "newest proven",
            Self::Last => "last",
            Self::Within => "within",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
        }
    }
}

/// The count of a class, its reason, and the number of a moment's hour (day, ...).
type Class = (u32, Reason, fn(Moment) -> i64);

impl Policy {
    /// Whether it says nothing, and so keeps everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The reasons for which each candidate stays; one without a reason goes. Without a rule all stay, as the last ones.
    #[must_use]
    pub fn judge(&self, now: Moment, candidates: &[Candidate]) -> Vec<Vec<Reason>> {
        let mut reasons = vec![Vec::new(); candidates.len()];
        if self.is_empty() {
            return vec![vec![Reason::Last]; candidates.len()];
        }
        let mut newest_first: Vec<usize> = (0..candidates.len()).collect();
        newest_first.sort_by_key(|at| std::cmp::Reverse((candidates[*at].time, *at)));
        let is_past = |at: &usize| candidates[*at].time <= now;
        let is_proven = |at: &usize| candidates[*at].is_proven;
        for (at, candidate) in candidates.iter().enumerate() {
            if candidate.kind == Kind::OnDemand {
                reasons[at].push(Reason::OnDemand);
            }
            if !is_past(&at) {
                reasons[at].push(Reason::Future);
            }
        }
        // One of the future does not take the place of one of the past.
        let past: Vec<usize> = newest_first.into_iter().filter(is_past).collect();
        if let Some(newest) = past.first() {
            reasons[*newest].push(Reason::Newest);
        }
        if let Some(proven) = past.iter().find(|at| is_proven(at)) {
            reasons[*proven].push(Reason::NewestProven);
        }
        // One on demand may be deleted at any time, and so stands for nothing.
        let scheduled: Vec<usize> =
            past.into_iter().filter(|at| candidates[*at].kind == Kind::Scheduled).collect();
        for at in scheduled.iter().take(usize::try_from(self.last).unwrap_or(usize::MAX)) {
            reasons[*at].push(Reason::Last);
        }
        for at in &scheduled {
            if self.within > Duration::ZERO && now.since(candidates[*at].time) <= self.within {
                reasons[*at].push(Reason::Within);
            }
        }
        let classes: [Class; 4] = [
            (self.hourly, Reason::Hourly, hour),
            (self.daily, Reason::Daily, day),
            (self.weekly, Reason::Weekly, week),
            (self.monthly, Reason::Monthly, month),
        ];
        for (count, reason, number) in classes {
            let mut chosen: BTreeMap<i64, usize> = BTreeMap::new();
            for at in &scheduled {
                let entry = chosen.entry(number(candidates[*at].time)).or_insert(*at);
                if !is_proven(entry) && is_proven(at) {
                    *entry = *at;
                }
            }
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            for at in chosen.values().rev().take(count) {
                reasons[*at].push(reason);
            }
        }
        reasons
    }
}

fn hour(time: Moment) -> i64 {
    day(time) * 24 + i64::from(time.utc().hour())
}

fn day(time: Moment) -> i64 {
    i64::from(time.utc().num_days_from_ce())
}

/// Day 1 of the common era was a Monday.
fn week(time: Moment) -> i64 {
    (day(time) - 1).div_euclid(7)
}

fn month(time: Moment) -> i64 {
    i64::from(time.utc().year()) * 12 + i64::from(time.utc().month0())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_795_000_000_000;

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let candidate = (0..200 * 86_400_i64, any::<bool>(), prop::bool::weighted(0.1));
        prop::collection::vec(candidate, 0..60).prop_map(|all| {
            let candidate = |(age, is_proven, is_on_demand): (i64, bool, bool)| Candidate {
                // Some are later than now.
                time: Moment::of_millis(NOW - (age - 3600) * 1000),
                kind: if is_on_demand { Kind::OnDemand } else { Kind::Scheduled },
                is_proven,
            };
            all.into_iter().map(candidate).collect()
        })
    }

    fn policies() -> impl Strategy<Value = Policy> {
        (0..5_u32, 0..100_u64, 0..30_u32, 0..9_u32, 0..5_u32, 0..7_u32).prop_map(
            |(last, hours, hourly, daily, weekly, monthly)| {
                let within = Duration::from_secs(hours * 3600);
                Policy { last, within, hourly, daily, weekly, monthly }
            },
        )
    }

    fn kept(policy: &Policy, candidates: &[Candidate]) -> Vec<Candidate> {
        let reasons = policy.judge(Moment::of_millis(NOW), candidates);
        let pairs = candidates.iter().zip(reasons);
        pairs.filter(|(_, reasons)| !reasons.is_empty()).map(|(it, _)| *it).collect()
    }

    proptest! {
        #[test]
        fn what_must_stay_stays(policy in policies(), all in candidates()) {
            let kept = kept(&policy, &all);
            let is_kept = |it: &Candidate| kept.contains(it);
            prop_assert!(all.iter().filter(|it| it.kind == Kind::OnDemand).all(is_kept));
            let past = all.iter().filter(|it| it.time.millis() <= NOW);
            let newest = past.clone().map(|it| it.time).max();
            prop_assert!(newest.is_none_or(|time| kept.iter().any(|it| it.time == time)));
            let proven = past.filter(|it| it.is_proven).map(|it| it.time).max();
            let is_proven_kept = |time| kept.iter().any(|it| it.time == time && it.is_proven);
            prop_assert!(proven.is_none_or(is_proven_kept));
        }

        #[test]
        fn a_second_run_removes_nothing_more(policy in policies(), all in candidates()) {
            let once = kept(&policy, &all);
            prop_assert_eq!(kept(&policy, &once), once);
        }

        #[test]
        fn a_more_generous_policy_keeps_all_that_a_meaner_one_does(
            policy in policies(), more in policies(), all in candidates(),
        ) {
            prop_assume!(!policy.is_empty());
            let sum = Policy {
                last: policy.last + more.last,
                within: policy.within + more.within,
                hourly: policy.hourly + more.hourly,
                daily: policy.daily + more.daily,
                weekly: policy.weekly + more.weekly,
                monthly: policy.monthly + more.monthly,
            };
            let generous = kept(&sum, &all);
            prop_assert!(kept(&policy, &all).iter().all(|it| generous.contains(it)));
        }

        #[test]
        fn the_order_of_the_candidates_does_not_matter(policy in policies(), all in candidates()) {
            let mut times: Vec<Moment> = all.iter().map(|it| it.time).collect();
            times.sort_unstable();
            times.dedup();
            prop_assume!(times.len() == all.len());
            let reversed: Vec<Candidate> = all.iter().rev().copied().collect();
            let mut kept_reversed = kept(&policy, &reversed);
            kept_reversed.reverse();
            prop_assert_eq!(kept(&policy, &all), kept_reversed);
        }
    }
}
