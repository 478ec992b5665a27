//! etcd's hash of the records, computed without opening a value.
//!
//! CRC-32C over `key`, then every record's key (see [`Revision::to_bytes`]) and encoded
//! `mvccpb.KeyValue`. A sealed value takes part as its plaintext does: the mark holds the
//! plaintext's length and checksum, which are combined with those of the bytes around it
//! (design rule 4). So sealing, re-sealing and lacking the key change no hash.

use keepd_types::{KeyValue, Revision};

use crate::record::Record;

/// The Castagnoli polynomial, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// The name of the bucket, which etcd hashes first.
const BUCKET: &[u8] = b"key";

/// A hash of records in revision order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordsHash(u32);

impl RecordsHash {
    pub(crate) fn new() -> Self {
        Self(crc32c::crc32c(BUCKET))
    }

    pub(crate) const fn finish(self) -> u32 {
        self.0
    }

    /// Adds a record; `false` if it is sealed and not a `KeyValue`.
    #[must_use]
    pub(crate) fn add(&mut self, revision: Revision, record: &Record) -> bool {
        let (key, len) = revision.to_bytes(record.tombstone);
        self.0 = crc32c::crc32c_append(self.0, &key[..len]);
        let Some(seal) = record.seal else {
            self.0 = crc32c::crc32c_append(self.0, &record.encoded);
            return true;
        };
        let Ok(kv) = KeyValue::decode(&record.encoded) else { return false };
        let mut around = Vec::with_capacity(kv.key.len() + 64);
        kv.encode_before_value(seal.plain.len as usize, &mut around);
        self.0 = crc32c::crc32c_append(self.0, &around);
        self.0 = combine(self.0, seal.plain.crc32c, seal.plain.len);
        around.clear();
        kv.encode_after_value(&mut around);
        self.0 = crc32c::crc32c_append(self.0, &around);
        true
    }
}

/// The checksum of two byte strings, one after the other, from theirs.
pub(crate) fn combine(first: u32, second: u32, second_len: u32) -> u32 {
    // Appending n bytes multiplies by x^(8n) modulo the polynomial.
    let mut power = ONE;
    for bit in 0..32_usize {
        if second_len >> bit & 1 == 1 {
            power = multiply(SQUARES[(bit + 3) % SQUARES.len()], power);
        }
    }
    multiply(power, first) ^ second
}

/// x^0; the highest bit is the lowest power.
const ONE: u32 = 1 << 31;

/// `SQUARES[k]` = x^(2^k); the order of x divides 2^31 - 1, so that 31 of them repeat.
const SQUARES: [u32; 31] = {
    let mut squares = [1 << 30; 31];
    let mut k = 1;
    while k < squares.len() {
        squares[k] = multiply(squares[k - 1], squares[k - 1]);
        k += 1;
    }
    squares
};

/// The product of two polynomials modulo the checksum's.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = ONE;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        bit >>= 1;
        b = if b & 1 == 1 { (b >> 1) ^ POLYNOMIAL } else { b >> 1 };
    }
    product
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use keepd_types::{KeyId, LeaseId, PlainDigest, SealMark};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn combining_equals_hashing_both(a: Vec<u8>, b in prop::collection::vec(any::<u8>(), 0..5000)) {
            let both = [a.as_slice(), &b].concat();
            let len = u32::try_from(b.len()).unwrap();
            let combined = combine(crc32c::crc32c(&a), crc32c::crc32c(&b), len);
            prop_assert_eq!(combined, crc32c::crc32c(&both));
        }

        #[test]
        fn combining_equals_the_librarys(a: u32, b: u32, len: u32) {
            let expected = crc32c::crc32c_combine(a, b, len as usize);
            prop_assert_eq!(combine(a, b, len), expected);
        }

        #[test]
        fn a_sealed_value_hashes_as_its_plaintext(value: Vec<u8>, lease: i64, main in 2..i64::MAX) {
            let plain = KeyValue {
                key: Bytes::from_static(b"/registry/secrets/a"), create_revision: 2,
                mod_revision: main, version: 7, value: value.clone().into(), lease: LeaseId(lease),
            };
            let sealed = KeyValue { value: Bytes::from_static(b"k8s:enc:xyz"), ..plain.clone() };
            let record = |kv: &KeyValue, seal| {
                let mut encoded = Vec::new();
                kv.encode(&mut encoded);
                Record { encoded: encoded.into(), tombstone: false, seal }
            };
            let mark = SealMark { key_id: KeyId(1), plain: PlainDigest::of(&value) };
            let (mut a, mut b) = (RecordsHash::new(), RecordsHash::new());
            prop_assert!(a.add(Revision::first(main), &record(&plain, None)));
            prop_assert!(b.add(Revision::first(main), &record(&sealed, Some(mark))));
            prop_assert_eq!(a.finish(), b.finish());
        }
    }
}
