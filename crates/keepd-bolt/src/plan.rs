//! The first pass: lengths in, size of the file out.

use crate::Error;
use crate::bulk::{Bulk, Child, Emit, Item, PageRun, Piece};
use crate::page::{BUCKET_HEADER_LEN, ELEMENT_LEN, HEADER_LEN, PAGE_SIZE, is_page_size};

impl Piece for usize {
    fn len(&self) -> usize {
        *self
    }
}

/// Learns the layout of a file from the lengths of its items.
#[derive(Debug)]
pub struct Planner {
    page_size: usize,
    bulk: Bulk<usize, Measure>,
}

/// The layout: what stands in the meta pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub(crate) page_size: usize,
    pub(crate) root: u64,
    pub(crate) pages: u64,
}

impl Plan {
    /// The exact length of the file.
    #[must_use]
    pub const fn image_len(&self) -> u64 {
        self.pages * self.page_size as u64
    }
}

impl Default for Planner {
    fn default() -> Self {
        Self { page_size: PAGE_SIZE, bulk: Bulk::new(PAGE_SIZE, Measure) }
    }
}

impl Planner {
    /// A planner for a file of other pages than [`PAGE_SIZE`].
    ///
    /// # Errors
    /// If bbolt knows no such pages.
    pub fn with_page_size(page_size: usize) -> Result<Self, Error> {
        if !is_page_size(page_size) {
            return Err(Error::PageSize(page_size));
        }
        Ok(Self { page_size, bulk: Bulk::new(page_size, Measure) })
    }

    /// Begins a bucket; names ascend.
    ///
    /// # Errors
    /// If the name is empty or too long.
    pub fn bucket(&mut self, name: &[u8]) -> Result<(), Error> {
        self.bulk.bucket(name.len())
    }

    /// Counts an item of the open bucket.
    ///
    /// # Errors
    /// If a length is not allowed or no bucket is open.
    pub fn item(&mut self, key_len: usize, value_len: usize) -> Result<(), Error> {
        self.bulk.item(key_len, value_len)
    }

    /// The layout.
    ///
    /// # Errors
    /// None in practice; the signature is the writer's.
    pub fn finish(self) -> Result<Plan, Error> {
        let page_size = self.page_size;
        let (root, bulk) = self.bulk.finish()?;
        Ok(Plan { page_size, root, pages: bulk.next_pgid() })
    }
}

#[derive(Debug)]
struct Measure;

impl Emit<usize> for Measure {
    fn leaf(&mut self, _at: PageRun, _items: &[Item<usize>]) -> Result<(), Error> {
        Ok(())
    }

    fn branch(&mut self, _at: PageRun, _children: &[Child<usize>]) -> Result<(), Error> {
        Ok(())
    }

    fn bucket(&mut self, _root: u64) -> usize {
        BUCKET_HEADER_LEN
    }

    fn inline_bucket(&mut self, items: &[Item<usize>]) -> usize {
        let items = items.iter().map(|item| ELEMENT_LEN + item.key + item.value);
        BUCKET_HEADER_LEN + HEADER_LEN + items.sum::<usize>()
    }
}
