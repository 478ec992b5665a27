//! Chunks and items as bytes.

use bytes::Bytes;
use keepd_types::limits::REVISION_MAX;
use keepd_types::{KeyId, PlainDigest, Revision, SealMark, varint};

use crate::digest::{self, Digest};
use crate::record::{Applied, Entry, Record};
use crate::revlog::wire::Reader;

/// BOUND: a chunk, its head included.
///
/// Small in unit tests, so that items lie in several of them.
pub const STATE_CHUNK_BYTES_MAX: usize = if cfg!(test) { 1024 } else { 256 * 1024 };
/// Number and checksum of a chunk.
pub(super) const CHUNK_HEAD_LEN: usize = 8;
/// BOUND: the payload of a chunk.
pub(super) const PAYLOAD_MAX: usize = STATE_CHUNK_BYTES_MAX - CHUNK_HEAD_LEN;
/// BOUND: the body of an item; more than any command that can be written makes.
pub(super) const ITEM_MAX: usize = 64 << 20;

const VERSION: u8 = 1;

pub(super) const KIND_HEAD: u8 = 1;
pub(super) const KIND_META: u8 = 2;
pub(super) const KIND_RECORD: u8 = 3;
pub(super) const KIND_TRAILER: u8 = 4;

const FLAG_TOMBSTONE: u8 = 1;
const FLAG_SEALED: u8 = 2;

/// The state that a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateHead {
    /// The last entry of the Raft log that is in it.
    pub applied: Applied,
    /// The current revision.
    pub revision: i64,
    /// The compact revision; -1 before the first compaction.
    pub compact_revision: i64,
    /// The number of live keys.
    pub live_keys: u64,
    /// The running digest at the applied index.
    pub digest: Digest,
}

/// The end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trailer {
    pub(super) metas: u64,
    pub(super) records: u64,
    pub(super) hash: [u8; 32],
}

/// A record with what its encoding does not tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamedRecord {
    pub(super) revision: Revision,
    /// The create revision of the generation that a tombstone ended.
    pub(super) ended: Option<i64>,
    pub(super) record: Record,
}

/// Reason why bytes are no stream; a version is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Malformed(&'static str),
    Version(u8),
}

impl StateHead {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.applied.index.to_le_bytes());
        out.extend_from_slice(&self.applied.term.to_le_bytes());
        out.extend_from_slice(&self.revision.to_le_bytes());
        out.extend_from_slice(&self.compact_revision.to_le_bytes());
        out.extend_from_slice(&self.live_keys.to_le_bytes());
        out.extend_from_slice(&self.digest.since.to_le_bytes());
        out.extend_from_slice(&self.digest.value.to_le_bytes());
        out
    }

    pub(super) fn decode(body: &[u8]) -> Result<Self, Fault> {
        match body.first() {
            Some(&VERSION) => {}
            Some(&other) => return Err(Fault::Version(other)),
            None => return Err(Fault::Malformed("an empty head")),
        }
        Self::read(&body[1..])
            .filter(Self::is_sound)
            .ok_or(Fault::Malformed("a head that no state has"))
    }

    fn read(body: &[u8]) -> Option<Self> {
        let mut from = Reader(body);
        let applied = Applied { index: from.u64()?, term: from.u64()? };
        let (revision, compact_revision) = (from.i64()?, from.i64()?);
        let live_keys = from.u64()?;
        let digest = Digest { since: from.u64()?, index: applied.index, value: from.u64()? };
        from.is_empty().then_some(Self { applied, revision, compact_revision, live_keys, digest })
    }

    /// Whether a store can stand there.
    fn is_sound(&self) -> bool {
        (1..=REVISION_MAX).contains(&self.revision)
            && (-1..=self.revision).contains(&self.compact_revision)
            && self.applied.index > 0
            && self.digest.since <= self.applied.index
    }
}

/// The body of a meta entry in front of its value.
pub(super) fn encode_meta(table: u8, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = vec![table];
    varint::write_u64(key.len() as u64, &mut out);
    out.extend_from_slice(key);
    out.extend_from_slice(value);
    out
}

/// Table, key and value.
pub(super) fn decode_meta(body: &Bytes) -> Option<(u8, Bytes, Bytes)> {
    let mut from = Reader(body);
    let table = from.u8().filter(|table| *table != digest::OWN_TABLE)?;
    let len = usize::try_from(from.varint()?).ok()?;
    let key = from.bytes(len)?;
    Some((table, body.slice_ref(key), body.slice_ref(from.0)))
}

