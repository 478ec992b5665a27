//! Whether a member's log goes on where a chain ended: asked by who takes the shipping over.
//!
//! Only names are needed for it. The running digest of a restored cluster begins elsewhere, and an entry
//! has the origin of its proposal in it, which no other proposal has: so term and bytes of the last entry
//! tell one history from another.

use aws_lc_rs::digest::{Context, SHA256};
use keepd_backup::LogPosition;
use keepd_types::Entry;

use super::name::{BatchName, ChainName};

/// The tag of a batch behind which no entry is known.
pub const NO_TAG: u64 = 0;

/// The word in a batch's name that stands for its last entry.
#[must_use]
pub fn tag(since: u64, entry: &Entry) -> u64 {
    let mut sha256 = Context::new(&SHA256);
    for word in [since, entry.index, entry.term, u64::from(entry.kind.number())] {
        sha256.update(&word.to_be_bytes());
    }
    sha256.update(&entry.data);
    let digest = sha256.finish();
    let word = digest.as_ref().first_chunk().copied().map_or(1, u64::from_be_bytes);
    // 0 has a meaning of its own.
    word.max(1)
}

/// The relation of a member's log to a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It goes on where the chain ended.
    GoesOn,
    /// It is of another history.
    Other(&'static str),
    /// Its entries behind the chain's end are gone.
    Released,
}

/// Looks whether a log goes on behind the last batch of a chain. `at_end` is the member's entry there, if
/// it still has it; `has_next` whether it has the one behind, or has come no further.
#[must_use]
pub fn fit(
    own: &LogPosition,
    chain: &ChainName,
    last: &BatchName,
    at_end: Option<&Entry>,
    has_next: bool,
) -> Fit {
    if chain.since != own.since {
        return Fit::Other("its state was restored, or begun anew");
    }
    if last.last > own.index {
        return Fit::Other("it has fewer entries than were shipped");
    }
    match at_end {
        Some(entry) if entry.term != last.term => Fit::Other("its entries are of other terms"),
        Some(entry) if ![NO_TAG, tag(chain.since, entry)].contains(&last.tag) => {
            Fit::Other("its entries are others")
        }
        None if last.tag != NO_TAG => Fit::Released,
        _ if !has_next => Fit::Released,
        _ => Fit::GoesOn,
    }
}

#[cfg(test)]
mod tests {
    use keepd_types::EntryKind;

    use super::super::name::tests::example;
    use super::*;

    #[test]
    fn a_log_goes_on_only_where_it_has_the_same_last_entry() {
        let (chain, last) = example();
        let data = bytes::Bytes::from_static(b"put");
        let entry = Entry { index: last.last, term: last.term, kind: EntryKind::Normal, data };
        let last = BatchName { tag: tag(chain.since, &entry), ..last };
        let own = LogPosition { index: 2000, term: 4, since: chain.since, digest: 5 };
        assert_eq!(fit(&own, &chain, &last, Some(&entry), true), Fit::GoesOn);
        let other = Entry { data: bytes::Bytes::from_static(b"pud"), ..entry };
        assert!(matches!(fit(&own, &chain, &last, Some(&other), true), Fit::Other(_)));
        let other = Entry { term: 4, ..entry.clone() };
        assert!(matches!(fit(&own, &chain, &last, Some(&other), true), Fit::Other(_)));
        let short = LogPosition { index: last.last - 1, ..own };
        assert!(matches!(fit(&short, &chain, &last, None, true), Fit::Other(_)));
        let restored = LogPosition { since: 900, ..own };
        assert!(matches!(fit(&restored, &chain, &last, Some(&entry), true), Fit::Other(_)));
        assert_eq!(fit(&own, &chain, &last, None, true), Fit::Released);
        assert_eq!(fit(&own, &chain, &last, Some(&entry), false), Fit::Released);
        let untagged = BatchName { tag: NO_TAG, ..last };
        assert_eq!(fit(&own, &chain, &untagged, None, true), Fit::GoesOn);
        assert_eq!(fit(&own, &chain, &untagged, None, false), Fit::Released);
    }
}
