//! The page layout of a written file, made while its items pass by.
//!
//! Generic over what an item is: the planner's are lengths, the writer's are bytes. Both run this
//! code, so the second pass puts every page where the first one foresaw it.
//!
//! A leaf is written when the next item would not fit; it goes on the open branch of the level
//! above, which is written when it is full, and so on. INVARIANT: a branch has two children or
//! more, for bbolt stops the process when it rebalances under a lone child. So a full branch keeps
//! its last two children back for its successor.

use crate::Error;
use crate::page::{BUCKET_HEADER_LEN, ELEMENT_LEN, HEADER_LEN, KEY_BYTES_MAX, VALUE_BYTES_MAX};

/// A key or value: bytes, or only their number.
pub(crate) trait Piece: Clone {
    fn len(&self) -> usize;
}

/// An element of a leaf.
#[derive(Debug)]
pub(crate) struct Item<P> {
    pub(crate) is_bucket: bool,
    pub(crate) key: P,
    pub(crate) value: P,
}

impl<P: Piece> Item<P> {
    fn size(&self) -> usize {
        ELEMENT_LEN + self.key.len() + self.value.len()
    }
}

/// An element of a branch.
#[derive(Debug)]
pub(crate) struct Child<P> {
    pub(crate) key: P,
    pub(crate) pgid: u64,
}

/// The place where a node is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageRun {
    pub(crate) pgid: u64,
    pub(crate) pages: u64,
}

/// The sink of finished nodes.
pub(crate) trait Emit<P> {
    fn leaf(&mut self, at: PageRun, items: &[Item<P>]) -> Result<(), Error>;
    fn branch(&mut self, at: PageRun, children: &[Child<P>]) -> Result<(), Error>;
    /// The value of a bucket's entry whose tree is at `root`.
    fn bucket(&mut self, root: u64) -> P;
    /// The value of a bucket's entry that carries the items itself.
    fn inline_bucket(&mut self, items: &[Item<P>]) -> P;
}

/// A file in the making.
#[derive(Debug)]
pub(crate) struct Bulk<P, E> {
    pages: Pages<E>,
    root: Tree<P>,
    bucket: Option<(P, Tree<P>)>,
}

#[derive(Debug)]
struct Pages<E> {
    page_size: usize,
    next_pgid: u64,
    emit: E,
}

impl<P: Piece, E: Emit<P>> Bulk<P, E> {
    /// A file of pages of `page_size`; the first two are the metas'.
    pub(crate) const fn new(page_size: usize, emit: E) -> Self {
        let pages = Pages { page_size, next_pgid: 2, emit };
        Self { pages, root: Tree::new(), bucket: None }
    }

    pub(crate) const fn emit(&mut self) -> &mut E {
        &mut self.pages.emit
    }

    pub(crate) const fn next_pgid(&self) -> u64 {
        self.pages.next_pgid
    }

    /// Begins a bucket, ending the one before.
    pub(crate) fn bucket(&mut self, name: P) -> Result<(), Error> {
        check_key_len(name.len())?;
        self.end_bucket()?;
        self.bucket = Some((name, Tree::new()));
        Ok(())
    }

    /// Adds an item to the open bucket.
    pub(crate) fn item(&mut self, key: P, value: P) -> Result<(), Error> {
        check_key_len(key.len())?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(Error::ValueLength { len: value.len() });
        }
        let (_, tree) = self.bucket.as_mut().ok_or(Error::ItemOutsideBucket)?;
        tree.push(Item { is_bucket: false, key, value }, &mut self.pages)
    }

    /// Ends the file; returns its root and the sink.
    pub(crate) fn finish(mut self) -> Result<(u64, Self), Error> {
        self.end_bucket()?;
        let root = std::mem::replace(&mut self.root, Tree::new());
        let pgid = root.finish(&mut self.pages)?;
        Ok((pgid, self))
    }

    pub(crate) fn into_emit(self) -> E {
        self.pages.emit
    }

    fn end_bucket(&mut self) -> Result<(), Error> {
        let Some((key, tree)) = self.bucket.take() else { return Ok(()) };
        let value = if tree.is_inlineable(self.pages.page_size) {
            self.pages.emit.inline_bucket(&tree.leaf)
        } else {
            let root = tree.finish(&mut self.pages)?;
            self.pages.emit.bucket(root)
        };
        debug_assert!(value.len() >= BUCKET_HEADER_LEN);
        self.root.push(Item { is_bucket: true, key, value }, &mut self.pages)
    }
}

