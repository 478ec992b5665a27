//! The schedule: cron with a time zone and jitter. Pure: the next moment follows from the last one.
//!
//! Whoever takes a backup over from another member knows the last one from the destination, and so comes to
//! the same next moment: a takeover neither skips one nor takes it twice. A moment that the clocks
//! of the zone skip is made up for right after; one that they repeat counts once, unless the pattern
//! is for every hour or minute.

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, TimeZone as _, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use crate::Moment;

const ZONE_MARKS: [&str; 2] = ["CRON_TZ=", "TZ="];
/// BOUND: jitter, so that a backup of a day stays one of that day.
const JITTER_MAX: Duration = Duration::from_secs(12 * 3600);
/// Longer than any jitter, so that what is due before has begun.
const WALK_MILLIS: i64 = 86_400_000;
/// BOUND: characters of a pattern.
const PATTERN_LEN_MAX: usize = 256;

/// A fault of a schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// The pattern cannot be read.
    #[error(
        "{pattern:?} is no schedule ({reason}); it is five fields as in cron (minute, hour, day of the \
         month, month, day of the week), or @hourly, @daily, @weekly, @monthly, @every 30m"
    )]
    Pattern {
        /// The pattern.
        pattern: String,
        /// The fault.
        reason: String,
    },
    /// The time zone is unknown.
    #[error("there is no time zone {zone:?}; they are named as in Europe/Berlin, or UTC")]
    Zone {
        /// The name.
        zone: String,
    },
    /// The jitter is longer than sensible.
    #[error("a jitter of {0:?} is too long; half a day is the most")]
    Jitter(Duration),
}

/// Moments at which backups are due.
#[derive(Clone, Debug)]
pub struct Schedule {
    rule: Rule,
    zone: Tz,
    jitter: Duration,
}

#[derive(Clone, Debug)]
enum Rule {
    Cron(Box<Cron>),
    /// `@every`: multiples of it since the epoch.
    Every(Duration),
}

impl Schedule {
    /// Reads a pattern; `CRON_TZ=Zone` before it goes above `zone`.
    ///
    /// # Errors
    /// If the pattern, the zone or the jitter is wrong.
    pub fn new(pattern: &str, zone: &str, jitter: Duration) -> Result<Self, ScheduleError> {
        let pattern = pattern.trim();
        let marked = ZONE_MARKS.iter().find_map(|mark| pattern.strip_prefix(mark));
        let (zone, pattern) = match marked {
            Some(rest) => rest.split_once(' ').unwrap_or((rest, "")),
            None => (zone, pattern),
        };
        let zone =
            Tz::from_str(zone).map_err(|_unknown| ScheduleError::Zone { zone: zone.to_owned() })?;
        if jitter > JITTER_MAX {
            return Err(ScheduleError::Jitter(jitter));
        }
        let rule = rule(pattern.trim()).map_err(|reason| ScheduleError::Pattern {
            pattern: pattern.chars().take(PATTERN_LEN_MAX).collect(),
            reason,
        })?;
        Ok(Self { rule, zone, jitter })
    }

    /// The first moment after `last` that the pattern names, without jitter; none if there is none in
    /// the years to come.
    #[must_use]
    pub fn next(&self, last: Moment) -> Option<Moment> {
        match &self.rule {
            Rule::Every(every) => {
                let every = i64::try_from(every.as_millis()).ok()?;
                Some(Moment::of_millis((last.millis() / every + 1).checked_mul(every)?))
            }
            Rule::Cron(cron) => {
                let last: DateTime<Tz> = self.zone.from_utc_datetime(&last.utc().naive_utc());
                let next = cron.find_next_occurrence(&last, false).ok()?;
                Some(Moment::of_millis(next.with_timezone(&Utc).timestamp_millis()))
            }
        }
    }

    /// The last moment up to `until` that the pattern names.
    fn previous(&self, until: Moment) -> Option<Moment> {
        match &self.rule {
            Rule::Every(every) => {
                let every = i64::try_from(every.as_millis()).ok()?;
                Some(Moment::of_millis(until.millis() / every * every))
            }
            Rule::Cron(cron) => {
                let until = self.zone.from_utc_datetime(&until.utc().naive_utc());
                let previous = cron.find_previous_occurrence(&until, true).ok()?;
                Some(Moment::of_millis(previous.with_timezone(&Utc).timestamp_millis()))
            }
        }
    }

