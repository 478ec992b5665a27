//! Walks a bucket's tree in key order, holding one node per level.
//!
//! INVARIANT: keys ascend strictly over the whole walk and no node but a root is empty. So a page
//! met twice is an error at once, and hostile files cannot make the walk longer than the file.

use bytes::Bytes;

use crate::node::{Claimed, Node, NodeKind};
use crate::reader::{Bucket, ReadAt, Reader, Root};
use crate::{Error, PageFault};

/// The deepest tree: 2^32 pages under branches of two children.
pub(crate) const DEPTH_MAX: usize = 32;

/// One item of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// Whether the value describes a nested bucket.
    pub is_bucket: bool,
}

/// The items of a bucket; ends after the first error.
#[derive(Debug)]
pub struct Entries<'a, S> {
    reader: &'a Reader<S>,
    /// The root, until it is loaded.
    root: Option<Root>,
    stack: Vec<Frame>,
    last_key: Option<Bytes>,
    /// The number of bytes loaded from the file. BOUND: its length, so that overlapping pages cannot
    /// make the walk longer.
    loaded: u64,
}

#[derive(Debug)]
struct Frame {
    node: Node,
    next: usize,
    bounds: Bounds,
    claimed: Claimed,
}

impl Frame {
    const fn new(node: Node, bounds: Bounds) -> Self {
        Self { node, next: 0, bounds, claimed: Claimed::new() }
    }
}

/// The bounds that a parent gives for its child's keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bounds {
    /// No key is below this.
    pub(crate) lower: Option<Bytes>,
    /// Every key is below this.
    pub(crate) upper: Option<Bytes>,
}

impl Bounds {
    pub(crate) fn contain(&self, key: &Bytes) -> bool {
        self.lower.as_ref().is_none_or(|lower| lower <= key)
            && self.upper.as_ref().is_none_or(|upper| key < upper)
    }

    /// The bounds of a branch's child.
    pub(crate) fn of_child(&self, branch: &Node, index: usize, key: Bytes) -> Result<Self, Error> {
        let upper = if index + 1 < branch.count {
            Some(branch.key(index + 1)?)
        } else {
            self.upper.clone()
        };
        Ok(Self { lower: Some(key), upper })
    }
}

impl<'a, S: ReadAt> Entries<'a, S> {
    pub(crate) fn new(reader: &'a Reader<S>, bucket: Bucket) -> Self {
        Self { reader, root: Some(bucket.0), stack: Vec::new(), last_key: None, loaded: 0 }
    }

    fn step(&mut self) -> Result<Option<Entry>, Error> {
        match self.root.take() {
            Some(Root::Inline(image)) => {
                let node = Node::parse_inline(image)?;
                self.stack.push(Frame::new(node, Bounds::default()));
            }
            Some(Root::Page(pgid)) => self.descend(pgid, Bounds::default())?,
            None => {}
        }
        loop {
            let Some(frame) = self.stack.last_mut() else { return Ok(None) };
            let index = frame.next;
            if index >= frame.node.count {
                self.stack.pop();
                continue;
            }
            frame.next += 1;
            let out_of_order = |node: &Node| Err(node.error(PageFault::KeyOrder { index }));
            match frame.node.kind {
                NodeKind::Leaf => {
                    let entry = frame.node.entry(index)?;
                    let len = entry.key.len() + entry.value.len();
                    frame.claimed.add(&frame.node, index, len)?;
                    let ascends = self.last_key.as_ref().is_none_or(|last| *last < entry.key);
                    if !ascends || !frame.bounds.contain(&entry.key) {
                        return out_of_order(&frame.node);
                    }
                    self.last_key = Some(entry.key.clone());
                    return Ok(Some(entry));
                }
                NodeKind::Branch => {
                    let (key, pgid) = frame.node.child(index)?;
                    frame.claimed.add(&frame.node, index, key.len())?;
                    if !frame.bounds.contain(&key) {
                        return out_of_order(&frame.node);
                    }
                    let bounds = frame.bounds.of_child(&frame.node, index, key)?;
                    self.descend(pgid, bounds)?;
                }
            }
        }
    }

    fn descend(&mut self, pgid: u64, bounds: Bounds) -> Result<(), Error> {
        if self.stack.len() >= DEPTH_MAX {
            return Err(Error::Page { pgid, fault: PageFault::Depth });
        }
        let node = self.reader.node(pgid)?;
        self.loaded = self.loaded.saturating_add(node.len() as u64);
        if self.loaded > self.reader.image_len() {
            return Err(node.error(PageFault::Overlap { index: 0 }));
        }
        let may_be_empty = self.stack.is_empty() && node.kind == NodeKind::Leaf;
        if node.count == 0 && !may_be_empty {
            return Err(node.error(PageFault::Empty));
        }
        self.stack.push(Frame::new(node, bounds));
        Ok(())
    }
}

impl<S: ReadAt> Iterator for Entries<'_, S> {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.step().transpose();
        if matches!(item, Some(Err(_))) {
            self.stack.clear();
        }
        item
    }
}

/// The top-level buckets; ends after the first error.
#[derive(Debug)]
pub struct Buckets<'a, S> {
    entries: Entries<'a, S>,
    index: usize,
}

impl<'a, S> Buckets<'a, S> {
    pub(crate) const fn new(entries: Entries<'a, S>) -> Self {
        Self { entries, index: 0 }
    }
}

impl<S: ReadAt> Iterator for Buckets<'_, S> {
    type Item = Result<(Bytes, Bucket), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.index;
        self.index += 1;
        let root = self.entries.reader.meta().root;
        let item = self.entries.next()?.and_then(|entry| {
            if !entry.is_bucket {
                return Err(Error::Page { pgid: root, fault: PageFault::NotABucket { index } });
            }
            let bucket = Bucket::parse(&entry.value)
                .ok_or_else(|| Error::BucketMalformed { name: entry.key.to_vec() })?;
            Ok((entry.key, bucket))
        });
        if item.is_err() {
            self.entries.stack.clear();
        }
        Some(item)
    }
}