impl<E> Pages<E> {
    fn claim(&mut self, node_len: usize) -> PageRun {
        let pages = node_len.div_ceil(self.page_size) as u64;
        let pgid = self.next_pgid;
        self.next_pgid += pages;
        PageRun { pgid, pages }
    }
}

/// One bucket's tree, or the tree of the buckets.
#[derive(Debug)]
struct Tree<P> {
    leaf: Vec<Item<P>>,
    leaf_len: usize,
    /// The open branch of each level above the leaves.
    levels: Vec<Level<P>>,
}

#[derive(Debug)]
struct Level<P> {
    children: Vec<Child<P>>,
    len: usize,
}

impl<P: Piece> Tree<P> {
    const fn new() -> Self {
        Self { leaf: Vec::new(), leaf_len: HEADER_LEN, levels: Vec::new() }
    }

    /// bbolt's rule: a single small leaf.
    const fn is_inlineable(&self, page_size: usize) -> bool {
        self.levels.is_empty() && self.leaf_len <= page_size / 4
    }

    fn push<E: Emit<P>>(&mut self, item: Item<P>, pages: &mut Pages<E>) -> Result<(), Error> {
        let size = item.size();
        if !self.leaf.is_empty() && self.leaf_len + size > pages.page_size {
            self.emit_leaf(pages)?;
        }
        self.leaf_len += size;
        self.leaf.push(item);
        Ok(())
    }

    fn emit_leaf<E: Emit<P>>(&mut self, pages: &mut Pages<E>) -> Result<(), Error> {
        let at = pages.claim(self.leaf_len);
        pages.emit.leaf(at, &self.leaf)?;
        let first = self.leaf.first().expect("only the leaf of a root may be empty");
        let child = Child { key: first.key.clone(), pgid: at.pgid };
        self.leaf.clear();
        self.leaf_len = HEADER_LEN;
        self.add_child(0, child, pages)
    }

    /// Puts a written node on the branch of `level`, writing branches that get full.
    fn add_child<E: Emit<P>>(
        &mut self,
        mut level: usize,
        mut child: Child<P>,
        pages: &mut Pages<E>,
    ) -> Result<(), Error> {
        loop {
            if level == self.levels.len() {
                self.levels.push(Level { children: Vec::new(), len: HEADER_LEN });
            }
            let branch = self.levels.get_mut(level).expect("the level was just made");
            branch.len += ELEMENT_LEN + child.key.len();
            branch.children.push(child);
            if branch.len <= pages.page_size || branch.children.len() < 4 {
                return Ok(());
            }
            let kept = branch.children.split_off(branch.children.len() - 2);
            let kept_len = kept.iter().map(|child| ELEMENT_LEN + child.key.len()).sum::<usize>();
            branch.len -= kept_len;
            child = emit_branch(branch, pages)?;
            *branch = Level { children: kept, len: HEADER_LEN + kept_len };
            level += 1;
        }
    }

    /// Writes what is open; returns the root's page.
    fn finish<E: Emit<P>>(mut self, pages: &mut Pages<E>) -> Result<u64, Error> {
        if self.levels.is_empty() {
            let at = pages.claim(self.leaf_len);
            pages.emit.leaf(at, &self.leaf)?;
            return Ok(at.pgid);
        }
        self.emit_leaf(pages)?;
        let mut level = 0;
        loop {
            let branch = self.levels.get(level).expect("levels end with the root's");
            let child = emit_branch(branch, pages)?;
            level += 1;
            if level == self.levels.len() {
                return Ok(child.pgid);
            }
            self.add_child(level, child, pages)?;
        }
    }
}

fn emit_branch<P: Piece, E: Emit<P>>(
    branch: &Level<P>,
    pages: &mut Pages<E>,
) -> Result<Child<P>, Error> {
    assert!(branch.children.len() >= 2, "a lone child makes bbolt stop");
    let at = pages.claim(branch.len);
    pages.emit.branch(at, &branch.children)?;
    let first = branch.children.first().expect("a branch has children");
    Ok(Child { key: first.key.clone(), pgid: at.pgid })
}

const fn check_key_len(len: usize) -> Result<(), Error> {
    if len == 0 || len > KEY_BYTES_MAX {
        return Err(Error::KeyLength { len });
    }
    Ok(())
}
