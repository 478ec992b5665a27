//! Splits a line into words, as the interactive modes of `txn` and `watch` read them.
//!
//! A word is a double-quoted string with Go's escapes, a single-quoted string taken as it is, or a
//! run of characters up to the next space; quotes inside such a run mean nothing.

use bytes::Bytes;
use keepd_gotext::unquote_prefix;

use crate::engine::exit::{Exit, INVALID_INPUT};

/// Splits a line. A double-quoted word with a bad escape is an error.
pub(super) fn split(line: &[u8]) -> Result<Vec<Bytes>, Exit> {
    let mut words = Vec::new();
    let mut rest = line;
    while let Some(&first) = rest.first() {
        let quoted = match first {
            b'"' => closing(rest),
            b'\'' => rest[1..].iter().position(|byte| *byte == b'\'').map(|end| end + 2),
            _ => None,
        };
        match (first, quoted) {
            (b'"', Some(len)) => {
                let (word, _) = unquote_prefix(&rest[..len])
                    .ok_or_else(|| Exit::new(INVALID_INPUT, "invalid syntax"))?;
                words.push(word.into());
                rest = &rest[len..];
            }
            (b'\'', Some(len)) => {
                words.push(Bytes::copy_from_slice(&rest[1..len - 1]));
                rest = &rest[len..];
            }
            // An unclosed quote, like a space, separates words.
            (b'"' | b'\'', None) => rest = &rest[1..],
            (byte, _) if byte.is_ascii_whitespace() => rest = &rest[1..],
            _ => {
                let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
                words.push(Bytes::copy_from_slice(&rest[..end]));
                rest = &rest[end..];
            }
        }
    }
    Ok(words)
}

/// The length of the double-quoted string at the start, its quotes included.
fn closing(text: &[u8]) -> Option<usize> {
    let mut position = 1;
    loop {
        match text.get(position)? {
            b'"' => return Some(position + 1),
            b'\\' => position += 2,
            _ => position += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_words_together() {
        let check = |line: &str, expected: &[&'static str]| {
            let words = split(line.as_bytes()).unwrap();
            assert_eq!(words, expected.iter().map(|w| Bytes::from(*w)).collect::<Vec<_>>());
        };
        check("put  a b", &["put", "a", "b"]);
        check("put \"a b\" 'c \"d'", &["put", "a b", "c \"d"]);
        check(r#"put "a\"b\n" x=y"#, &["put", "a\"b\n", "x=y"]);
        check("", &[]);
        check("watch foo -- echo hi", &["watch", "foo", "--", "echo", "hi"]);
    }
}
