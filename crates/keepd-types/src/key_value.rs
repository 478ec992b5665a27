//! `mvccpb.KeyValue`, encoded and decoded by hand so that the mechanisms need no protobuf library
//! and a stored record can be sent as it is.
//!
//! Canonical proto3: fields ascending, zero fields left out. `HashKV` and exported files depend on
//! the exact bytes.
//!
//! | field | tag byte | type |
//! |---|---|---|
//! | 1 key | 0x0a | bytes |
//! | 2 create_revision | 0x10 | int64 |
//! | 3 mod_revision | 0x18 | int64 |
//! | 4 version | 0x20 | int64 |
//! | 5 value | 0x2a | bytes |
//! | 6 lease | 0x30 | int64 |

use bytes::Bytes;
use thiserror::Error;

use crate::{LeaseId, varint};

/// One record of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The key; never empty in stored data.
    pub key: Bytes,
    /// The main revision that began the current generation; 0 in a tombstone.
    pub create_revision: i64,
    /// The main revision of the last change; 0 in a stored tombstone.
    pub mod_revision: i64,
    /// Puts since the generation began; 0 in a tombstone.
    pub version: i64,
    /// The value as stored.
    pub value: Bytes,
    /// The lease it is attached to.
    pub lease: LeaseId,
}

/// Bytes that are no `KeyValue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("malformed key-value record at byte {at}")]
pub struct DecodeError {
    /// The distance of the fault from the end of the input, in bytes.
    pub at: usize,
}

impl KeyValue {
    /// A tombstone's record: only the key.
    #[must_use]
    pub fn tombstone(key: Bytes) -> Self {
        Self { key, ..Self::default() }
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_before_value(self.value.len(), out);
        out.extend_from_slice(&self.value);
        self.encode_after_value(out);
    }

    /// The encoding up to the first byte of the value, were it `value_len` long.
    ///
    /// With [`Self::encode_after_value`] it lets a hash combine the value's checksum, or a response
    /// splice another value in, without the value at hand.
    pub fn encode_before_value(&self, value_len: usize, out: &mut Vec<u8>) {
        if !self.key.is_empty() {
            out.push(0x0a);
            varint::write_u64(self.key.len() as u64, out);
            out.extend_from_slice(&self.key);
        }
        for (tag, number) in
            [(0x10, self.create_revision), (0x18, self.mod_revision), (0x20, self.version)]
        {
            if number != 0 {
                out.push(tag);
                varint::write_i64(number, out);
            }
        }
        if value_len > 0 {
            out.push(0x2a);
            varint::write_u64(value_len as u64, out);
        }
    }

    /// The encoding after the value.
    pub fn encode_after_value(&self, out: &mut Vec<u8>) {
        if !self.lease.is_none() {
            out.push(0x30);
            varint::write_i64(self.lease.0, out);
        }
    }

    /// The length of the encoding.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let bytes_len =
            |len: usize| if len == 0 { 0 } else { 1 + varint::len_u64(len as u64) + len };
        let int_len =
            |value: i64| if value == 0 { 0 } else { 1 + varint::len_u64(value.cast_unsigned()) };
        bytes_len(self.key.len())
            + int_len(self.create_revision)
            + int_len(self.mod_revision)
            + int_len(self.version)
            + bytes_len(self.value.len())
            + int_len(self.lease.0)
    }

    /// Reads an encoding; key and value share `encoded`'s memory.
    ///
    /// # Errors
    /// If the bytes are not a `KeyValue` with these six fields.
    pub fn decode(encoded: &Bytes) -> Result<Self, DecodeError> {
        let mut rest: &[u8] = encoded;
        let mut kv = Self::default();
        while let Some((&tag, after)) = rest.split_first() {
            let fault = DecodeError { at: rest.len() };
            rest = after;
            match tag {
                0x0a | 0x2a => {
                    let len = varint::read_u64(&mut rest)
                        .and_then(|len| usize::try_from(len).ok())
                        .filter(|len| *len <= rest.len())
                        .ok_or(fault)?;
                    let bytes = encoded.slice_ref(&rest[..len]);
                    rest = &rest[len..];
                    *(if tag == 0x0a { &mut kv.key } else { &mut kv.value }) = bytes;
                }
                0x10 | 0x18 | 0x20 | 0x30 => {
                    let number = varint::read_i64(&mut rest).ok_or(fault)?;
                    match tag {
                        0x10 => kv.create_revision = number,
                        0x18 => kv.mod_revision = number,
                        0x20 => kv.version = number,
                        _ => kv.lease = LeaseId(number),
                    }
                }
                _ => return Err(fault),
            }
        }
        Ok(kv)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_worked_example_of_etcd() {
        let kv = KeyValue {
            key: Bytes::from_static(b"c"),
            create_revision: 6,
            mod_revision: 6,
            version: 1,
            value: Bytes::from_static(b"1"),
            lease: LeaseId::NONE,
        };
        let mut out = Vec::new();
        kv.encode(&mut out);
        assert_eq!(out, [0x0a, 1, 0x63, 0x10, 6, 0x18, 6, 0x20, 1, 0x2a, 1, 0x31]);
    }

    proptest! {
        #[test]
        fn records_round_trip(key: Vec<u8>, create: i64, modified: i64, version: i64, value: Vec<u8>, lease: i64) {
            let kv = KeyValue {
                key: key.into(), create_revision: create, mod_revision: modified, version,
                value: value.into(), lease: LeaseId(lease),
            };
            let mut out = Vec::new();
            kv.encode(&mut out);
            prop_assert_eq!(out.len(), kv.encoded_len());
            prop_assert_eq!(KeyValue::decode(&out.into()), Ok(kv));
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            let _ = KeyValue::decode(&bytes.into());
        }
    }
}
