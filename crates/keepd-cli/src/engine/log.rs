//! Log lines on standard error, as etcd's tools write them: one JSON object per line.
//!
//! They tell an operator why a request failed, beside the one-line error scripts look at. There
//! is no level to choose: what is written here is always worth its line.

use std::time::Duration;

use keepd_env::Env;

use super::answer::complain;
use super::json::Object;

/// Writes a line. `fields` follow the time and message.
pub(crate) fn write(level: &str, logger: &str, message: &str, fields: &Object) {
    let now = Env::real().clock.wall();
    let line = Object::new()
        .text("level", level)
        .text("ts", &timestamp(now))
        .text("logger", logger)
        .text("msg", message)
        .inlined(fields);
    complain(&line.end());
}

/// A point of time since 1970 as `2026-11-24T05:12:33.123456Z`.
#[must_use]
pub fn timestamp(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = date_of(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let micros = since_epoch.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// The date a number of days after 1970-01-01. Years are counted from March, so that the leap day
/// is the last of its year; 400 years have 146,097 days.
fn date_of(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_of_time_are_written_in_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000007Z"),
            (951_782_400, "2000-02-29T00:00:00.000007Z"),
            (1_795_497_153, "2026-11-24T05:12:33.000007Z"),
        ] {
            assert_eq!(timestamp(Duration::new(seconds, 7_000)), text);
        }
    }
}
