//! The persisted form of a lease: `leasepb.Lease`, as etcd's `lease` bucket holds it, by hand.
//!
//! Canonical proto3: fields ascending, zero fields left out.
//!
//! | field | tag byte | type |
//! |---|---|---|
//! | 1 ID | 0x08 | int64 |
//! | 2 TTL | 0x10 | int64 |
//! | 3 RemainingTTL | 0x18 | int64 |
//!
//! Attachments are not part of it: they are rebuilt from the lease field of the latest records.

use keepd_types::{LeaseId, varint};
use thiserror::Error;

/// Replicated state of a lease, without its keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Its id; never zero in stored data.
    pub id: LeaseId,
    /// The granted TTL in seconds, after clamping.
    pub ttl: i64,
    /// The checkpointed remaining TTL in seconds; 0 without a checkpoint.
    pub remaining_ttl: i64,
}

/// Bytes that are no `leasepb.Lease`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("malformed lease record, {before_end} bytes before its end")]
pub struct DecodeError {
    /// Distance of the fault from the end of the input.
    pub before_end: usize,
}

impl Lease {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for (tag, number) in [(0x08, self.id.0), (0x10, self.ttl), (0x18, self.remaining_ttl)] {
            if number != 0 {
                out.push(tag);
                varint::write_i64(number, out);
            }
        }
    }

    /// Reads an encoding.
    ///
    /// # Errors
    /// If the bytes are not a `leasepb.Lease` with these three fields, or name no lease.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut lease = Self::default();
        while let Some((&tag, after)) = bytes.split_first() {
            let fault = DecodeError { before_end: bytes.len() };
            bytes = after;
            let number = varint::read_i64(&mut bytes).ok_or(fault)?;
            match tag {
                0x08 => lease.id = LeaseId(number),
                0x10 => lease.ttl = number,
                0x18 => lease.remaining_ttl = number,
                _ => return Err(fault),
            }
        }
        if lease.id.is_none() {
            return Err(DecodeError { before_end: 0 });
        }
        Ok(lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bytes_are_etcds() {
        let mut out = Vec::new();
        Lease { id: LeaseId(77), ttl: 300, remaining_ttl: 0 }.encode(&mut out);
        assert_eq!(out, [0x08, 77, 0x10, 0xac, 0x02]);
        assert_eq!(Lease::decode(&[0x10, 2]), Err(DecodeError { before_end: 0 }));
        assert_eq!(Lease::decode(&[0x08, 1, 0x22, 0]), Err(DecodeError { before_end: 2 }));
    }

    proptest! {
        #[test]
        fn leases_round_trip(id in any::<i64>().prop_filter("no id", |id| *id != 0), ttl: i64, left: i64) {
            let lease = Lease { id: LeaseId(id), ttl, remaining_ttl: left };
            let mut out = Vec::new();
            lease.encode(&mut out);
            prop_assert_eq!(Lease::decode(&out), Ok(lease));
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Lease::decode(&bytes);
        }
    }
}