pub(super) fn encode_record(entry: &Entry) -> Vec<u8> {
    let record = &entry.change.record;
    let Revision { main, sub } = entry.change.revision;
    let mut out = Vec::with_capacity(record.encoded.len() + 48);
    let sealed = if record.seal.is_some() { FLAG_SEALED } else { 0 };
    out.push(if record.tombstone { FLAG_TOMBSTONE } else { 0 } | sealed);
    varint::write_u64(main.cast_unsigned(), &mut out);
    varint::write_u64(sub.cast_unsigned(), &mut out);
    if record.tombstone {
        varint::write_u64(entry.create.cast_unsigned(), &mut out);
    }
    if let Some(seal) = record.seal {
        out.extend_from_slice(&seal.key_id.0.to_le_bytes());
        out.extend_from_slice(&seal.plain.len.to_le_bytes());
        out.extend_from_slice(&seal.plain.crc32c.to_le_bytes());
    }
    out.extend_from_slice(&record.encoded);
    out
}

pub(super) fn decode_record(body: &Bytes) -> Option<StreamedRecord> {
    let mut from = Reader(body);
    let flags = from.u8().filter(|flags| flags & !(FLAG_TOMBSTONE | FLAG_SEALED) == 0)?;
    let tombstone = flags & FLAG_TOMBSTONE != 0;
    let mut number = || Some(from.varint()?.cast_signed()).filter(|number| *number >= 0);
    let revision = Revision { main: number()?, sub: number()? };
    let ended = if tombstone { Some(number()?) } else { None };
    let seal = if flags & FLAG_SEALED == 0 {
        None
    } else {
        let key_id = KeyId(from.u64()?);
        Some(SealMark { key_id, plain: PlainDigest { len: from.u32()?, crc32c: from.u32()? } })
    };
    if tombstone && seal.is_some() {
        return None;
    }
    // A copy: a slice would keep neighbours in memory.
    let encoded = Bytes::copy_from_slice(from.0);
    Some(StreamedRecord { revision, ended, record: Record { encoded, tombstone, seal } })
}

impl Trailer {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = self.metas.to_le_bytes().to_vec();
        out.extend_from_slice(&self.records.to_le_bytes());
        out.extend_from_slice(&self.hash);
        out
    }

    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let mut from = Reader(body);
        let (metas, records) = (from.u64()?, from.u64()?);
        let hash = from.0.try_into().ok()?;
        Some(Self { metas, records, hash })
    }
}

/// Appends an item.
pub(super) fn write_item(kind: u8, body: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    varint::write_u64(body.len() as u64, out);
    out.extend_from_slice(body);
}

/// The first item: its kind, where its body begins and its length; `None` if that has not all come.
pub(super) fn item_head(bytes: &[u8]) -> Result<Option<(u8, usize, usize)>, Fault> {
    let Some((&kind, rest)) = bytes.split_first() else { return Ok(None) };
    if !(KIND_HEAD..=KIND_TRAILER).contains(&kind) {
        return Err(Fault::Malformed("an item of an unknown kind"));
    }
    let mut after = rest;
    let Some(len) = varint::read_u64(&mut after) else {
        let is_whole = rest.len() >= VARINT_MAX;
        return if is_whole { Err(Fault::Malformed("an endless length")) } else { Ok(None) };
    };
    let len = usize::try_from(len).ok().filter(|len| *len <= ITEM_MAX);
    let len = len.ok_or(Fault::Malformed("an item that is too long"))?;
    Ok(Some((kind, bytes.len() - after.len(), len)))
}

/// The longest varint.
const VARINT_MAX: usize = 10;

/// Puts number and checksum in front of a payload.
pub(super) fn chunk(number: u32, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(CHUNK_HEAD_LEN + payload.len());
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&checksum(number, payload).to_le_bytes());
    out.extend_from_slice(payload);
    out.into()
}

/// The payload of the chunk that is `number`.
pub(super) fn payload(number: u32, chunk: &[u8]) -> Result<&[u8], Fault> {
    let mut from = Reader(chunk);
    let (Some(found), Some(crc)) = (from.u32(), from.u32()) else {
        return Err(Fault::Malformed("a chunk that is cut short"));
    };
    if from.is_empty() || chunk.len() > STATE_CHUNK_BYTES_MAX {
        return Err(Fault::Malformed("a chunk of an impossible length"));
    }
    if crc != checksum(found, from.0) {
        return Err(Fault::Malformed("a chunk's checksum does not match"));
    }
    if found != number {
        return Err(Fault::Malformed("a chunk out of turn"));
    }
    Ok(from.0)
}

fn checksum(number: u32, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), payload)
}
