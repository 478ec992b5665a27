//! Walking a range of the key index.
//!
//! Beyond the limit keys are only counted, and whole subtrees at once where nothing changed after
//! the revision asked for: a page of a long list costs its own length.

use std::ops::ControlFlow;

use bytes::Bytes;
use keepd_types::{KeyRange, RangeEnd};

use crate::index::leaf::{Leaf, State};
use crate::index::tree::{Inner, Node};

/// A walk over a range at one revision.
pub(crate) struct RangeScan<'a, F> {
    start: &'a [u8],
    /// The first key after the range, if it has an end.
    end: Option<&'a [u8]>,
    at: i64,
    /// The number of keys that may still be shown.
    wanted: usize,
    count: u64,
    /// The visitor has seen enough.
    is_over: bool,
    visit: F,
}

/// Which ends of the range may lie inside of a subtree.
#[derive(Clone, Copy)]
struct Cut {
    start: bool,
    end: bool,
}

impl<'a, F: FnMut(&[u8], &[u8], State) -> ControlFlow<()>> RangeScan<'a, F> {
    /// Shows the first `limit` live keys (0: all) of `range` at main revision `at` to `visit`, as
    /// prefix, suffix and state, and returns how many there are; a break ends the walk and the count.
    pub(crate) fn run(root: &Node, range: &'a KeyRange, at: i64, limit: usize, visit: F) -> u64 {
        let end = match &range.end {
            RangeEnd::Before(end) => Some(end.as_ref()),
            RangeEnd::Open | RangeEnd::Point => None,
        };
        let wanted = if limit == 0 { usize::MAX } else { limit };
        let mut scan =
            Self { start: &range.start, end, at, wanted, count: 0, is_over: false, visit };
        if range.is_point() {
            scan.point(root);
        } else if !range.is_empty() {
            scan.node(root, Cut { start: true, end: end.is_some() });
        }
        scan.count
    }

    fn point(&mut self, root: &Node) {
        let state = root.leaf_of(self.start).get_at(self.start, self.at);
        if let Some(state) = state.filter(|state| !state.is_tombstone()) {
            self.count = 1;
            self.is_over = (self.visit)(self.start, &[], state).is_break();
        }
    }

    fn node(&mut self, node: &Node, cut: Cut) {
        match node {
            Node::Leaf(leaf) => self.leaf(leaf, cut),
            Node::Inner(inner) => self.inner(inner, cut),
        }
    }

    fn inner(&mut self, inner: &Inner, cut: Cut) {
        let first = if cut.start { inner.child_of(self.start) } else { 0 };
        let last = match self.end.filter(|_| cut.end) {
            Some(end) => inner.child_before(end),
            None => inner.children().len() - 1,
        };
        for (position, child) in inner.children().iter().enumerate().take(last + 1).skip(first) {
            let cut =
                Cut { start: cut.start && position == first, end: cut.end && position == last };
            let is_whole = !cut.start && !cut.end && child.newest <= self.at;
            if is_whole && (self.wanted == 0 || child.live == 0) {
                self.count += child.live;
            } else {
                self.node(&child.node, cut);
            }
            if self.is_over {
                return;
            }
        }
    }

    fn leaf(&mut self, leaf: &Leaf, cut: Cut) {
        let position_of = |key| leaf.find(key).unwrap_or_else(|position| position);
        let first = if cut.start { position_of(self.start) } else { 0 };
        let last = self.end.filter(|_| cut.end).map_or(leaf.len(), position_of);
        if first >= last {
            return;
        }
        if leaf.newest() <= self.at {
            for position in first..last {
                self.key(leaf, position, leaf.state(position));
                if self.is_over {
                    return;
                }
            }
        } else {
            let states = leaf.states_at(self.at);
            for (position, state) in states.iter().enumerate().take(last).skip(first) {
                if let Some(state) = state {
                    self.key(leaf, position, *state);
                }
                if self.is_over {
                    return;
                }
            }
        }
    }

    fn key(&mut self, leaf: &Leaf, position: usize, state: State) {
        if state.is_tombstone() {
            return;
        }
        self.count += 1;
        if self.wanted > 0 {
            self.wanted -= 1;
            self.is_over = (self.visit)(leaf.prefix(), leaf.suffix(position), state).is_break();
        }
    }
}

/// The cost of a walk over a range, without looking at a key.
pub(crate) struct Weight<'a> {
    pub(crate) range: &'a KeyRange,
    pub(crate) at: i64,
    /// Enough to know.
    pub(crate) max: u64,
}

impl Weight<'_> {
    /// Keys, deleted ones included, and the states that are rewound where something changed after
    /// the revision; at most about `max`.
    pub(crate) fn of(&self, root: &Node) -> u64 {
        if self.range.is_point() {
            return 1 + self.rewound(root.leaf_of(&self.range.start));
        }
        if self.range.is_empty() {
            return 0;
        }
        let mut weight = 0;
        self.node(root, Cut { start: true, end: true }, &mut weight);
        weight
    }

    fn node(&self, node: &Node, cut: Cut, weight: &mut u64) {
        let inner = match node {
            Node::Leaf(leaf) => {
                *weight += leaf.len() as u64 + self.rewound(leaf);
                return;
            }
            Node::Inner(inner) => inner,
        };
        let first = if cut.start { inner.child_of(&self.range.start) } else { 0 };
        let last = match &self.range.end {
            RangeEnd::Before(end) if cut.end => inner.child_before(end),
            _ => inner.children().len() - 1,
        };
        for (position, child) in inner.children().iter().enumerate().take(last + 1).skip(first) {
            let cut =
                Cut { start: cut.start && position == first, end: cut.end && position == last };
            if !cut.start && !cut.end && child.newest <= self.at {
                *weight += child.live;
            } else {
                self.node(&child.node, cut, weight);
            }
            if *weight > self.max {
                return;
            }
        }
    }

    fn rewound(&self, leaf: &Leaf) -> u64 {
        if leaf.newest() <= self.at { 0 } else { leaf.undone_after(self.at, self.max) }
    }
}

/// Keys with something beside each, in one allocation.
#[derive(Debug)]
pub(crate) struct KeyBuffer<T> {
    bytes: Vec<u8>,
    ends: Vec<(usize, T)>,
}

impl<T> KeyBuffer<T> {
    pub(crate) const fn new() -> Self {
        Self { bytes: Vec::new(), ends: Vec::new() }
    }

    pub(crate) fn push(&mut self, prefix: &[u8], suffix: &[u8], beside: T) {
        self.bytes.extend_from_slice(prefix);
        self.bytes.extend_from_slice(suffix);
        self.ends.push((self.bytes.len(), beside));
    }

    pub(crate) fn finish(self) -> Vec<(Bytes, T)> {
        let bytes = Bytes::from(self.bytes);
        let mut start = 0;
        let slice = |(end, beside)| (bytes.slice(std::mem::replace(&mut start, end)..end), beside);
        self.ends.into_iter().map(slice).collect()
    }
}
