//! Names of a backup's objects below a destination.
//!
//! ```text
//! <cluster id>/base/<time>-<revision>-<kind>.snap.zst.age         the backup
//! <cluster id>/base/<time>-<revision>-<kind>.snap.zst.age.json    its sidecar
//! ```
//!
//! Without `.age` it is plain. Names sort in the order of time. `log/` beside `base/` has the shipped log
//! ([`crate::log`]).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Moment;

const FOLDER: &str = "base";
/// The folder beside it that has the shipped log; see [`crate::log`].
pub(crate) const LOG_FOLDER: &str = "log";
const PLAIN_ENDING: &str = ".snap.zst";
const SEALED_ENDING: &str = ".snap.zst.age";
const SIDECAR_ENDING: &str = ".json";

/// The one that asked for a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A schedule; retention may remove it.
    Scheduled,
    /// A person; it is kept until it is deleted by name.
    OnDemand,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::OnDemand => "ondemand",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheduled => "scheduled",
            Self::OnDemand => "on demand",
        })
    }
}

/// The name of a backup, without its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// The moment that it was begun.
    pub time: Moment,
    /// The revision of its state.
    pub revision: i64,
    /// The one that asked for it.
    pub kind: Kind,
    /// Whether its content is sealed.
    pub is_sealed: bool,
}

impl Name {
    /// The key of its object below the destination.
    #[must_use]
    pub fn key(&self, cluster: u64) -> String {
        format!("{cluster:016x}/{FOLDER}/{self}")
    }

    /// The key of its sidecar.
    #[must_use]
    pub fn sidecar_key(&self, cluster: u64) -> String {
        format!("{}{SIDECAR_ENDING}", self.key(cluster))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ending = if self.is_sealed { SEALED_ENDING } else { PLAIN_ENDING };
        let (time, kind) = (self.time.compact(), self.kind.word());
        write!(f, "{time}-{}-{kind}{ending}", self.revision)
    }
}

/// A text that names no backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not the name of a backup, as `keepd backup list` tells them")]
pub struct NotAName;

impl FromStr for Name {
    type Err = NotAName;

    /// Reads a whole name; what is not written exactly as [`Name`] writes it is none.
    fn from_str(text: &str) -> Result<Self, NotAName> {
        parse(text).filter(|name| name.to_string() == text).ok_or(NotAName)
    }
}

fn parse(text: &str) -> Option<Name> {
    let (stem, is_sealed) = match text.strip_suffix(SEALED_ENDING) {
        Some(stem) => (stem, true),
        None => (text.strip_suffix(PLAIN_ENDING)?, false),
    };
    let mut parts = stem.split('-');
    let time = Moment::parse_compact(parts.next()?)?;
    let revision = parts.next()?.parse().ok()?;
    let word = parts.next()?;
    let kind = [Kind::Scheduled, Kind::OnDemand].into_iter().find(|kind| kind.word() == word)?;
    parts.next().is_none().then_some(Name { time, revision, kind, is_sealed })
}

/// The part of a backup that lies under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its content.
    Object,
    /// Its sidecar.
    Sidecar,
}

/// Reads the folder of a cluster; none if it is foreign.
#[must_use]
pub(crate) fn parse_cluster(folder: &str) -> Option<u64> {
    let id = u64::from_str_radix(folder, 16).ok()?;
    (format!("{id:016x}") == folder).then_some(id)
}

/// Reads the key of an object below the destination; none if it is foreign.
#[must_use]
pub fn parse_key(key: &str) -> Option<(u64, Name, Part)> {
    let (cluster, rest) = key.split_once('/')?;
    let cluster_id = parse_cluster(cluster)?;
    let rest = rest.strip_prefix(FOLDER)?.strip_prefix('/')?;
    let (rest, part) = match rest.strip_suffix(SIDECAR_ENDING) {
        Some(rest) => (rest, Part::Sidecar),
        None => (rest, Part::Object),
    };
    Some((cluster_id, rest.parse().ok()?, part))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> impl Strategy<Value = Name> {
        let kinds = prop_oneof![Just(Kind::Scheduled), Just(Kind::OnDemand)];
        (0..253_402_300_799_999_i64, 0..i64::MAX, kinds, any::<bool>()).prop_map(
            |(millis, revision, kind, is_sealed)| Name {
                time: Moment::of_millis(millis),
                revision,
                kind,
                is_sealed,
            },
        )
    }

    #[test]
    fn keys_and_what_is_foreign() {
        let name = Name {
            time: "2026-11-28T00:53:36.123Z".parse().unwrap(),
            revision: 118_206,
            kind: Kind::OnDemand,
            is_sealed: true,
        };
        let key = "00000000000000aa/base/20261128T005336123Z-118206-ondemand.snap.zst.age";
        assert_eq!(name.key(0xaa), key);
        assert_eq!(parse_key(key), Some((0xaa, name, Part::Object)));
        assert_eq!(parse_key(&format!("{key}.json")), Some((0xaa, name, Part::Sidecar)));
        for foreign in [
            "aa/base/20261128T005336123Z-118206-ondemand.snap.zst.age",
            "00000000000000AA/base/20261128T005336123Z-118206-ondemand.snap.zst.age",
            "00000000000000aa/log/20261128T005336123Z-118206-ondemand.snap.zst.age",
            "00000000000000aa/base/20261128T005336123Z-0118206-ondemand.snap.zst.age",
            "00000000000000aa/base/20261128T005336123Z-+18206-ondemand.snap.zst.age",
            "00000000000000aa/base/20261128T005336123Z-118206-ondemand.snap.zst.age.tmp",
            "00000000000000aa/base/20261128T005336123Z-118206-ondemand-x.snap.zst.age",
            "00000000000000aa/base/x/20261128T005336123Z-118206-ondemand.snap.zst.age",
            "etcd-snapshot-node1-1700000000",
            "",
        ] {
            assert_eq!(parse_key(foreign), None, "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn names_come_back_and_sort_in_the_order_of_time(one in names(), other in names()) {
            prop_assert_eq!(parse_key(&one.key(7)), Some((7, one, Part::Object)));
            prop_assert_eq!(parse_key(&one.sidecar_key(7)), Some((7, one, Part::Sidecar)));
            if one.time != other.time {
                prop_assert_eq!(one.key(7).cmp(&other.key(7)), one.time.cmp(&other.time));
            }
        }

        #[test]
        fn any_text_is_read_without_harm(text in ".{0,100}") {
            if let Some((cluster, name, Part::Object)) = parse_key(&text) {
                prop_assert_eq!(name.key(cluster), text);
            }
        }
    }
}
