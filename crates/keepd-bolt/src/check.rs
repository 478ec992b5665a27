//! The structural check of a whole file, as etcd's tools run it before they trust a snapshot.
//!
//! Every page below the high-water mark must be a meta page, belong to exactly one tree, or be
//! free; trees must be ordered. Unlike a read it goes on after a fault and tells them all. Memory:
//! two bits per page.

use std::fmt;

use bytes::Bytes;

use crate::entries::{Bounds, DEPTH_MAX};
use crate::node::{Claimed, Node, NodeKind};
use crate::page::{FLAG_FREELIST, HEADER_LEN, NO_FREELIST, PageHeader, u64_at};
use crate::reader::{Bucket, ReadAt, Reader, Root};
use crate::{Error, PageFault};

/// The number of findings that a report keeps; the others are only counted.
pub const FINDINGS_KEPT_MAX: usize = 1000;

/// One fault in a file's structure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The free list names a page twice.
    AlreadyFreed {
        /// The page.
        pgid: u64,
    },
    /// A bucket's entry is too short.
    BucketMalformed {
        /// The bucket's name.
        name: Bytes,
    },
    /// Two pages of the trees lead to one.
    MultipleReferences {
        /// The page.
        pgid: u64,
        /// The pages from the root down.
        stack: Vec<u64>,
    },
    /// A page that cannot be used where it is.
    Page {
        /// The page.
        pgid: u64,
        /// The fault.
        fault: PageFault,
        /// The pages from the root down.
        stack: Vec<u64>,
    },
    /// A page in use is in the free list.
    ReachableFreed {
        /// The page.
        pgid: u64,
    },
    /// A page belongs to nothing.
    UnreachableUnfreed {
        /// The page.
        pgid: u64,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyFreed { pgid } => write!(f, "page {pgid}: already freed"),
            Self::BucketMalformed { name } => {
                write!(f, "malformed bucket {}", name.escape_ascii())
            }
            Self::MultipleReferences { pgid, stack } => {
                write!(f, "page {pgid}: multiple references (stack: {stack:?})")
            }
            Self::Page { pgid, fault, stack } => {
                write!(f, "page {pgid}: {fault} (stack: {stack:?})")
            }
            Self::ReachableFreed { pgid } => write!(f, "page {pgid}: reachable freed"),
            Self::UnreachableUnfreed { pgid } => write!(f, "page {pgid}: unreachable unfreed"),
        }
    }
}

/// The findings of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// The first faults, at most [`FINDINGS_KEPT_MAX`].
    pub findings: Vec<Finding>,
    /// The number of all findings.
    pub count: u64,
}

impl CheckReport {
    /// Whether nothing was found.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.count == 0
    }

    fn add(&mut self, finding: Finding) {
        self.count += 1;
        if self.findings.len() < FINDINGS_KEPT_MAX {
            self.findings.push(finding);
        }
    }
}

impl<S: ReadAt> Reader<S> {
    /// Checks the whole structure.
    ///
    /// # Errors
    /// If the source cannot be read; faults of the file are in the report.
    pub fn check(&self) -> Result<CheckReport, Error> {
        let pages = usize::try_from(self.meta().hwm)
            .map_err(|_fault| Error::Truncated { need: u64::MAX, have: self.image_len() })?;
        let mut check = Check {
            reader: self,
            report: CheckReport::default(),
            reachable: PageSet::new(pages),
            freed: PageSet::new(pages),
            buckets: vec![Bucket(Root::Page(self.meta().root))],
            in_root: true,
        };
        check.run()?;
        Ok(check.report)
    }
}

struct Check<'a, S> {
    reader: &'a Reader<S>,
    report: CheckReport,
    reachable: PageSet,
    freed: PageSet,
    /// Buckets found and not yet walked. BOUND: each takes 32 bytes or more of the file.
    buckets: Vec<Bucket>,
    /// Whether the tree of the buckets is being walked, whose entries all are buckets.
    in_root: bool,
}

struct Frame {
    node: Node,
    next: usize,
    bounds: Bounds,
    last_key: Option<Bytes>,
    claimed: Claimed,
}

