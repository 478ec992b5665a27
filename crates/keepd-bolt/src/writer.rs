//! The second pass: items in, pages out in file order.

use std::io::Write;

use bytes::Bytes;

use crate::bulk::{Bulk, Child, Emit, Item, PageRun, Piece};
use crate::page::{
    BUCKET_FLAG, ELEMENT_LEN, FLAG_BRANCH, FLAG_LEAF, HEADER_LEN, Meta, NO_FREELIST, PageHeader,
};
use crate::{Error, Plan};

impl Piece for Bytes {
    fn len(&self) -> usize {
        self.as_ref().len()
    }
}

/// Writes a planned file. Memory: one open node per tree level.
#[derive(Debug)]
pub struct Writer<W> {
    plan: Plan,
    bulk: Bulk<Bytes, Encode<W>>,
    last_name: Option<Bytes>,
    last_key: Option<Bytes>,
}

impl<W: Write> Writer<W> {
    /// Begins the file: both meta pages go out at once.
    ///
    /// # Errors
    /// If `out` fails.
    pub fn new(plan: Plan, out: W) -> Result<Self, Error> {
        let mut encode = Encode { plan, out, scratch: Vec::new() };
        for txid in [0, 1] {
            let Plan { page_size, root, pages: hwm } = plan;
            let meta = Meta { page_size, root, freelist: NO_FREELIST, hwm, txid };
            meta.encode_page(&mut encode.scratch);
        }
        encode.flush()?;
        let bulk = Bulk::new(plan.page_size, encode);
        Ok(Self { plan, bulk, last_name: None, last_key: None })
    }

    /// Begins a bucket, as the planner was told.
    ///
    /// # Errors
    /// If the names do not ascend, the plan is exceeded or `out` fails.
    pub fn bucket(&mut self, name: Bytes) -> Result<(), Error> {
        if self.last_name.as_ref().is_some_and(|last| *last >= name) {
            return Err(Error::BucketOrder { name: name.to_vec() });
        }
        self.last_key = None;
        self.last_name = Some(name.clone());
        self.bulk.bucket(name)
    }

    /// Adds an item, as the planner was told.
    ///
    /// # Errors
    /// If the keys do not ascend, the plan is exceeded or `out` fails.
    pub fn item(&mut self, key: Bytes, value: Bytes) -> Result<(), Error> {
        if self.last_key.as_ref().is_some_and(|last| *last >= key) {
            return Err(Error::KeyOrder { key: key.to_vec() });
        }
        self.last_key = Some(key.clone());
        self.bulk.item(key, value)
    }

    /// The output, for a caller that drains a buffer while it writes.
    pub const fn out(&mut self) -> &mut W {
        &mut self.bulk.emit().out
    }

    /// Writes what is open and checks that the plan came true.
    ///
    /// # Errors
    /// If it did not, or `out` fails.
    pub fn finish(self) -> Result<W, Error> {
        let plan = self.plan;
        let (root, bulk) = self.bulk.finish()?;
        let written = bulk.next_pgid();
        if (root, written) != (plan.root, plan.pages) {
            return Err(Error::PlanMismatch { planned: plan.pages, written });
        }
        Ok(bulk.into_emit().out)
    }
}

#[derive(Debug)]
struct Encode<W> {
    plan: Plan,
    out: W,
    scratch: Vec<u8>,
}

impl<W: Write> Encode<W> {
    fn begin(&mut self, at: PageRun, flags: u16, count: usize) -> Result<(), Error> {
        let end = at.pgid + at.pages;
        if end > self.plan.pages {
            return Err(Error::PlanMismatch { planned: self.plan.pages, written: end });
        }
        let overflow = u32::try_from(at.pages - 1).expect("a node is far below 2^32 pages");
        PageHeader { id: at.pgid, flags, count: element_count(count), overflow }
            .encode(&mut self.scratch);
        Ok(())
    }

    fn end(&mut self, at: PageRun) -> Result<(), Error> {
        let run_len = usize::try_from(at.pages).expect("a node is in memory") * self.plan.page_size;
        assert!(self.scratch.len() <= run_len, "a node fills no more than its pages");
        self.scratch.resize(run_len, 0);
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.out.write_all(&self.scratch).map_err(Error::Write)?;
        self.scratch.clear();
        Ok(())
    }
}

impl<W: Write> Emit<Bytes> for Encode<W> {
    fn leaf(&mut self, at: PageRun, items: &[Item<Bytes>]) -> Result<(), Error> {
        self.begin(at, FLAG_LEAF, items.len())?;
        encode_items(items, &mut self.scratch);
        self.end(at)
    }

    fn branch(&mut self, at: PageRun, children: &[Child<Bytes>]) -> Result<(), Error> {
        self.begin(at, FLAG_BRANCH, children.len())?;
        let mut ahead = children.len() * ELEMENT_LEN;
        for child in children {
            self.scratch.extend_from_slice(&length(ahead));
            self.scratch.extend_from_slice(&length(child.key.len()));
            self.scratch.extend_from_slice(&child.pgid.to_le_bytes());
            ahead = ahead + child.key.len() - ELEMENT_LEN;
        }
        for child in children {
            self.scratch.extend_from_slice(&child.key);
        }
        self.end(at)
    }

    fn bucket(&mut self, root: u64) -> Bytes {
        bucket_header(root).into()
    }

    fn inline_bucket(&mut self, items: &[Item<Bytes>]) -> Bytes {
        let mut value = bucket_header(0);
        PageHeader { id: 0, flags: FLAG_LEAF, count: element_count(items.len()), overflow: 0 }
            .encode(&mut value);
        encode_items(items, &mut value);
        value.into()
    }
}

/// Root page and sequence, which etcd does not use.
fn bucket_header(root: u64) -> Vec<u8> {
    [root.to_le_bytes(), 0_u64.to_le_bytes()].concat()
}

fn encode_items(items: &[Item<Bytes>], out: &mut Vec<u8>) {
    // An element's offset counts from the element itself.
    let mut ahead = items.len() * ELEMENT_LEN;
    for item in items {
        let flags = if item.is_bucket { BUCKET_FLAG } else { 0 };
        out.extend_from_slice(&flags.to_le_bytes());
        for len in [ahead, item.key.len(), item.value.len()] {
            out.extend_from_slice(&length(len));
        }
        ahead = ahead + item.key.len() + item.value.len() - ELEMENT_LEN;
    }
    for item in items {
        out.extend_from_slice(&item.key);
        out.extend_from_slice(&item.value);
    }
}

fn length(len: usize) -> [u8; 4] {
    // INVARIANT: only a lone item makes a node larger than a page, and items are below 2^31 bytes.
    u32::try_from(len).expect("lengths inside a node are below 2^32").to_le_bytes()
}

fn element_count(count: usize) -> u16 {
    // BOUND: an element takes 17 bytes or more of a 64 KiB page.
    u16::try_from(count).expect("a node has fewer than 2^16 elements")
}

const _: () = assert!((1 << 16) / (ELEMENT_LEN + 1) < 1 << 16 && HEADER_LEN == ELEMENT_LEN);
