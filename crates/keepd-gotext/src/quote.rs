//! Quoted strings, as `strconv.Quote` writes and `strconv.Unquote` reads them.
//!
//! Byte strings go in and out as bytes: keys and values need not be UTF-8.

use std::fmt::Write as _;

/// Writes bytes as Go's `%q`: double quotes, Go's escapes, `\x` for bytes that are not UTF-8.
#[must_use]
pub fn quote(bytes: impl AsRef<[u8]>) -> String {
    let bytes = bytes.as_ref();
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            push_char(c, &mut out);
        }
        for byte in chunk.invalid() {
            push_hex(u32::from(*byte), &mut out);
        }
    }
    out.push('"');
    out
}

pub(crate) fn push_hex(byte: u32, out: &mut String) {
    write!(out, "\\x{byte:02x}").expect("a string takes everything");
}

fn push_char(c: char, out: &mut String) {
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
        '\0'..='\x7f' => push_hex(u32::from(c), out),
        _ if is_printable(c) => out.push(c),
        _ => {
            let code = u32::from(c);
            let width = if code < 0x10000 { 4 } else { 8 };
            let letter = if code < 0x10000 { 'u' } else { 'U' };
            write!(out, "\\{letter}{code:0width$x}").expect("a string takes everything");
        }
    }
}

/// Whether Go prints the character. After a letter, std escapes exactly what does not print. The
/// two differ in characters that Unicode has had for a few years only.
fn is_printable(c: char) -> bool {
    let text = String::from_iter(['a', c]);
    text.escape_debug().count() == 2
}

/// Reads one quoted string, in double or back quotes, at the start of `text`: its bytes, and the
/// rest after it. Bytes that are not UTF-8 read as U+FFFD, as in Go.
#[must_use]
pub fn unquote_prefix(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (&mark, mut rest) = text.split_first()?;
    let mut out = Vec::new();
    if mark == b'`' {
        let end = rest.iter().position(|byte| *byte == b'`')?;
        push_plain(&rest[..end], &mut out);
        return Some((out, &rest[end + 1..]));
    }
    if mark != b'"' {
        return None;
    }
    loop {
        let plain_len = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | b'\n'))?;
        let (plain, after) = rest.split_at(plain_len);
        push_plain(plain, &mut out);
        rest = match after {
            [b'"', after @ ..] => return Some((out, after)),
            [b'\\', after @ ..] => unescape(after, &mut out)?,
            _ => return None,
        };
    }
}

fn push_plain(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        out.extend_from_slice(chunk.valid().as_bytes());
        for _ in chunk.invalid() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// Reads the escape after a backslash.
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

/// Two and three digits are a byte, four and eight a code point.
fn unescape_number<'a>(
    text: &'a [u8],
    len: usize,
    radix: u32,
    out: &mut Vec<u8>,
) -> Option<&'a [u8]> {
    let (digits, rest) = text.split_at_checked(len)?;
    let number = digits.iter().try_fold(0_u32, |number, digit| {
        Some(number.wrapping_mul(radix) + char::from(*digit).to_digit(radix)?)
    })?;
    if len < 4 {
        out.push(u8::try_from(number).ok()?);
    } else {
        let mut buffer = [0; 4];
        out.extend_from_slice(char::from_u32(number)?.encode_utf8(&mut buffer).as_bytes());
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_quoted_reads_back(bytes: Vec<u8>, rest: Vec<u8>) {
            let mut text = quote(&bytes).into_bytes();
            text.extend_from_slice(&rest);
            prop_assert_eq!(unquote_prefix(&text), Some((bytes, rest.as_slice())));
        }

        #[test]
        fn any_bytes_read_or_not(text: Vec<u8>) {
            let _ = unquote_prefix(&text);
            let _ = unquote_prefix(&[b"\"".as_slice(), &text].concat());
        }
    }
}