impl<S: ReadAt> Check<'_, S> {
    fn run(&mut self) -> Result<(), Error> {
        self.reachable.insert(0);
        self.reachable.insert(1);
        let has_freelist = self.reader.meta().freelist != NO_FREELIST;
        if has_freelist {
            self.freelist(self.reader.meta().freelist)?;
        }
        while let Some(Bucket(root)) = self.buckets.pop() {
            match root {
                Root::Page(pgid) => self.tree(pgid)?,
                Root::Inline(image) => match Node::parse_inline(image) {
                    Ok(node) => self.walk(vec![Frame::new(node, Bounds::default())])?,
                    Err(error) => self.fault(error, &[])?,
                },
            }
            self.in_root = false;
        }
        // Without a stored free list bbolt takes what is not reachable as free.
        if has_freelist {
            for pgid in 0..self.reader.meta().hwm {
                if !self.reachable.contains(pgid) && !self.freed.contains(pgid) {
                    self.report.add(Finding::UnreachableUnfreed { pgid });
                }
            }
        }
        Ok(())
    }

    fn freelist(&mut self, pgid: u64) -> Result<(), Error> {
        let run = match self.reader.page_run(pgid) {
            Ok(run) => run,
            Err(error) => return self.fault(error, &[]),
        };
        let header = PageHeader::decode(&run).expect("a page run is longer than a header");
        if header.flags != FLAG_FREELIST {
            let fault = PageFault::Type { flags: header.flags };
            return self.fault(Error::Page { pgid, fault }, &[]);
        }
        for page in 0..=u64::from(header.overflow) {
            self.reachable.insert(pgid + page);
        }
        let ids = run.slice(HEADER_LEN..);
        // A count that does not fit the header's sixteen bits stands before the ids.
        let (skip, count) = match header.count {
            u16::MAX => (1, u64_at(&ids, 0).unwrap_or(0)),
            count => (0, u64::from(count)),
        };
        let (ids, _) = ids.as_chunks::<8>();
        if count > (ids.len() - skip) as u64 {
            let fault = PageFault::ElementOutside { index: ids.len() };
            return self.fault(Error::Page { pgid, fault }, &[]);
        }
        let hwm = self.reader.meta().hwm;
        let count = usize::try_from(count).expect("checked against a length in memory");
        for id in ids.iter().skip(skip).take(count).map(|id| u64::from_le_bytes(*id)) {
            if id < 2 || id >= hwm {
                let fault = PageFault::OutOfBounds { hwm };
                self.fault(Error::Page { pgid: id, fault }, &[])?;
            } else if !self.freed.insert(id) {
                self.report.add(Finding::AlreadyFreed { pgid: id });
            }
        }
        Ok(())
    }

    fn tree(&mut self, root: u64) -> Result<(), Error> {
        let mut stack = Vec::new();
        self.descend(&mut stack, root, Bounds::default())?;
        self.walk(stack)
    }

    fn walk(&mut self, mut stack: Vec<Frame>) -> Result<(), Error> {
        while let Some(frame) = stack.last_mut() {
            let index = frame.next;
            if index >= frame.node.count {
                stack.pop();
                continue;
            }
            frame.next += 1;
            let step = match frame.node.kind {
                NodeKind::Leaf => frame.entry(index, self.in_root).map(|bucket| {
                    self.buckets.extend(bucket);
                    None
                }),
                NodeKind::Branch => frame.child(index).map(Some),
            };
            match step {
                Ok(None) => {}
                Ok(Some((pgid, bounds))) => self.descend(&mut stack, pgid, bounds)?,
                Err(error) => {
                    let path = path(&stack);
                    self.fault(error, &path)?;
                }
            }
        }
        Ok(())
    }

    /// Loads a tree's page and marks what it occupies; faults are noted and not entered.
    fn descend(&mut self, stack: &mut Vec<Frame>, pgid: u64, bounds: Bounds) -> Result<(), Error> {
        let mut stack_ids = path(stack);
        stack_ids.push(pgid);
        if stack.len() >= DEPTH_MAX {
            return self.fault(Error::Page { pgid, fault: PageFault::Depth }, &stack_ids);
        }
        let head = match self.reader.run_head(pgid) {
            Ok(head) => head,
            Err(error) => return self.fault(error, &stack_ids),
        };
        if self.freed.contains(pgid) {
            self.report.add(Finding::ReachableFreed { pgid });
        }
        for page in pgid..pgid + head.pages {
            if !self.reachable.insert(page) {
                // BOUND: no page is loaded or entered twice, and none is marked twice: a file costs
                // as much as it is long, however often its pages name each other.
                self.report.add(Finding::MultipleReferences { pgid: page, stack: stack_ids });
                return Ok(());
            }
        }
        let run = match self.reader.rest_of_run(head) {
            Ok(run) => run,
            Err(error) => return self.fault(error, &stack_ids),
        };
        match Node::parse(pgid, run) {
            Ok(node) if node.count == 0 && !(stack.is_empty() && node.kind == NodeKind::Leaf) => {
                self.fault(node.error(PageFault::Empty), &stack_ids)
            }
            Ok(node) => {
                stack.push(Frame::new(node, bounds));
                Ok(())
            }
            Err(error) => self.fault(error, &stack_ids),
        }
    }

    /// Notes a fault of the file; what is not the file's fault is passed on.
    fn fault(&mut self, error: Error, stack: &[u64]) -> Result<(), Error> {
        match error {
            Error::Page { pgid, fault } => {
                self.report.add(Finding::Page { pgid, fault, stack: stack.to_vec() });
            }
            Error::BucketMalformed { name } => {
                self.report.add(Finding::BucketMalformed { name: name.into() });
            }
            other => return Err(other),
        }
        Ok(())
    }
}

