//! A block: neighbouring records in revision order, the payload of one frame.
//!
//! Layout in `docs/formats/revlog.md`, section "block". A record's `KeyValue` is served as it lies:
//! a slice of the block.

use bytes::Bytes;
use keepd_types::{KeyId, PlainDigest, Revision, SealMark, varint};

use crate::record::{Change, ChangeKind, Entry, Record};
use crate::revlog::wire::Reader;

const FLAG_TOMBSTONE: u8 = 1;
const FLAG_SEALED: u8 = 2;
const FLAG_CREATED: u8 = 4;
const FLAG_PREV: u8 = 8;
/// The first record's main revision.
const HEAD_LEN: usize = 8;
/// The number of records.
const COUNT_LEN: usize = 4;
const OFFSET_LEN: usize = 4;

/// Collects records into a block's bytes.
#[derive(Debug, Default)]
pub(crate) struct BlockBuilder {
    bytes: Vec<u8>,
    offsets: Vec<u32>,
    first: Revision,
}

impl BlockBuilder {
    pub(crate) const fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// The size if it ended here.
    pub(crate) const fn len(&self) -> usize {
        self.bytes.len() + self.offsets.len() * OFFSET_LEN + COUNT_LEN
    }

    /// The first record's revision.
    pub(crate) const fn first(&self) -> Revision {
        self.first
    }

    /// Adds a record after the others.
    pub(crate) fn push(&mut self, entry: &Entry) {
        let change = &entry.change;
        let Revision { main, sub } = change.revision;
        if self.is_empty() {
            self.first = change.revision;
            self.bytes.extend_from_slice(&main.to_le_bytes());
        }
        self.offsets.push(u32_of(self.bytes.len()));
        let out = &mut self.bytes;
        let record = &change.record;
        let flags = [
            (record.tombstone, FLAG_TOMBSTONE),
            (record.seal.is_some(), FLAG_SEALED),
            (change.created, FLAG_CREATED),
            (change.prev.is_some(), FLAG_PREV),
        ];
        out.push(flags.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).sum());
        varint::write_i64(main.wrapping_sub(self.first.main), out);
        varint::write_i64(sub, out);
        varint::write_i64(main.wrapping_sub(entry.create), out);
        if let Some(prev) = change.prev {
            varint::write_i64(main.wrapping_sub(prev.main), out);
            varint::write_i64(prev.sub, out);
        }
        if let Some(seal) = record.seal {
            out.extend_from_slice(&seal.key_id.0.to_le_bytes());
            out.extend_from_slice(&seal.plain.len.to_le_bytes());
            out.extend_from_slice(&seal.plain.crc32c.to_le_bytes());
        }
        varint::write_u64(record.encoded.len() as u64, out);
        out.extend_from_slice(&record.encoded);
    }

    /// The block's bytes; the builder is empty again.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        for offset in &self.offsets {
            bytes.extend_from_slice(&offset.to_le_bytes());
        }
        bytes.extend_from_slice(&u32_of(self.offsets.len()).to_le_bytes());
        self.offsets.clear();
        bytes
    }
}

/// A block that was read.
#[derive(Debug)]
pub(crate) struct Block {
    bytes: Bytes,
    first_main: i64,
    count: usize,
    table_at: usize,
}

impl Block {
    /// Reads the frame of a block; `None` if it is malformed.
    pub(crate) fn parse(bytes: Vec<u8>) -> Option<Self> {
        let first_main = i64::from_le_bytes(*bytes.first_chunk()?);
        let count = u32::from_le_bytes(*bytes.last_chunk()?) as usize;
        let table_len = count.checked_mul(OFFSET_LEN)?.checked_add(COUNT_LEN)?;
        let table_at = bytes.len().checked_sub(table_len)?;
        (table_at > HEAD_LEN && count > 0).then_some(Self {
            bytes: bytes.into(),
            first_main,
            count,
            table_at,
        })
    }

    /// The number of records.
    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    /// The memory it holds.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The position of the record with this revision.
    pub(crate) fn find(&self, revision: Revision) -> Option<usize> {
        let position = self.position_from(revision)?;
        (self.revision(position)? == revision).then_some(position)
    }

    /// The position of the first record at or after this revision; the count if there is none.
    pub(crate) fn position_from(&self, revision: Revision) -> Option<usize> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.revision(middle)? < revision {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Some(low)
    }

    /// Whether its records are in order, as those who write blocks anew rely on.
    pub(crate) fn is_ascending(&self) -> bool {
        let mut last = None;
        (0..self.count).all(|position| {
            let revision = self.revision(position);
            let is_behind = revision.is_some() && revision > last;
            last = revision;
            is_behind
        })
    }

    fn record_at(&self, position: usize) -> Option<&[u8]> {
        let at = self.table_at + position.checked_mul(OFFSET_LEN)?;
        let offset = u32::from_le_bytes(*self.bytes.get(at..)?.first_chunk()?) as usize;
        self.bytes[..self.table_at].get(offset..)
    }

