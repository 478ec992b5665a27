//! One page run of a tree: a branch or a leaf, read but not trusted.
//!
//! An element is checked each time it is looked at, so a node costs nothing until it is used.

use bytes::Bytes;

use crate::page::{
    BUCKET_FLAG, ELEMENT_LEN, FLAG_BRANCH, FLAG_LEAF, HEADER_LEN, KEY_BYTES_MAX, PageHeader,
    u32_at, u64_at,
};
use crate::{Entry, Error, PageFault};

/// The largest node that is loaded.
///
/// BOUND: bbolt leaves up to four items together whatever their size, so this admits values of
/// 128 MiB, eighty times etcd's request limit.
pub const NODE_BYTES_MAX: u64 = 512 << 20;

/// The contents of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeKind {
    /// Keys and child pages.
    Branch,
    /// Keys and values.
    Leaf,
}

/// A branch or leaf.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Its page number; 0 if inline.
    pub(crate) pgid: u64,
    pub(crate) kind: NodeKind,
    pub(crate) count: usize,
    bytes: Bytes,
}

/// The number of bytes that the elements of a node have claimed for keys and values.
///
/// BOUND: no more than the node has, so that elements which share their bytes, as no writer makes
/// them, cannot hold more than the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claimed(usize);

impl Claimed {
    pub(crate) const fn new() -> Self {
        Self(0)
    }

    /// Counts element `index`, whose key and value have `len` bytes.
    pub(crate) fn add(&mut self, node: &Node, index: usize, len: usize) -> Result<(), Error> {
        self.0 = self.0.saturating_add(ELEMENT_LEN + len);
        if self.0 > node.bytes.len() {
            return Err(node.error(PageFault::Overlap { index }));
        }
        Ok(())
    }
}

impl Node {
    /// The bytes it was read from.
    pub(crate) const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// A node from all its bytes, header included.
    pub(crate) fn parse(pgid: u64, bytes: Bytes) -> Result<Self, Error> {
        let header = PageHeader::decode(&bytes)
            .ok_or(Error::Page { pgid, fault: PageFault::ElementOutside { index: 0 } })?;
        let kind = match header.flags {
            FLAG_BRANCH => NodeKind::Branch,
            FLAG_LEAF => NodeKind::Leaf,
            flags => return Err(Error::Page { pgid, fault: PageFault::Type { flags } }),
        };
        Ok(Self { pgid, kind, count: usize::from(header.count), bytes })
    }

    /// The page image after an inline bucket's header.
    pub(crate) fn parse_inline(bytes: Bytes) -> Result<Self, Error> {
        let node = Self::parse(0, bytes)?;
        match node.kind {
            NodeKind::Leaf => Ok(node),
            NodeKind::Branch => Err(node.error(PageFault::Type { flags: FLAG_BRANCH })),
        }
    }

    pub(crate) fn error(&self, fault: PageFault) -> Error {
        Error::Page { pgid: self.pgid, fault }
    }

    /// The key of element `index`.
    pub(crate) fn key(&self, index: usize) -> Result<Bytes, Error> {
        Ok(match self.kind {
            NodeKind::Branch => self.child(index)?.0,
            NodeKind::Leaf => self.entry(index)?.key,
        })
    }

    /// Key and page number of a branch's element.
    pub(crate) fn child(&self, index: usize) -> Result<(Bytes, u64), Error> {
        self.try_child(index).ok_or_else(|| self.error(PageFault::ElementOutside { index }))
    }

    /// A leaf's element.
    pub(crate) fn entry(&self, index: usize) -> Result<Entry, Error> {
        self.try_entry(index).ok_or_else(|| self.error(PageFault::ElementOutside { index }))
    }

    fn try_child(&self, index: usize) -> Option<(Bytes, u64)> {
        let (at, element) = self.element(index)?;
        let key_at = at.checked_add(size(u32_at(element, 0)?)?)?;
        let key = self.slice(key_at, key_len(u32_at(element, 4)?)?)?;
        Some((key, u64_at(element, 8)?))
    }

    fn try_entry(&self, index: usize) -> Option<Entry> {
        let (at, element) = self.element(index)?;
        let key_at = at.checked_add(size(u32_at(element, 4)?)?)?;
        let key_len = key_len(u32_at(element, 8)?)?;
        Some(Entry {
            key: self.slice(key_at, key_len)?,
            value: self.slice(key_at.checked_add(key_len)?, size(u32_at(element, 12)?)?)?,
            is_bucket: u32_at(element, 0)? & BUCKET_FLAG != 0,
        })
    }

    /// The start of element `index`, from which its own offset counts, and its bytes.
    fn element(&self, index: usize) -> Option<(usize, &[u8])> {
        if index >= self.count {
            return None;
        }
        let at = HEADER_LEN + index * ELEMENT_LEN;
        Some((at, self.bytes.get(at..at + ELEMENT_LEN)?))
    }

    fn slice(&self, at: usize, len: usize) -> Option<Bytes> {
        let end = at.checked_add(len)?;
        (end <= self.bytes.len()).then(|| self.bytes.slice(at..end))
    }
}

fn size(len: u32) -> Option<usize> {
    usize::try_from(len).ok()
}

/// A key's length, which is never zero.
fn key_len(len: u32) -> Option<usize> {
    size(len).filter(|len| (1..=KEY_BYTES_MAX).contains(len))
}
