//! Booleans and whole numbers, as `strconv.ParseBool`, `ParseInt` and `ParseUint` read them.

use std::fmt;

use crate::quote;

/// A text that is no such number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberError {
    /// The function of Go's `strconv`.
    pub function: &'static str,
    /// The text.
    pub text: String,
    /// The reason.
    pub kind: NumberErrorKind,
}

/// The reason why a text is no such number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NumberErrorKind {
    /// It is not written as one.
    #[error("invalid syntax")]
    Syntax,
    /// It is too large or too small for its type.
    #[error("value out of range")]
    Range,
}

impl fmt::Display for NumberError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "strconv.{}: parsing {}: {}", self.function, quote(&self.text), self.kind)
    }
}

impl std::error::Error for NumberError {}

/// Reads a boolean: `1`, `t`, `T`, `true`, `True`, `TRUE` and their opposites.
///
/// # Errors
/// Anything else.
pub fn parse_bool(text: &str) -> Result<bool, NumberError> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(error("ParseBool", text, NumberErrorKind::Syntax)),
    }
}

/// Reads a signed number of 64 bits. With base 0 the text says its base, as Go's literals do:
/// `0x10`, `0b1`, `0o17`, `017`, `1_000`.
///
/// # Errors
/// If it is not written as a number of that base, or out of range.
pub fn parse_int(text: &str, base: u32) -> Result<i64, NumberError> {
    let (is_negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let signed = match magnitude(digits, base, u64::MAX) {
        Ok(magnitude) if is_negative => 0_i64.checked_sub_unsigned(magnitude),
        Ok(magnitude) => i64::try_from(magnitude).ok(),
        Err(NumberErrorKind::Range) => None,
        Err(kind) => return Err(error("ParseInt", text, kind)),
    };
    signed.ok_or_else(|| error("ParseInt", text, NumberErrorKind::Range))
}

/// Reads an unsigned number of at most `max`, without a sign. With base 0 the text says its base.
///
/// # Errors
/// If it is not written as a number of that base, or out of range.
pub fn parse_uint(text: &str, base: u32, max: u64) -> Result<u64, NumberError> {
    magnitude(text, base, max).map_err(|kind| error("ParseUint", text, kind))
}

fn error(function: &'static str, text: &str, kind: NumberErrorKind) -> NumberError {
    NumberError { function, text: text.to_owned(), kind }
}

/// The digits are read from the left, and the first that is wrong decides: a number that is too
/// large already is out of range, whatever comes after it.
fn magnitude(text: &str, base: u32, max: u64) -> Result<u64, NumberErrorKind> {
    if text.is_empty() {
        return Err(NumberErrorKind::Syntax);
    }
    let (radix, digits) = if base == 0 { split_base(text) } else { (base, text) };
    let mut number = 0_u64;
    for byte in digits.bytes() {
        if byte == b'_' && base == 0 {
            continue;
        }
        let digit = char::from(byte).to_digit(radix).ok_or(NumberErrorKind::Syntax)?;
        let next = number.checked_mul(u64::from(radix));
        let next = next.and_then(|next| next.checked_add(u64::from(digit)));
        number = next.filter(|next| *next <= max).ok_or(NumberErrorKind::Range)?;
    }
    if base == 0 && !has_sound_underscores(text, radix) {
        return Err(NumberErrorKind::Syntax);
    }
    Ok(number)
}

/// The base that a literal's prefix says, and what follows the prefix.
fn split_base(text: &str) -> (u32, &str) {
    match text.as_bytes() {
        [b'0', b'x' | b'X', _, ..] => (16, &text[2..]),
        [b'0', b'b' | b'B', _, ..] => (2, &text[2..]),
        [b'0', b'o' | b'O', _, ..] => (8, &text[2..]),
        [b'0', ..] => (8, &text[1..]),
        _ => (10, text),
    }
}

/// Whether every underscore stands between two digits; a base prefix counts as a digit.
fn has_sound_underscores(text: &str, radix: u32) -> bool {
    let is_digit = |byte: &u8| char::from(*byte).is_digit(radix.max(10));
    let has_prefix = radix != 10 && text.as_bytes().get(1).is_some_and(u8::is_ascii_alphabetic);
    let digits = &text.as_bytes()[if has_prefix { 2 } else { 0 }..];
    digits.iter().enumerate().filter(|(_, byte)| **byte == b'_').all(|(position, _)| {
        let before = position.checked_sub(1).map_or(has_prefix, |at| is_digit(&digits[at]));
        before && digits.get(position + 1).is_some_and(is_digit)
    })
}
