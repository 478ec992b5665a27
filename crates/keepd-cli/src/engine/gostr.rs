//! Texts the way Go writes and reads them: quoted strings, numbers, durations, sizes.
//!
//! Scripts parse etcdctl's output and hand it durations such as `1m30s`, so these follow Go's
//! `strconv`, `time` and go-humanize, including the wording of their errors. Byte strings go in
//! and out as bytes: keys and values need not be UTF-8.

use std::fmt::Write as _;
use std::time::Duration;

/// Writes bytes as Go's `%q`: double quotes, Go escapes, `\x` for bytes that are not UTF-8.
pub(crate) fn quote(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            quote_char(c, &mut out);
        }
        for byte in chunk.invalid() {
            push_hex(*byte, &mut out);
        }
    }
    out.push('"');
    out
}

fn push_hex(byte: u8, out: &mut String) {
    write!(out, "\\x{byte:02x}").expect("a string takes everything");
}

fn quote_char(c: char, out: &mut String) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x0b' => out.push_str("\\v"),
        ' '..='~' => out.push(c),
        '\0'..='\x7f' => {
            write!(out, "\\x{:02x}", u32::from(c)).expect("a string takes everything");
        }
        _ if is_printable(c) => out.push(c),
        _ => {
            let code = u32::from(c);
            let width = if code < 0x10000 { 4 } else { 8 };
            let letter = if code < 0x10000 { 'u' } else { 'U' };
            write!(out, "\\{letter}{code:0width$x}").expect("a string takes everything");
        }
    }
}

/// Behind a letter, std escapes exactly what does not print by itself.
fn is_printable(c: char) -> bool {
    let text = String::from_iter(['a', c]);
    text.escape_debug().count() == 2
}

/// Reads one quoted string at the start of `text`: its bytes, and the rest behind it.
pub(crate) fn unquote_prefix(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (&mark, mut rest) = text.split_first()?;
    let mut out = Vec::new();
    if mark == b'`' {
        let end = rest.iter().position(|byte| *byte == b'`')?;
        return Some((rest[..end].to_vec(), &rest[end + 1..]));
    }
    if mark != b'"' {
        return None;
    }
    loop {
        let (&byte, behind) = rest.split_first()?;
        match byte {
            b'"' => return Some((out, behind)),
            b'\\' => rest = unescape(behind, &mut out)?,
            b'\n' => return None,
            _ => {
                out.push(byte);
                rest = behind;
            }
        }
    }
}

fn unescape<'a>(text: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    let (&letter, rest) = text.split_first()?;
    let plain = match letter {
        b'a' => 0x07,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        b'\\' | b'"' => letter,
        b'x' => return unescape_number(rest, 2, 16, out),
        b'u' => return unescape_number(rest, 4, 16, out),
        b'U' => return unescape_number(rest, 8, 16, out),
        b'0'..=b'7' => return unescape_number(text, 3, 8, out),
        _ => return None,
    };
    out.push(plain);
    Some(rest)
}

/// Two and three digits name a byte, four and eight a code point.
fn unescape_number<'a>(
    text: &'a [u8],
    len: usize,
    radix: u32,
    out: &mut Vec<u8>,
) -> Option<&'a [u8]> {
    let (digits, rest) = text.split_at_checked(len)?;
    let number = u32::from_str_radix(str::from_utf8(digits).ok()?, radix).ok()?;
    if len < 4 {
        out.push(u8::try_from(number).ok()?);
    } else {
        let mut buffer = [0; 4];
        out.extend_from_slice(char::from_u32(number)?.encode_utf8(&mut buffer).as_bytes());
    }
    Some(rest)
}

fn number_error(function: &str, text: &str, what: &str) -> String {
    format!("strconv.{function}: parsing {}: {what}", quote(text.as_bytes()))
}