    /// The moment at which what is due at `due` begins: later by a part of the jitter that follows from
    /// the cluster and the moment, so that all its members agree and many clusters do not begin at once.
    #[must_use]
    pub fn begin(&self, due: Moment, cluster: u64) -> Moment {
        let jitter = u64::try_from(self.jitter.as_millis()).unwrap_or(u64::MAX);
        let draw = spread(cluster ^ due.millis().unsigned_abs());
        let late = draw.checked_rem(jitter.saturating_add(1)).unwrap_or_default();
        Moment::of_millis(due.millis().saturating_add(i64::try_from(late).unwrap_or_default()))
    }

    /// The due moment that a member at `now` answers for, if `last` is the due moment of the newest
    /// scheduled backup: the latest that has begun. Those in between were missed and are not made up for,
    /// since one backup has the state of all.
    #[must_use]
    pub fn due(&self, last: Moment, now: Moment, cluster: u64) -> Option<Moment> {
        // BOUND: whoever was away for years, or has a clock that jumped, walks through one day.
        let recent = Moment::of_millis(now.millis().saturating_sub(WALK_MILLIS));
        let (mut due, mut at) = (None, last);
        if last < recent {
            due = self.previous(recent).filter(|missed| *missed > last);
            at = recent;
        }
        while let Some(next) = self.next(at).filter(|next| self.begin(*next, cluster) <= now) {
            (due, at) = (Some(next), next);
        }
        due
    }
}

fn rule(pattern: &str) -> Result<Rule, String> {
    if pattern.len() > PATTERN_LEN_MAX {
        return Err(format!("it is longer than {PATTERN_LEN_MAX} characters"));
    }
    if let Some(every) = pattern.strip_prefix("@every ") {
        let every = duration(every.trim()).ok_or("@every takes a number and s, m or h")?;
        if every.is_zero() {
            return Err("@every takes a second at least".to_owned());
        }
        return Ok(Rule::Every(every));
    }
    let parser = CronParser::builder();
    let parser = parser.seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    parser.parse(pattern).map(|cron| Rule::Cron(Box::new(cron))).map_err(|it| it.to_string())
}

/// A number and its unit.
fn duration(text: &str) -> Option<Duration> {
    let (number, factor) = match text.as_bytes().last()? {
        b's' => (text.strip_suffix('s')?, 1),
        b'm' => (text.strip_suffix('m')?, 60),
        b'h' => (text.strip_suffix('h')?, 3600),
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor).map(Duration::from_secs)
}

