//! The tables of texts that this crate reads as Go does. `TestGoTextTables` in `testing/interop`
//! runs the same tables with Go itself.

#![expect(clippy::panic, reason = "a wrong table fails the test")]

use keepd_gotext::{GoDuration, parse_bool, parse_int, parse_uint, quote, unquote_prefix};
use testkit::golden;

fn shown<T: ToString, E: ToString>(result: Result<T, E>) -> String {
    result.map_or_else(|error| error.to_string(), |value| value.to_string())
}

fn duration(text: &str) -> String {
    shown(text.parse::<GoDuration>().map(|parsed| format!("{} {parsed}", parsed.nanos)))
}

/// A line is a function, its base if it has one, and a quoted text.
fn run(input: &str) -> String {
    let start = input.find('"').unwrap_or_else(|| panic!("{input}: no text"));
    let (bytes, _) = unquote_prefix(&input.as_bytes()[start..]).expect("a quoted text");
    let text = || str::from_utf8(&bytes).expect("UTF-8");
    let words: Vec<&str> = input[..start].split_whitespace().collect();
    let base = || words[1].parse().expect("a base");
    match words[0] {
        "bool" => shown(parse_bool(text())),
        "int" => shown(parse_int(text(), base())),
        "uint" => shown(parse_uint(text(), base(), u64::MAX)),
        "uint32" => shown(parse_uint(text(), base(), u32::MAX.into())),
        "duration" => duration(text()),
        "quote" => quote(&bytes),
        "unquote" => match unquote_prefix(&bytes) {
            Some((value, rest)) => format!("{} then {}", quote(value), quote(rest)),
            None => "invalid syntax".to_owned(),
        },
        other => panic!("unknown function {other}"),
    }
}

#[test]
fn durations_are_gos() {
    golden::check_table("tests/golden/durations.txt", run);
}

#[test]
fn numbers_are_gos() {
    golden::check_table("tests/golden/numbers.txt", run);
}

#[test]
fn quoted_strings_are_gos() {
    golden::check_table("tests/golden/quotes.txt", run);
}
