//! The syntax of Go's literals as its `flag` package takes them, and its error texts.

use std::time::Duration;

/// The text of Go's `strconv` errors as `flag` shows it.
pub(crate) const SYNTAX: &str = "parse error";
/// A number beyond its type.
pub(crate) const RANGE: &str = "value out of range";

/// A boolean in any of Go's spellings.
pub(crate) fn bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(SYNTAX.to_owned()),
    }
}

/// An unsigned number in Go's literal syntax, at most `max`.
pub(crate) fn uint(text: &str, max: u64) -> Result<u64, String> {
    let (radix, digits) = radix(text);
    let digits = digits.replace('_', "");
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(SYNTAX.to_owned());
    }
    match u64::from_str_radix(&digits, radix) {
        Ok(value) if value <= max => Ok(value),
        _ => Err(RANGE.to_owned()),
    }
}

/// A signed number in Go's literal syntax.
pub(crate) fn int(text: &str) -> Result<i64, String> {
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let magnitude = i128::from(uint(digits, 1 << 63)?);
    let value = if is_negative { -magnitude } else { magnitude };
    i64::try_from(value).map_err(|_unused| RANGE.to_owned())
}

fn radix(text: &str) -> (u32, &str) {
    let lower = text.get(..2).map(str::to_ascii_lowercase);
    match lower.as_deref() {
        Some("0x") => (16, &text[2..]),
        Some("0b") => (2, &text[2..]),
        Some("0o") => (8, &text[2..]),
        Some(two) if two.starts_with('0') => (8, &text[1..]),
        _ => (10, text),
    }
}

/// A duration such as `1h30m`, in nanoseconds; the error is that of `time.ParseDuration`.
pub(crate) fn duration_nanos(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (is_negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, behind) = rest.split_at(number_len);
        let unit_len =
            behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit_len);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(invalid());
        }
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let Some(scale) = unit_nanos(unit) else {
            return Err(format!("time: unknown unit {unit:?} in duration {text:?}"));
        };
        total += scaled(whole, fraction, scale).ok_or_else(invalid)?;
        rest = behind;
    }
    let total = if is_negative { -total } else { total };
    i64::try_from(total).map_err(|_unused| invalid())
}

fn unit_nanos(unit: &str) -> Option<i128> {
    match unit {
        "ns" => Some(1),
        "us" | "\u{b5}s" | "\u{3bc}s" => Some(1_000),
        "ms" => Some(1_000_000),
        "s" => Some(1_000_000_000),
        "m" => Some(60_000_000_000),
        "h" => Some(3_600_000_000_000),
        _ => None,
    }
}

fn scaled(whole: &str, fraction: &str, scale: i128) -> Option<i128> {
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(scale)?;
    let mut unit = scale;
    // Digits behind the precision of the unit change nothing.
    for digit in fraction.bytes().take(18) {
        unit /= 10;
        total += i128::from(digit - b'0') * unit;
    }
    (total <= i128::from(i64::MAX)).then_some(total)
}

/// A duration as Go prints it, for error texts.
pub(crate) fn duration_text(nanos: i64) -> String {
    let magnitude = Duration::from_nanos(nanos.unsigned_abs());
    let sign = if nanos < 0 { "-" } else { "" };
    let seconds = magnitude.as_secs();
    if seconds == 0 {
        return match magnitude.subsec_nanos() {
            0 => "0s".to_owned(),
            _ => format!("{sign}{magnitude:?}"),
        };
    }
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let fraction = format!("{:09}", magnitude.subsec_nanos());
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let rest = format!("{}{point}{fraction}s", seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{sign}{rest}"),
        (0, minutes) => format!("{sign}{minutes}m{rest}"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_gos_literal_syntax() {
        assert_eq!(uint("0x10", u64::MAX), Ok(16));
        assert_eq!(uint("1_000", u64::MAX), Ok(1000));
        assert_eq!(uint("010", u64::MAX), Ok(8));
        assert_eq!(uint("abc", u64::MAX), Err("parse error".to_owned()));
        assert_eq!(uint("", u64::MAX), Err("parse error".to_owned()));
        assert_eq!(uint("-1", u64::MAX), Err("parse error".to_owned()));
        assert_eq!(uint("4294967296", u64::from(u32::MAX)), Err("value out of range".to_owned()));
        assert_eq!(int("-5"), Ok(-5));
        assert_eq!(int("9223372036854775808"), Err("value out of range".to_owned()));
        assert_eq!(int("-9223372036854775808"), Ok(i64::MIN));
    }

    #[test]
    fn durations_read_and_print_as_in_go() {
        for (text, nanos) in [
            ("300ms", 300_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            ("-2m", -120_000_000_000),
            ("0", 0),
            (".5s", 500_000_000),
        ] {
            assert_eq!(duration_nanos(text), Ok(nanos), "{text}");
        }
        for (text, error) in [
            ("abc", "time: invalid duration \"abc\""),
            ("", "time: invalid duration \"\""),
            ("5", "time: missing unit in duration \"5\""),
            ("5x", "time: unknown unit \"x\" in duration \"5x\""),
            ("9999999999h", "time: invalid duration \"9999999999h\""),
        ] {
            assert_eq!(duration_nanos(text), Err(error.to_owned()));
        }
        for (nanos, text) in [
            (0, "0s"),
            (1_500_000, "1.5ms"),
            (-1_000_000_000, "-1s"),
            (5_400_000_000_000, "1h30m0s"),
            (61_250_000_000, "1m1.25s"),
        ] {
            assert_eq!(duration_text(nanos), text);
        }
    }
}
