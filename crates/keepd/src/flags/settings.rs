//! The text given for each flag, checked against the flag's kind when it is set.

use std::collections::BTreeMap;
use std::time::Duration;

use keepd_gotext::{
    GoDuration, NumberError, NumberErrorKind, parse_bool, parse_int, parse_uint, quote,
};

use super::gates::FeatureGates;
use super::table::{self, Flag, Kind};
use super::urls::{Url, parse_urls};

/// The values that were given; everything else has its default.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    given: BTreeMap<&'static str, String>,
    is_from_file: bool,
}

impl Settings {
    /// Settings of a configuration file.
    pub(super) fn from_file() -> Self {
        Self { is_from_file: true, ..Self::default() }
    }

    /// Whether they come from a configuration file.
    pub(super) const fn is_from_file(&self) -> bool {
        self.is_from_file
    }

    /// Sets a flag after checking the value; a later setting replaces an earlier one,
    /// or adds to it if the flag may be repeated.
    pub(super) fn set(&mut self, flag: &Flag, value: &str) -> Result<(), String> {
        check(flag.kind, value)?;
        if flag.kind == Kind::Urls && value.is_empty() {
            // As in etcd an empty list of URLs leaves what there was, and counts as given.
            self.given.entry(flag.name).or_insert_with(|| flag.default.to_owned());
        } else if flag.kind == Kind::Repeated {
            // Taking the last one alone would leave the others out without a word.
            let given = self.given.entry(flag.name).or_default();
            if !given.is_empty() {
                given.push(',');
            }
            given.push_str(value);
        } else {
            self.given.insert(flag.name, value.to_owned());
        }
        Ok(())
    }

    /// Whether a flag was given, be it its default.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The flags that were given.
    pub(super) fn given(&self) -> impl Iterator<Item = (&'static Flag, &str)> {
        self.given.iter().map(|(name, value)| (table::by_name(name), value.as_str()))
    }

    /// The value or the default.
    pub(super) fn text(&self, name: &str) -> &str {
        let default = table::by_name(name).default;
        self.given.get(name).map_or(default, String::as_str)
    }

    pub(super) fn is_true(&self, name: &str) -> bool {
        parse_bool(self.text(name)).expect("checked when set")
    }

    pub(super) fn uint(&self, name: &str) -> u64 {
        parse_uint(self.text(name), 0, u64::MAX).expect("checked when set")
    }

    pub(super) fn int(&self, name: &str) -> i64 {
        parse_int(self.text(name), 0).expect("checked when set")
    }

    /// A duration, which may be negative.
    pub(super) fn go_duration(&self, name: &str) -> GoDuration {
        self.text(name).parse().expect("checked when set")
    }

    /// A duration; negative ones count as zero.
    pub(super) fn duration(&self, name: &str) -> Duration {
        self.go_duration(name).or_zero()
    }

    /// A number of milliseconds.
    pub(super) fn millis(&self, name: &str) -> Duration {
        Duration::from_millis(self.uint(name))
    }

    pub(super) fn urls(&self, name: &str) -> Vec<Url> {
        match self.text(name) {
            "" | "*" => Vec::new(),
            text => parse_urls(text).expect("checked when set"),
        }
    }

    /// A comma-separated list without empty items.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let items = self.text(name).split(',').map(str::trim);
        items.filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    pub(super) fn gates(&self) -> FeatureGates {
        FeatureGates::parse(self.text("feature-gates")).expect("checked when set")
    }
}

/// The text of Go's `flag` for a value that is not written as its type, whatever the reason.
const PARSE_ERROR: &str = "parse error";

/// The error as Go's `flag` shows it.
fn short(error: NumberError) -> String {
    match error.kind {
        NumberErrorKind::Syntax => PARSE_ERROR.to_owned(),
        NumberErrorKind::Range => error.kind.to_string(),
    }
}

fn check(kind: Kind, value: &str) -> Result<(), String> {
    match kind {
        Kind::Text | Kind::List | Kind::Repeated => Ok(()),
        Kind::Bool => parse_bool(value).map(|_| ()).map_err(short),
        Kind::Uint => parse_uint(value, 0, u64::MAX).map(|_| ()).map_err(short),
        // etcd's own value type shows the whole error of strconv.
        Kind::Uint32 => {
            let number = parse_uint(value, 0, u32::MAX.into());
            number.map(|_| ()).map_err(|error| error.to_string())
        }
        Kind::Int => parse_int(value, 0).map(|_| ()).map_err(short),
        Kind::Duration => {
            value.parse::<GoDuration>().map(|_| ()).map_err(|_hidden| PARSE_ERROR.to_owned())
        }
        Kind::Urls if value.is_empty() => Ok(()),
        Kind::UrlsOrStar if value == "*" => Ok(()),
        Kind::Urls | Kind::UrlsOrStar => parse_urls(value).map(|_| ()),
        Kind::OneOf(choices) => {
            choices.contains(&value).then_some(()).ok_or_else(|| "invalid value".to_owned())
        }
        Kind::ListOf(choices) => {
            let bad = value.split(',').find(|item| !choices.contains(item));
            bad.map_or(Ok(()), |item| Err(format!("invalid value {}", quote(item))))
        }
        Kind::Gates => FeatureGates::parse(value).map(|_| ()),
    }
}
