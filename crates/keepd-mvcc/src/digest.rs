//! The running digest: one number for everything that was applied, so that members can be compared.
//!
//! Members that applied the same log have the same digest at the same index, and one that differs has
//! read another entry or come to another revision by it: it must not serve on. Every entry is mixed in
//! as it is applied, and a flush makes the digest durable with the applied index, so a start goes on
//! with it. A store that was filled otherwise has no past to digest and begins anew: a restored
//! snapshot, and a store of a version that knew no digest.

use bytes::Bytes;

use crate::meta::{Meta, MetaOp};
use crate::record::Applied;
use crate::revlog::wire::Reader;

/// The store's own meta table; the others are numbered by whoever writes them.
pub(crate) const OWN_TABLE: u8 = u8::MAX;
/// The entry of [`OWN_TABLE`] that holds the digest.
const KEY: &[u8] = b"digest";
/// The format of that entry, and the function of [`Digest::next`].
const VERSION: u8 = 1;
/// Added between two words: the fraction of the golden ratio, as in `SplitMix64`.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Digest of the entries after `since`, up to the applied index. Two of them are comparable if both
/// indexes are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// The index after which it begins.
    pub since: u64,
    /// The last entry that is in it.
    pub index: u64,
    /// The digest; 0 before the first entry.
    pub value: u64,
}

impl Digest {
    /// The digest of nothing, from an applied index on.
    #[must_use]
    pub const fn begin(index: u64) -> Self {
        Self { since: index, index, value: 0 }
    }

    /// The digest with one more entry: its index and term, its bytes in the log, and the main revision
    /// of the store once it is applied. The only definition; another one needs another version.
    #[must_use]
    pub fn next(self, at: Applied, entry: &[u8], revision: i64) -> Self {
        let bytes = (entry.len() as u64) << 32 | u64::from(crc32c::crc32c(entry));
        let words = [at.index, at.term, bytes, revision.cast_unsigned()];
        let value = words.into_iter().fold(self.value, |value, word| mix(value ^ word));
        Self { index: at.index, value, ..self }
    }

    /// The write that makes it durable with the flush at its index.
    pub(crate) fn to_op(self) -> MetaOp {
        let mut value = vec![VERSION];
        for word in [self.since, self.index, self.value] {
            value.extend_from_slice(&word.to_le_bytes());
        }
        MetaOp { table: OWN_TABLE, key: Bytes::from_static(KEY), value: Some(value.into()) }
    }

    /// The digest of a recovered store; anew if it has none for its applied index.
    pub(crate) fn of(meta: &Meta, applied: Applied) -> Self {
        let stored = meta.table(OWN_TABLE).get(KEY).and_then(|value| Self::decode(value));
        stored.filter(|it| it.index == applied.index).unwrap_or_else(|| Self::begin(applied.index))
    }

    /// `None` for another version: its function is not this one.
    fn decode(value: &[u8]) -> Option<Self> {
        let mut from = Reader(value);
        (from.u8()? == VERSION).then_some(())?;
        let digest = Self { since: from.u64()?, index: from.u64()?, value: from.u64()? };
        from.is_empty().then_some(digest)
    }
}

/// The mixing step of `SplitMix64`: every bit of the result depends on every bit of the argument.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(STEP);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Members of different versions are compared: this value stays as long as [`VERSION`] does.
    #[test]
    fn the_digest_of_a_fixed_log_is_this_one() {
        let log: [&[u8]; 4] = [b"", b"a", b"put foo bar", &[0; 300]];
        let mut digest = Digest::begin(1);
        for (index, entry) in (2..).zip(log) {
            let revision = i64::from(index - 1);
            let at = Applied { index: index.into(), term: u64::from(1 + index / 4_u32) };
            digest = digest.next(at, entry, revision);
        }
        assert_eq!(digest, Digest { since: 1, index: 5, value: 16_385_388_877_881_502_204 });
    }

    proptest! {
        #[test]
        fn a_digest_round_trips_and_any_change_shows(
            since: u64, index in 1_u64.., value: u64, term: u64, entry: Vec<u8>, revision: i64,
        ) {
            let digest = Digest { since, index, value };
            let mut meta = Meta::default();
            meta.apply(digest.to_op());
            prop_assert_eq!(Digest::of(&meta, Applied { index, term }), digest);
            let later = index.wrapping_add(1);
            prop_assert_eq!(Digest::of(&meta, Applied { index: later, term }), Digest::begin(later));

            let at = Applied { index: later, term };
            let next = digest.next(at, &entry, revision).value;
            let longer = [entry.as_slice(), &[0]].concat();
            prop_assert_ne!(digest.next(at, &longer, revision).value, next);
            prop_assert_ne!(digest.next(at, &entry, revision ^ 1).value, next);
            prop_assert_ne!(digest.next(Applied { term: term ^ 1, ..at }, &entry, revision).value, next);
        }

        #[test]
        fn hostile_bytes_never_panic(value: Vec<u8>) {
            let _ = Digest::decode(&value);
        }
    }
}
