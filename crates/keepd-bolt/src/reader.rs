//! Opens a bbolt file and finds its buckets and pages.

use std::io;

use bytes::{Bytes, BytesMut};

use crate::node::{NODE_BYTES_MAX, Node};
use crate::page::{BUCKET_HEADER_LEN, META_PAGE_LEN, Meta, PageHeader, u64_at};
use crate::{Buckets, Entries, Error, PageFault};

/// Bytes that can be read at any place: a file, or memory.
pub trait ReadAt {
    /// The number of bytes.
    ///
    /// # Errors
    /// If the source cannot tell.
    fn size(&self) -> io::Result<u64>;

    /// Fills `bytes` from `offset`.
    ///
    /// # Errors
    /// If the source ends before, or fails.
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn size(&self) -> io::Result<u64> {
        (**self).size()
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(bytes, offset)
    }
}

impl ReadAt for [u8] {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let source = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(bytes.len())?))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(source);
        Ok(())
    }
}

/// An open bbolt file.
#[derive(Debug)]
pub struct Reader<S> {
    source: S,
    meta: Meta,
}

/// The first page of a branch, a leaf or a free list.
#[derive(Debug)]
pub(crate) struct RunHead {
    pub(crate) pgid: u64,
    /// The number of pages, this one included.
    pub(crate) pages: u64,
    bytes: BytesMut,
}

/// The place of a bucket's items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket(pub(crate) Root);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    /// In a page tree.
    Page(u64),
    /// In this page image.
    Inline(Bytes),
}

impl Bucket {
    /// A bucket from the value of its entry.
    pub(crate) fn parse(value: &Bytes) -> Option<Self> {
        let root = u64_at(value, 0)?;
        if value.len() < BUCKET_HEADER_LEN {
            return None;
        }
        Some(Self(match root {
            0 => Root::Inline(value.slice(BUCKET_HEADER_LEN..)),
            pgid => Root::Page(pgid),
        }))
    }
}

impl<S: ReadAt> Reader<S> {
    /// Opens `source`, which may go on after the bbolt file (a checksum, space grown ahead).
    ///
    /// # Errors
    /// If it is no bbolt file or ends before its last page.
    pub fn open(source: S) -> Result<Self, Error> {
        let have = source.size().map_err(|source| Error::Read { offset: 0, len: 0, source })?;
        let meta = newest_meta(&source, have)?;
        let need = meta.hwm.saturating_mul(meta.page_size as u64);
        if need > have {
            return Err(Error::Truncated { need, have });
        }
        Ok(Self { source, meta })
    }

    /// The length of the bbolt file proper: all pages ever used.
    #[must_use]
    pub fn image_len(&self) -> u64 {
        self.meta.hwm * self.meta.page_size as u64
    }

    /// The page size.
    #[must_use]
    pub const fn page_size(&self) -> usize {
        self.meta.page_size
    }

    /// The transaction that wrote the file last.
    #[must_use]
    pub const fn txid(&self) -> u64 {
        self.meta.txid
    }

    /// The source.
    pub const fn source(&self) -> &S {
        &self.source
    }

    /// The top-level buckets in order of their names.
    pub fn buckets(&self) -> Buckets<'_, S> {
        Buckets::new(self.entries(&Bucket(Root::Page(self.meta.root))))
    }

    /// The top-level bucket called `name`.
    ///
    /// # Errors
    /// If the root cannot be read.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket>, Error> {
        for bucket in self.buckets() {
            let (found, bucket) = bucket?;
            if found == name {
                return Ok(Some(bucket));
            }
        }
        Ok(None)
    }

    /// A bucket's items in order of their keys.
    pub fn entries(&self, bucket: &Bucket) -> Entries<'_, S> {
        Entries::new(self, bucket.clone())
    }

    pub(crate) const fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Loads the branch or leaf that starts at page `pgid`.
    pub(crate) fn node(&self, pgid: u64) -> Result<Node, Error> {
        Node::parse(pgid, self.page_run(pgid)?)
    }

    /// Loads page `pgid` with its overflow, checking only that it is that page.
    pub(crate) fn page_run(&self, pgid: u64) -> Result<Bytes, Error> {
        self.rest_of_run(self.run_head(pgid)?)
    }

    /// Loads page `pgid` alone, which tells how many belong to it.
    pub(crate) fn run_head(&self, pgid: u64) -> Result<RunHead, Error> {
        let hwm = self.meta.hwm;
        let fault = |fault| Error::Page { pgid, fault };
        if pgid < 2 || pgid >= hwm {
            return Err(fault(PageFault::OutOfBounds { hwm }));
        }
        let offset = pgid * self.meta.page_size as u64;
        let mut bytes = BytesMut::zeroed(self.meta.page_size);
        self.read(&mut bytes, offset)?;
        let header = PageHeader::decode(&bytes).expect("a page is longer than its header");
        if header.id != pgid {
            return Err(fault(PageFault::WrongId { found: header.id }));
        }
        let pages = u64::from(header.overflow) + 1;
        if pages > hwm - pgid {
            return Err(fault(PageFault::OutOfBounds { hwm }));
        }
        let run_bytes = pages * self.meta.page_size as u64;
        if run_bytes > NODE_BYTES_MAX {
            return Err(fault(PageFault::TooLarge { bytes: run_bytes }));
        }
        Ok(RunHead { pgid, pages, bytes })
    }

    /// Loads the pages after the first one.
    pub(crate) fn rest_of_run(&self, head: RunHead) -> Result<Bytes, Error> {
        let RunHead { pgid, pages, mut bytes } = head;
        if pages > 1 {
            let run_bytes = pages * self.meta.page_size as u64;
            let run_len = usize::try_from(run_bytes).expect("at most NODE_BYTES_MAX");
            bytes = BytesMut::zeroed(run_len);
            self.read(&mut bytes, pgid * self.meta.page_size as u64)?;
        }
        Ok(bytes.freeze())
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> Result<(), Error> {
        let len = bytes.len();
        self.source.read_exact_at(bytes, offset).map_err(|source| Error::Read {
            offset,
            len,
            source,
        })
    }
}

/// The valid meta page of the later transaction.
fn newest_meta(source: &impl ReadAt, have: u64) -> Result<Meta, Error> {
    let meta_at = |offset: u64| -> Result<Option<Meta>, Error> {
        let mut page = [0; META_PAGE_LEN];
        if offset.saturating_add(page.len() as u64) > have {
            return Ok(None);
        }
        source.read_exact_at(&mut page, offset).map_err(|source| Error::Read {
            offset,
            len: page.len(),
            source,
        })?;
        Ok(Meta::decode(&page))
    };
    if let Some(first) = meta_at(0)? {
        let page_size = first.page_size;
        let second = meta_at(page_size as u64)?.filter(|meta| meta.page_size == page_size);
        return Ok(second.filter(|second| second.txid > first.txid).unwrap_or(first));
    }
    // The first page is damaged, so the page size is unknown: look where the second may be.
    for shift in 10..=16 {
        if let Some(second) = meta_at(1 << shift)?.filter(|meta| meta.page_size == 1 << shift) {
            return Ok(second);
        }
    }
    Err(Error::NoMeta)
}