/// One step of splitmix64 (Steele, Lea, Flood 2014).
const fn spread(seed: u64) -> u64 {
    let mut word = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Moment {
        text.parse().unwrap()
    }

    fn schedule(pattern: &str, zone: &str) -> Schedule {
        Schedule::new(pattern, zone, Duration::ZERO).unwrap()
    }

    /// The moments after `from`, in the zone of their text.
    fn after(schedule: &Schedule, from: &str, count: usize) -> Vec<String> {
        let moments = std::iter::successors(schedule.next(at(from)), |last| schedule.next(*last));
        moments.take(count).map(|it| it.to_string()).collect()
    }

    #[test]
    fn a_time_that_the_clocks_skip_is_made_up_for_once() {
        // 2026-03-29 02:00 does not exist in Berlin: 01:59:59 CET is followed by 03:00 CEST.
        let nightly = schedule("30 2 * * *", "Europe/Berlin");
        let found = after(&nightly, "2026-03-28T02:00:00+01:00", 3);
        assert_eq!(found[0], "2026-03-28T01:30:00.000Z");
        assert_eq!(found[1], "2026-03-29T01:00:00.000Z");
        assert_eq!(found[2], "2026-03-30T00:30:00.000Z");
    }

    #[test]
    fn a_time_that_the_clocks_repeat_counts_once() {
        // 2026-10-25 02:30 happens twice in Berlin.
        let nightly = schedule("30 2 * * *", "Europe/Berlin");
        let found = after(&nightly, "2026-10-24T12:00:00+02:00", 2);
        assert_eq!(found, ["2026-10-25T00:30:00.000Z", "2026-10-26T01:30:00.000Z"]);
    }

    #[test]
    fn every_hour_is_every_hour_through_both_changes() {
        let hourly = schedule("0 * * * *", "Europe/Berlin");
        for from in ["2026-03-28T22:00:00Z", "2026-10-24T22:00:00Z"] {
            let moments: Vec<i64> =
                after(&hourly, from, 6).iter().map(|text| at(text).millis()).collect();
            assert!(moments.windows(2).all(|pair| pair[1] - pair[0] == 3_600_000), "{moments:?}");
        }
    }

    #[test]
    fn short_forms_and_zones() {
        assert_eq!(
            after(&schedule("@daily", "UTC"), "2026-11-28T10:00:00Z", 1),
            ["2026-11-29T00:00:00.000Z"]
        );
        assert_eq!(
            after(
                &schedule("CRON_TZ=America/New_York 0 12 * * 1-5", "UTC"),
                "2026-11-27T18:00:00Z",
                1
            ),
            ["2026-11-30T17:00:00.000Z"]
        );
        assert_eq!(
            after(&schedule("@every 30m", "UTC"), "2026-11-28T10:00:00Z", 2),
            ["2026-11-28T10:30:00.000Z", "2026-11-28T11:00:00.000Z"]
        );
    }

    #[test]
    fn mistakes_are_named() {
        let error = |pattern: &str, zone: &str, jitter| {
            Schedule::new(pattern, zone, Duration::from_secs(jitter)).unwrap_err().to_string()
        };
        assert!(error("* * * *", "UTC", 0).contains("it is five fields as in cron"));
        assert!(error("61 * * * *", "UTC", 0).contains("is no schedule"));
        assert!(error("0 0 0 * * *", "UTC", 0).contains("is no schedule"));
        assert!(error("@every 0s", "UTC", 0).contains("a second at least"));
        assert!(error("@daily", "Europe/Bonn", 0).contains("no time zone \"Europe/Bonn\""));
        assert!(error("CRON_TZ=Mars @daily", "UTC", 0).contains("no time zone \"Mars\""));
        assert!(error("@daily", "UTC", 90_000).contains("too long"));
    }

    #[test]
    fn a_long_absence_leads_to_one_backup() {
        let hourly = schedule("0 * * * *", "UTC");
        let now = at("2026-11-28T10:20:00Z");
        assert_eq!(hourly.due(at("2026-11-28T10:00:00Z"), now, 1), None);
        let expected = Some(at("2026-11-28T10:00:00Z"));
        assert_eq!(hourly.due(at("2026-11-28T09:00:00Z"), now, 1), expected);
        assert_eq!(hourly.due(at("2026-11-20T09:00:00Z"), now, 1), expected);
        assert_eq!(hourly.due(at("1970-01-01T00:00:00Z"), now, 1), expected);
        let yearly = schedule("0 0 1 1 *", "UTC");
        assert_eq!(
            yearly.due(at("2024-06-01T00:00:00Z"), now, 1),
            Some(at("2026-01-01T00:00:00Z"))
        );
    }

    proptest! {
        /// Members that take turns at any moments, each knowing the last backup alone.
        #[test]
        fn a_takeover_neither_skips_nor_doubles(
            steps in prop::collection::vec(1_000..2_000_000_i64, 1..80),
            jitter in 0..900_u64,
            cluster in any::<u64>(),
        ) {
            let jitter = Duration::from_secs(jitter);
            let schedule = Schedule::new("*/30 * * * *", "Europe/Berlin", jitter).unwrap();
            let mut now = at("2026-10-24T20:00:00Z");
            let mut last = now;
            let mut taken = Vec::new();
            for step in steps {
                now = Moment::of_millis(now.millis() + step);
                if let Some(due) = schedule.due(last, now, cluster) {
                    prop_assert!(due > last && schedule.begin(due, cluster) <= now);
                    taken.push(due);
                    last = due;
                }
                // Whoever looks again at the same moment finds nothing to do.
                prop_assert_eq!(schedule.due(last, now, cluster), None);
                // Nothing that has begun is left out.
                let next = schedule.next(last).unwrap();
                prop_assert!(schedule.begin(next, cluster) > now);
            }
            prop_assert!(taken.windows(2).all(|pair| pair[0] < pair[1]));
        }

        #[test]
        fn jitter_delays_and_is_bounded(due in 0..4_000_000_000_000_i64, cluster in any::<u64>()) {
            let schedule = Schedule::new("@daily", "UTC", Duration::from_secs(60)).unwrap();
            let due = Moment::of_millis(due);
            let begin = schedule.begin(due, cluster);
            prop_assert!(begin >= due && begin.since(due) <= Duration::from_secs(60));
        }
    }
}