impl Frame {
    const fn new(node: Node, bounds: Bounds) -> Self {
        Self { node, next: 0, bounds, last_key: None, claimed: Claimed::new() }
    }

    /// Checks a leaf's element; returns the bucket it may describe.
    fn entry(&mut self, index: usize, in_root: bool) -> Result<Option<Bucket>, Error> {
        let entry = self.node.entry(index)?;
        self.claimed.add(&self.node, index, entry.key.len() + entry.value.len())?;
        let in_order = self.in_order(&entry.key);
        self.last_key = Some(entry.key.clone());
        if !in_order {
            return Err(self.node.error(PageFault::KeyOrder { index }));
        }
        if !entry.is_bucket {
            return if in_root {
                Err(self.node.error(PageFault::NotABucket { index }))
            } else {
                Ok(None)
            };
        }
        match Bucket::parse(&entry.value) {
            Some(bucket) => Ok(Some(bucket)),
            None => Err(Error::BucketMalformed { name: entry.key.to_vec() }),
        }
    }

    /// Checks a branch's element; returns the child and what is promised of it.
    fn child(&mut self, index: usize) -> Result<(u64, Bounds), Error> {
        let (key, pgid) = self.node.child(index)?;
        self.claimed.add(&self.node, index, key.len())?;
        let in_order = self.in_order(&key);
        self.last_key = Some(key.clone());
        if !in_order {
            return Err(self.node.error(PageFault::KeyOrder { index }));
        }
        Ok((pgid, self.bounds.of_child(&self.node, index, key)?))
    }

    fn in_order(&self, key: &Bytes) -> bool {
        self.last_key.as_ref().is_none_or(|last| last < key) && self.bounds.contain(key)
    }
}

fn path(stack: &[Frame]) -> Vec<u64> {
    stack.iter().map(|frame| frame.node.pgid).collect()
}

/// A set of page numbers below the high-water mark, one bit each.
struct PageSet(Vec<u64>);

impl PageSet {
    fn new(pages: usize) -> Self {
        Self(vec![0; pages.div_ceil(64)])
    }

    /// Adds a page; false if it was there.
    fn insert(&mut self, pgid: u64) -> bool {
        let Some(word) = Self::word(pgid).and_then(|at| self.0.get_mut(at)) else { return true };
        let bit = 1 << (pgid % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    fn contains(&self, pgid: u64) -> bool {
        let word = Self::word(pgid).and_then(|at| self.0.get(at)).copied().unwrap_or(0);
        word & (1 << (pgid % 64)) != 0
    }

    fn word(pgid: u64) -> Option<usize> {
        usize::try_from(pgid / 64).ok()
    }
}