    fn revision(&self, position: usize) -> Option<Revision> {
        let mut rest = self.record_at(position)?.get(1..)?;
        let main = self.first_main.wrapping_add(varint::read_i64(&mut rest)?);
        Some(Revision { main, sub: varint::read_i64(&mut rest)? })
    }

    /// The record at `position`; `None` if it is malformed.
    pub(crate) fn record(&self, position: usize) -> Option<Record> {
        self.decode(position).map(|(_, record)| record)
    }

    /// The whole entry at `position`; `None` if it is malformed.
    pub(crate) fn entry(&self, position: usize) -> Option<Entry> {
        let (head, record) = self.decode(position)?;
        let change = Change {
            revision: Revision { main: head.main, sub: head.sub },
            kind: if record.tombstone { ChangeKind::Delete } else { ChangeKind::Put },
            key: key_of(&record.encoded)?,
            created: head.flags & FLAG_CREATED != 0,
            record,
            prev: head.prev,
        };
        Some(Entry { change, create: head.create })
    }

    fn decode(&self, position: usize) -> Option<(Head, Record)> {
        let (&flags, rest) = self.record_at(position)?.split_first()?;
        let mut from = Reader(rest);
        let main = self.first_main.wrapping_add(from.signed()?);
        let sub = from.signed()?;
        let create = main.wrapping_sub(from.signed()?);
        let mut prev = None;
        if flags & FLAG_PREV != 0 {
            prev = Some(Revision { main: main.wrapping_sub(from.signed()?), sub: from.signed()? });
        }
        let mut seal = None;
        if flags & FLAG_SEALED != 0 {
            let key_id = KeyId(from.u64()?);
            let plain = PlainDigest { len: from.u32()?, crc32c: from.u32()? };
            seal = Some(SealMark { key_id, plain });
        }
        let len = usize::try_from(from.varint()?).ok()?;
        let encoded = self.bytes.slice_ref(from.bytes(len)?);
        let record = Record { encoded, tombstone: flags & FLAG_TOMBSTONE != 0, seal };
        Some((Head { flags, main, sub, create, prev }, record))
    }
}

/// The fields before a record's bytes.
struct Head {
    flags: u8,
    main: i64,
    sub: i64,
    create: i64,
    prev: Option<Revision>,
}

/// The key of an encoded `KeyValue`: its first field.
pub(crate) fn key_of(encoded: &Bytes) -> Option<Bytes> {
    let mut rest = encoded.strip_prefix(&[0x0a])?;
    let len = usize::try_from(varint::read_u64(&mut rest)?).ok()?;
    Some(encoded.slice_ref(rest.get(..len)?))
}

fn u32_of(len: usize) -> u32 {
    u32::try_from(len).expect("a block ends long before 4 GiB")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn blocks_round_trip(
            records in prop::collection::vec(
                (any::<bool>(), any::<Option<(i64, i64)>>(), any::<Option<(u64, u32, u32)>>(), 0..200_u8), 1..40,
            ),
            first in 1..i64::MAX / 2, create: i64,
        ) {
            let entries: Vec<Entry> = records
                .into_iter()
                .zip(0..)
                .map(|((tombstone, prev, seal, len), at)| {
                    let encoded = [&[0x0a, len][..], &vec![b'k'; usize::from(len)], b"rest"].concat();
                    let seal = seal.map(|(key_id, len, crc32c)| SealMark {
                        key_id: KeyId(key_id), plain: PlainDigest { len, crc32c },
                    });
                    let change = Change {
                        revision: Revision { main: first + at / 3, sub: at % 3 },
                        kind: if tombstone { ChangeKind::Delete } else { ChangeKind::Put },
                        key: vec![b'k'; usize::from(len)].into(),
                        created: !tombstone && len % 2 == 0,
                        record: Record { encoded: encoded.into(), tombstone, seal },
                        prev: prev.map(|(main, sub)| Revision { main, sub }),
                    };
                    Entry { change, create }
                })
                .filter(|entry| !entry.change.key.is_empty() && entry.change.key.len() < 128)
                .collect();
            let mut builder = BlockBuilder::default();
            entries.iter().for_each(|entry| builder.push(entry));
            prop_assume!(!builder.is_empty());
            let len = builder.len();
            let bytes = builder.finish();
            prop_assert_eq!(bytes.len(), len);
            let block = Block::parse(bytes).unwrap();
            prop_assert_eq!(block.count(), entries.len());
            for (position, entry) in entries.iter().enumerate() {
                prop_assert_eq!(block.find(entry.change.revision), Some(position));
                prop_assert_eq!(block.entry(position), Some(entry.clone()));
                prop_assert_eq!(block.record(position), Some(entry.change.record.clone()));
            }
            prop_assert_eq!(block.find(Revision::first(first - 1)), None);
        }

        #[test]
        fn hostile_blocks_never_panic(bytes: Vec<u8>, count in 0..9_u32) {
            let bytes = [bytes, count.to_le_bytes().to_vec()].concat();
            if let Some(block) = Block::parse(bytes) {
                for position in 0..block.count() {
                    let _ = block.entry(position);
                }
                let _ = block.find(Revision::first(7));
            }
        }
    }
}