/// Splits sign, base and digits; base 0 looks at the prefix, as for literals.
fn digits_of(text: &str, base: u32) -> Option<(bool, String, u32)> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if base != 0 {
        return Some((negative, digits.to_owned(), base));
    }
    let lower = digits.to_ascii_lowercase();
    let (body, radix) = match lower.as_bytes() {
        [b'0', b'x', ..] => (&lower[2..], 16),
        [b'0', b'b', ..] => (&lower[2..], 2),
        [b'0', b'o', ..] => (&lower[2..], 8),
        [b'0', _, ..] => (&lower[1..], 8),
        _ => (lower.as_str(), 10),
    };
    Some((negative, body.replace('_', ""), radix))
}

fn parse_number(text: &str, base: u32, function: &str) -> Result<(bool, u128), String> {
    let syntax = || number_error(function, text, "invalid syntax");
    let (negative, digits, radix) = digits_of(text, base).ok_or_else(syntax)?;
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(syntax());
    }
    match u128::from_str_radix(&digits, radix) {
        Ok(number) => Ok((negative, number)),
        Err(_too_many_digits) => Ok((negative, u128::MAX)),
    }
}

/// Reads a signed number as Go's `strconv.ParseInt` with 64 bits.
pub(crate) fn parse_int(text: &str, base: u32) -> Result<i64, String> {
    let (negative, number) = parse_number(text, base, "ParseInt")?;
    let signed = i128::try_from(number).ok().map(|n| if negative { -n } else { n });
    signed
        .and_then(|number| i64::try_from(number).ok())
        .ok_or_else(|| number_error("ParseInt", text, "value out of range"))
}

/// Reads an unsigned number as Go's `strconv.ParseUint` with 64 bits.
pub(crate) fn parse_uint(text: &str, base: u32) -> Result<u64, String> {
    if text.starts_with(['-', '+']) {
        return Err(number_error("ParseUint", text, "invalid syntax"));
    }
    let (_, number) = parse_number(text, base, "ParseUint")?;
    u64::try_from(number)
        .map_err(|_too_large| number_error("ParseUint", text, "value out of range"))
}

/// Reads a claim as Go's `strconv.ParseBool`.
pub(crate) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(number_error("ParseBool", text, "invalid syntax")),
    }
}

const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a duration as Go's `time.ParseDuration`; a negative one counts as zero.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let quoted = quote(text.as_bytes());
    let invalid = || format!("time: invalid duration {quoted}");
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanos = 0_u128;
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, behind) = rest.split_at(number_len);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let unit_len =
            behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit_len);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {quoted}"));
        }
        let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            let unit = quote(unit.as_bytes());
            return Err(format!("time: unknown unit {unit} in duration {quoted}"));
        };
        let whole: u128 =
            if whole.is_empty() { 0 } else { whole.parse().map_err(|_too_long| invalid())? };
        nanos += whole.checked_mul(*scale).ok_or_else(invalid)? + scaled(fraction, *scale);
        rest = behind;
    }
    let nanos = u64::try_from(nanos).ok().filter(|n| i64::try_from(*n).is_ok());
    let nanos = nanos.ok_or_else(invalid)?;
    Ok(if negative { Duration::ZERO } else { Duration::from_nanos(nanos) })
}

fn scaled(fraction: &str, scale: u128) -> u128 {
    let mut unit = scale;
    let mut sum = 0;
    for digit in fraction.bytes().map(|byte| u128::from(byte.wrapping_sub(b'0'))) {
        unit /= 10;
        sum += digit * unit;
    }
    sum
}

/// Writes a duration as Go's `Duration.String`: `1m30s`, `9.850585ms`.
pub(crate) fn duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < 1_000_000_000 {
        let (unit, digits) = match nanos {
            0..1_000 => ("ns", 0),
            1_000..1_000_000 => ("\u{b5}s", 3),
            _ => ("ms", 6),
        };
        return format!("{}{unit}", decimal(nanos, digits));
    }
    let minutes = nanos / 60_000_000_000;
    let seconds = decimal(nanos % 60_000_000_000, 9);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `number` divided by ten to the `digits`, without trailing zeros.
