//! Moments as names, sidecars and people have them: UTC, to the millisecond.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The form in names, in which text order is the order of time.
const COMPACT: &str = "%Y%m%dT%H%M%S%3fZ";
const COMPACT_LEN: usize = 19;
/// BOUND: the last moment that four digits of a year can tell.
const MILLIS_MAX: i64 = 253_402_300_799_999;

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(i64);

impl Moment {
    /// A moment by a clock's time since the Unix epoch; those beyond the year 9999 are its end.
    #[must_use]
    pub fn of_wall(wall: Duration) -> Self {
        Self::of_millis(i64::try_from(wall.as_millis()).unwrap_or(i64::MAX))
    }

    /// The same in milliseconds; those before the epoch are its begin.
    #[must_use]
    pub const fn of_millis(millis: i64) -> Self {
        Self(if millis < 0 {
            0
        } else if millis > MILLIS_MAX {
            MILLIS_MAX
        } else {
            millis
        })
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// The time from an earlier moment to this one; zero if it was later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or_default())
    }

    /// As chrono has it.
    #[must_use]
    pub fn utc(self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.0).expect("moments are within chrono's range")
    }

    /// As names have it: `20261128T005336123Z`.
    #[must_use]
    pub fn compact(self) -> String {
        self.utc().format(COMPACT).to_string()
    }

    /// Reads what [`Self::compact`] writes.
    #[must_use]
    pub fn parse_compact(text: &str) -> Option<Self> {
        if text.len() != COMPACT_LEN {
            return None;
        }
        let time = NaiveDateTime::parse_from_str(text, COMPACT).ok()?;
        let moment = Self::of_millis(time.and_utc().timestamp_millis());
        (moment.compact() == text).then_some(moment)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.utc().to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl FromStr for Moment {
    type Err = chrono::ParseError;

    /// Reads RFC 3339, with any offset.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::of_millis(DateTime::parse_from_rfc3339(text)?.timestamp_millis()))
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_forms() {
        let moment: Moment = "2026-11-28T01:53:36.123+01:00".parse().unwrap();
        assert_eq!(moment.to_string(), "2026-11-28T00:53:36.123Z");
        assert_eq!(moment.compact(), "20261128T005336123Z");
        for wrong in ["20261128T005336123", "20261328T005336123Z", "2026112XT005336123Z", ""] {
            assert_eq!(Moment::parse_compact(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn they_come_back_and_names_are_in_the_order_of_time(
            one in 0..=MILLIS_MAX, other in 0..=MILLIS_MAX,
        ) {
            let (one, other) = (Moment::of_millis(one), Moment::of_millis(other));
            prop_assert_eq!(Moment::parse_compact(&one.compact()), Some(one));
            prop_assert_eq!(one.to_string().parse::<Moment>().unwrap(), one);
            prop_assert_eq!(one.compact().cmp(&other.compact()), one.cmp(&other));
        }
    }
}
