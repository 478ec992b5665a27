//! Durations such as `1h30m`, as `time.ParseDuration` reads and `Duration.String` writes them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::quote::push_hex;

/// The largest magnitude: that of the shortest (most negative) duration.
const MAGNITUDE_MAX: u64 = 1 << 63;

/// A Go `time.Duration`: signed nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration {
    /// The nanoseconds.
    pub nanos: i64,
}

impl GoDuration {
    /// The duration; zero for a negative one.
    #[must_use]
    pub fn or_zero(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.nanos).unwrap_or(0))
    }
}

impl From<Duration> for GoDuration {
    /// The same duration, at most 292 years.
    fn from(duration: Duration) -> Self {
        Self { nanos: i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX) }
    }
}

/// A text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not a number with a unit, or more than 292 years.
    #[error("time: invalid duration {}", quote_time(.0))]
    Invalid(String),
    /// A number without a unit.
    #[error("time: missing unit in duration {}", quote_time(.0))]
    MissingUnit(String),
    /// A number with a unit that is none.
    #[error("time: unknown unit {} in duration {}", quote_time(.unit), quote_time(.text))]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// The whole text.
        text: String,
    },
}

/// Package `time` quotes more plainly than `strconv`: bytes beyond ASCII are always escaped.
fn quote_time(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='\x7f' => out.push(c),
            _ => c.encode_utf8(&mut [0; 4]).bytes().for_each(|b| push_hex(b.into(), &mut out)),
        }
    }
    out.push('"');
    out
}

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let invalid = || DurationError::Invalid(text.to_owned());
        let (is_negative, mut rest) = match text.as_bytes() {
            [b'-', ..] => (true, &text[1..]),
            [b'+', ..] => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self::default());
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut magnitude = 0_u64;
        while !rest.is_empty() {
            let (number, after) = Number::split(rest).ok_or_else(invalid)?;
            let is_next = |c: char| c.is_ascii_digit() || c == '.';
            let (unit, after) = after.split_at(after.find(is_next).unwrap_or(after.len()));
            if unit.is_empty() {
                return Err(DurationError::MissingUnit(text.to_owned()));
            }
            let Some(unit_nanos) = nanos_of(unit) else {
                let (unit, text) = (unit.to_owned(), text.to_owned());
                return Err(DurationError::UnknownUnit { unit, text });
            };
            // Go's sum wraps as well.
            let part = number.in_nanos(unit_nanos).ok_or_else(invalid)?;
            magnitude = magnitude.wrapping_add(part);
            if magnitude > MAGNITUDE_MAX {
                return Err(invalid());
            }
            rest = after;
        }
        let nanos = if is_negative {
            0_i64.checked_sub_unsigned(magnitude)
        } else {
            i64::try_from(magnitude).ok()
        };
        nanos.map(|nanos| Self { nanos }).ok_or_else(invalid)
    }
}

fn nanos_of(unit: &str) -> Option<u64> {
    match unit {
        "ns" => Some(1),
        // The micro sign and the Greek letter.
        "us" | "\u{b5}s" | "\u{3bc}s" => Some(1_000),
        "ms" => Some(1_000_000),
        "s" => Some(1_000_000_000),
        "m" => Some(60_000_000_000),
        "h" => Some(3_600_000_000_000),
        _ => None,
    }
}

/// A decimal number: `whole + fraction / scale`.
struct Number {
    whole: u64,
    fraction: u64,
    scale: f64,
}

impl Number {
    /// Splits a number off the text. `None` if there is no digit, or it is out of range.
    fn split(text: &str) -> Option<(Self, &str)> {
        let (whole_digits, after) = split_digits(text);
        let whole = whole_digits.bytes().try_fold(0_u64, push_digit)?;
        let mut number = Self { whole, fraction: 0, scale: 1.0 };
        let Some(after) = after.strip_prefix('.') else {
            return (!whole_digits.is_empty()).then_some((number, after));
        };
        let (fraction_digits, after) = split_digits(after);
        for digit in fraction_digits.bytes() {
            // What is beyond the precision of 64 bits changes nothing.
            let Some(fraction) = push_digit(number.fraction, digit) else { break };
            number.fraction = fraction;
            number.scale *= 10.0;
        }
        let has_digit = !(whole_digits.is_empty() && fraction_digits.is_empty());
        has_digit.then_some((number, after))
    }

    /// The number of nanoseconds. The fraction is computed in floating point, as Go does: its
    /// rounding is visible (`0.3333333333333333333h` is 20 minutes).
    fn in_nanos(&self, unit: u64) -> Option<u64> {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a fraction is below one unit, which is exact"
        )]
        let fraction = (self.fraction as f64 * (unit as f64 / self.scale)) as u64;
        let nanos = self.whole.checked_mul(unit)?.checked_add(fraction)?;
        (nanos <= MAGNITUDE_MAX).then_some(nanos)
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn push_digit(number: u64, digit: u8) -> Option<u64> {
    let next = number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
    (next <= MAGNITUDE_MAX).then_some(next)
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SECOND: u64 = 1_000_000_000;
        let nanos = self.nanos.unsigned_abs();
        if self.nanos < 0 {
            f.write_str("-")?;
        }
        match nanos {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{nanos}ns"),
            1_000..1_000_000 => write!(f, "{}\u{b5}s", decimal(nanos, 3)),
            1_000_000..SECOND => write!(f, "{}ms", decimal(nanos, 6)),
            _ => {
                let (minutes, seconds) = (nanos / (60 * SECOND), decimal(nanos % (60 * SECOND), 9));
                match (minutes / 60, minutes % 60) {
                    (0, 0) => write!(f, "{seconds}s"),
                    (0, minutes) => write!(f, "{minutes}m{seconds}s"),
                    (hours, minutes) => write!(f, "{hours}h{minutes}m{seconds}s"),
                }
            }
        }
    }
}

/// The number divided by ten to the `digits`, without trailing zeros.
fn decimal(number: u64, digits: usize) -> String {
    let text = format!("{number:0width$}", width = digits + 1);
    let (whole, fraction) = text.split_at(text.len() - digits);
    match fraction.trim_end_matches('0') {
        "" => whole.to_owned(),
        fraction => format!("{whole}.{fraction}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back(nanos: i64) {
            let duration = GoDuration { nanos };
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn any_text_reads_or_not(text in "[-+0-9.a-z\u{b5} ]*") {
            let _ = text.parse::<GoDuration>();
        }
    }
}