fn decimal(number: u128, digits: u32) -> String {
    let scale = 10_u128.pow(digits);
    let (whole, fraction) = (number / scale, number % scale);
    if fraction == 0 {
        return whole.to_string();
    }
    let width = usize::try_from(digits).expect("a few digits");
    let fraction = format!("{fraction:0width$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

/// Writes a size as go-humanize does: units of 1000, one digit behind the point below ten.
pub(crate) fn bytes(size: u64) -> String {
    const NAMES: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if size < 10 {
        return format!("{size} B");
    }
    let mut unit = 1_u64;
    let mut name = 0;
    while size / unit >= 1000 {
        unit *= 1000;
        name += 1;
    }
    // Rounded to tenths, half up; a whole number from ten on shows no tenths.
    let tenths = (u128::from(size) * 10 + u128::from(unit) / 2) / u128::from(unit);
    if tenths < 100 {
        format!("{}.{} {}", tenths / 10, tenths % 10, NAMES[name])
    } else {
        // The library formats the value rounded to tenths once more, half to even.
        let (whole, tenth) = (tenths / 10, tenths % 10);
        let up = tenth > 5 || (tenth == 5 && whole % 2 == 1);
        format!("{} {}", whole + u128::from(up), NAMES[name])
    }
}

/// A list as Go's `pflag` takes it: one line of CSV, whose items may stand in double quotes.
pub(crate) fn split_list(text: &str) -> Result<Vec<String>, String> {
    let error =
        |at: usize, what: &str| Err(format!("parse error on line 1, column {}: {what}", at + 1));
    let (mut items, mut at) = (Vec::new(), 0);
    loop {
        let rest = &text[at..];
        let Some(quoted) = rest.strip_prefix('"') else {
            let len = rest.find(',').unwrap_or(rest.len());
            if let Some(quote) = rest[..len].find('"') {
                return error(at + quote, "bare \" in non-quoted-field");
            }
            items.push(rest[..len].to_owned());
            at += len;
            if at == text.len() {
                return Ok(items);
            }
            at += 1;
            continue;
        };
        let (mut item, mut inner) = (String::new(), quoted);
        loop {
            const MISSING: &str = "extraneous or missing \" in quoted-field";
            let Some((before, behind)) = inner.split_once('"') else {
                return error(text.len(), MISSING);
            };
            item.push_str(before);
            if let Some(behind) = behind.strip_prefix('"') {
                item.push('"');
                inner = behind;
            } else if behind.is_empty() {
                items.push(item);
                return Ok(items);
            } else if let Some(behind) = behind.strip_prefix(',') {
                items.push(item);
                at = text.len() - behind.len();
                break;
            } else {
                return error(text.len() - behind.len() - 1, MISSING);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted_as_go_quotes_them() {
        let cases: [(&[u8], &str); 8] = [
            (b"plain", r#""plain""#),
            (b"a\"b\\c", r#""a\"b\\c""#),
            (b"\n\t\x00\x7f", r#""\n\t\x00\x7f""#),
            (b"\xff\xfe", r#""\xff\xfe""#),
            ("gr\u{fc}n".as_bytes(), "\"gr\u{fc}n\""),
            ("\u{200b}".as_bytes(), r#""\u200b""#),
            ("\u{e0001}".as_bytes(), r#""\U000e0001""#),
            ("\u{2603}".as_bytes(), "\"\u{2603}\""),
        ];
        for (bytes, quoted) in cases {
            assert_eq!(quote(bytes), quoted);
            let unquoted = unquote_prefix(quoted.as_bytes()).unwrap();
            assert_eq!(unquoted, (bytes.to_vec(), &b""[..]));
        }
    }

    #[test]
    fn broken_quotes_are_refused() {
        for text in ["", "abc", "\"abc", "\"\\q\"", "\"\\x1\"", "'a'", "\"\\ud800\""] {
            assert_eq!(unquote_prefix(text.as_bytes()), None, "{text}");
        }
        assert_eq!(unquote_prefix(b"\"a\") = 1"), Some((b"a".to_vec(), &b") = 1"[..])));
        assert_eq!(unquote_prefix(b"`a\\n`"), Some((b"a\\n".to_vec(), &b""[..])));
    }

    #[test]
    fn numbers_and_their_errors_read_as_in_go() {
        assert_eq!(parse_int("-12", 10), Ok(-12));
        assert_eq!(parse_int("7fffffffffffffff", 16), Ok(i64::MAX));
        assert_eq!(parse_int("-8000000000000000", 16), Ok(i64::MIN));
        assert_eq!(parse_int("0x10", 0), Ok(16));
        assert_eq!(parse_int("010", 0), Ok(8));
        assert_eq!(parse_int("1_000", 0), Ok(1000));
        let error =
            |text: &str, what: &str| Err(format!("strconv.ParseInt: parsing \"{text}\": {what}"));
        assert_eq!(parse_int("zz", 16), error("zz", "invalid syntax"));
        assert_eq!(parse_int("", 10), error("", "invalid syntax"));
        assert_eq!(
            parse_int("9223372036854775808", 10),
            error("9223372036854775808", "value out of range")
        );
        assert_eq!(parse_uint("ffffffffffffffff", 16), Ok(u64::MAX));
        assert_eq!(
            parse_uint("-1", 10),
            Err("strconv.ParseUint: parsing \"-1\": invalid syntax".to_owned())
        );
        assert_eq!(
            parse_bool("foo"),
            Err("strconv.ParseBool: parsing \"foo\": invalid syntax".to_owned())
        );
    }

    #[test]
    fn durations_read_and_write_as_in_go() {
        for (text, millis) in [("5s", 5000), ("1m30s", 90_000), ("1.5h", 5_400_000), ("0", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for (text, error) in [
            ("", "time: invalid duration \"\""),
            ("abc", "time: invalid duration \"abc\""),
            ("5", "time: missing unit in duration \"5\""),
            ("5x", "time: unknown unit \"x\" in duration \"5x\""),
        ] {
            assert_eq!(parse_duration(text), Err(error.to_owned()));
        }
        for (nanos, text) in [
            (0, "0s"),
            (12, "12ns"),
            (1_500, "1.5\u{b5}s"),
            (9_850_585, "9.850585ms"),
            (1_000_000_000, "1s"),
            (90_500_000_000, "1m30.5s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanos)), text);
        }
    }

    #[test]
    fn sizes_are_written_for_people() {
        for (size, text) in [
            (0, "0 B"),
            (9, "9 B"),
            (20_480, "20 kB"),
            (2_147_483_648, "2.1 GB"),
            (23_236_608, "23 MB"),
            (82_854_982, "83 MB"),
            (1_500, "1.5 kB"),
            (999, "999 B"),
        ] {
            assert_eq!(bytes(size), text);
        }
    }

    #[test]
    fn lists_are_a_line_of_csv() {
        let items = |text: &str| split_list(text).unwrap();
        assert_eq!(items("a,b"), ["a", "b"]);
        assert_eq!(items("\"http://a:1\""), ["http://a:1"], "as an environment file leaves it");
        assert_eq!(items("\"a,b\",c,\"d\"\"e\""), ["a,b", "c", "d\"e"]);
        assert_eq!(items("a,,b,"), ["a", "", "b", ""]);
        assert_eq!(items("\"\","), ["", ""]);
        let missing = "extraneous or missing \" in quoted-field";
        for (text, column, what) in [
            ("\"http://127.0.0.1:12379", 24, missing),
            ("http://127.0.0.1:12379\"", 23, "bare \" in non-quoted-field"),
            ("\"a\"b", 3, missing),
            ("a,\"b", 5, missing),
        ] {
            let error = format!("parse error on line 1, column {column}: {what}");
            assert_eq!(split_list(text), Err(error), "{text}");
        }
    }
}
