//! Go's `flag` package: the syntax of arguments.

use keepd_gotext::quote;

use super::settings::Settings;
use super::table::{self, Kind};

/// The reason why an argument list is not parsed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ArgumentError {
    /// `-h` or `--help`.
    Help,
    /// The text to print above the usage.
    Bad(String),
}

/// Sets the flags of the arguments and returns the arguments after them.
pub(super) fn parse_arguments<'a>(
    args: &'a [String],
    settings: &mut Settings,
) -> Result<&'a [String], ArgumentError> {
    let mut rest = args;
    while let Some((argument, after)) = rest.split_first() {
        let Some(body) = argument.strip_prefix('-').filter(|body| !body.is_empty()) else {
            return Ok(rest);
        };
        let body = body.strip_prefix('-').unwrap_or(body);
        if body.is_empty() {
            return Ok(after);
        }
        if body.starts_with(['-', '=']) {
            return Err(ArgumentError::Bad(format!("bad flag syntax: {argument}")));
        }
        let (name, given) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        rest = set(name, given, after, settings)?;
    }
    Ok(rest)
}

/// Sets one flag; returns the arguments after it and its value.
fn set<'a>(
    name: &str,
    given: Option<&str>,
    after: &'a [String],
    settings: &mut Settings,
) -> Result<&'a [String], ArgumentError> {
    let bad = |text: String| Err(ArgumentError::Bad(text));
    let Some(flag) = table::by_argument(name) else {
        if matches!(name, "h" | "help") {
            return Err(ArgumentError::Help);
        }
        if table::is_ignored(name) {
            return Ok(after);
        }
        return bad(format!("flag provided but not defined: -{name}"));
    };
    let (value, after) = match (flag.kind, given, after.split_first()) {
        (_, Some(value), _) => (value, after),
        (Kind::Bool, None, _) => ("true", after),
        (_, None, Some((value, after))) => (value.as_str(), after),
        (_, None, None) => return bad(format!("flag needs an argument: -{name}")),
    };
    match settings.set(flag, value) {
        Ok(()) => Ok(after),
        Err(error) if flag.kind == Kind::Bool => {
            bad(format!("invalid boolean value {} for -{name}: {error}", quote(value)))
        }
        Err(error) => bad(format!("invalid value {} for flag -{name}: {error}", quote(value))),
    }
}
