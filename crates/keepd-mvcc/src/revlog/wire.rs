//! Reading little-endian fields off the front of bytes that may be damaged.

use keepd_types::{Revision, varint};

/// The rest of the input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (chunk, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*chunk)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.chunk::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.chunk().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.chunk().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.chunk().map(i64::from_le_bytes)
    }

    pub(crate) fn revision(&mut self) -> Option<Revision> {
        Some(Revision { main: self.i64()?, sub: self.i64()? })
    }

    pub(crate) fn varint(&mut self) -> Option<u64> {
        varint::read_u64(&mut self.0)
    }

    pub(crate) fn signed(&mut self) -> Option<i64> {
        varint::read_i64(&mut self.0)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }
}

/// Appends a revision, as [`Reader::revision`] reads it.
pub(crate) fn write_revision(revision: Revision, out: &mut Vec<u8>) {
    out.extend_from_slice(&revision.main.to_le_bytes());
    out.extend_from_slice(&revision.sub.to_le_bytes());
}
