//! Names of chains and batches.
//!
//! ```text
//! chain   <begin>-<since>-<random>
//! batch   <first>-<last>-<number>-<term>-<revision>-<from>-<until>-<tag>.log.zst.age
//! ```
//!
//! First and last index have 20 digits, so that names sort in the order of the log. A batch without entries
//! tells that there were none: its last index is the one before its first. Without `.age` it is plain.

use std::fmt;
use std::str::FromStr;

use crate::Moment;
use crate::name::LOG_FOLDER;

const PLAIN_ENDING: &str = ".log.zst";
const SEALED_ENDING: &str = ".log.zst.age";
/// Digits of an index.
const INDEX_LEN: usize = 20;

/// The name of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainName {
    /// The moment that it was begun.
    pub begin: Moment,
    /// The entry after which the running digest of the cluster begins: another one is another history.
    pub since: u64,
    /// Drawn at random.
    pub random: u32,
}

/// The name of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchName {
    /// The index of its first entry.
    pub first: u64,
    /// The index of its last entry.
    pub last: u64,
    /// Its number in the chain.
    pub number: u64,
    /// The term of the last entry.
    pub term: u64,
    /// The revision at its last mark.
    pub revision: i64,
    /// The moment of its first mark.
    pub from: Moment,
    /// The moment at which nothing more was committed than what it ends with.
    pub until: Moment,
    /// A word of the last entry, by which a log that goes on there is known.
    pub tag: u64,
    /// Whether its content is sealed.
    pub is_sealed: bool,
}

/// The folder of a cluster's chains.
#[must_use]
pub fn log_folder(cluster: u64) -> String {
    format!("{cluster:016x}/{LOG_FOLDER}")
}

impl ChainName {
    /// The folder of its batches.
    #[must_use]
    pub fn folder(&self, cluster: u64) -> String {
        format!("{}/{self}", log_folder(cluster))
    }
}

impl BatchName {
    /// The key of its object below the destination.
    #[must_use]
    pub fn key(&self, cluster: u64, chain: &ChainName) -> String {
        format!("{}/{self}", chain.folder(cluster))
    }

    /// The number of its entries.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.last + 1 - self.first
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{:08x}", self.begin.compact(), self.since, self.random)
    }
}

impl fmt::Display for BatchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last, number, term, revision, from, until, tag, is_sealed } = self;
        let (from, until) = (from.compact(), until.compact());
        let ending = if *is_sealed { SEALED_ENDING } else { PLAIN_ENDING };
        write!(
            f,
            "{first:0INDEX_LEN$}-{last:0INDEX_LEN$}-{number}-{term}-{revision}-{from}-{until}-{tag:016x}{ending}"
        )
    }
}

/// A text that names no chain or batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a chain or batch of the log")]
pub struct NotAName;

impl FromStr for ChainName {
    type Err = NotAName;

    /// Reads a whole name; what is not written exactly as [`ChainName`] writes it is none.
    fn from_str(text: &str) -> Result<Self, NotAName> {
        parse_chain(text).filter(|name| name.to_string() == text).ok_or(NotAName)
    }
}

impl FromStr for BatchName {
    type Err = NotAName;

    /// Reads a whole name; what is not written exactly as [`BatchName`] writes it is none.
    fn from_str(text: &str) -> Result<Self, NotAName> {
        parse_batch(text).filter(|name| name.to_string() == text).ok_or(NotAName)
    }
}

fn parse_chain(text: &str) -> Option<ChainName> {
    let mut parts = text.split('-');
    let begin = Moment::parse_compact(parts.next()?)?;
    let since = parts.next()?.parse().ok()?;
    let random = u32::from_str_radix(parts.next()?, 16).ok()?;
    parts.next().is_none().then_some(ChainName { begin, since, random })
}

fn parse_batch(text: &str) -> Option<BatchName> {
    let (stem, is_sealed) = match text.strip_suffix(SEALED_ENDING) {
        Some(stem) => (stem, true),
        None => (text.strip_suffix(PLAIN_ENDING)?, false),
    };
    let mut parts = stem.split('-');
    let name = BatchName {
        first: parts.next()?.parse().ok()?,
        last: parts.next()?.parse().ok()?,
        number: parts.next()?.parse().ok()?,
        term: parts.next()?.parse().ok()?,
        revision: parts.next()?.parse().ok()?,
        from: Moment::parse_compact(parts.next()?)?,
        until: Moment::parse_compact(parts.next()?)?,
        tag: u64::from_str_radix(parts.next()?, 16).ok()?,
        is_sealed,
    };
    let is_range = name.first > 0 && name.last.checked_add(1)? >= name.first;
    (parts.next().is_none() && is_range && name.revision >= 0).then_some(name)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn example() -> (ChainName, BatchName) {
        let from: Moment = "2026-11-28T00:53:36.123Z".parse().unwrap();
        let until = "2026-11-28T00:53:40.123Z".parse().unwrap();
        let chain = ChainName { begin: from, since: 1, random: 0xab };
        let batch = BatchName {
            first: 1001,
            last: 1010,
            number: 7,
            term: 3,
            revision: 118_206,
            from,
            until,
            tag: 0xff,
            is_sealed: true,
        };
        (chain, batch)
    }

    #[test]
    fn keys_and_what_is_foreign() {
        let (chain, batch) = example();
        assert_eq!(
            batch.key(0xaa, &chain),
            "00000000000000aa/log/20261128T005336123Z-1-000000ab/\
             00000000000000001001-00000000000000001010-7-3-118206-20261128T005336123Z-\
             20261128T005340123Z-00000000000000ff.log.zst.age"
        );
        let text = batch.to_string();
        for foreign in [
            text.replace("-7-", "-07-"),
            text.replace("00000000000000001010", "00000000000000000999"),
            text.replace("-118206-", "--1-"),
            text.replace(".age", ".age.partial"),
            format!("{text}-1"),
            text[1..].to_owned(),
            String::new(),
        ] {
            assert!(foreign.parse::<BatchName>().is_err(), "{foreign}");
        }
        for foreign in ["20261128T005336123Z-1", "20261128T005336123Z-01-000000ab", "x-1-000000ab"]
        {
            assert!(foreign.parse::<ChainName>().is_err(), "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn names_come_back_and_sort_in_the_order_of_the_log(
            first in 1..u64::MAX, len in 0..1000_u64, other in 1..u64::MAX,
            number: u64, term: u64, revision in 0..i64::MAX, tag: u64, is_sealed: bool,
        ) {
            let last = first.saturating_add(len) - 1;
            let one =
                BatchName { first, last, number, term, revision, tag, is_sealed, ..example().1 };
            prop_assert_eq!(one.to_string().parse(), Ok(one));
            let other = BatchName { first: other, last: other, ..one };
            if first != other.first {
                prop_assert_eq!(one.to_string().cmp(&other.to_string()), first.cmp(&other.first));
            }
        }

        #[test]
        fn any_text_is_read_without_harm(text in ".{0,160}") {
            let _ = text.parse::<BatchName>();
            let _ = text.parse::<ChainName>();
        }
    }
}
