//! The persistent B+tree over the leaves.
//!
//! A clone shares everything. A writer copies the nodes on its path that a clone still holds and
//! changes the others in place, so the cost of a snapshot is paid once per touched node. Inner nodes
//! are narrow because copying one takes a reference on each child, which is a cache miss each.
//! Every child carries the number of live keys and the newest revision below it.
//!
//! Invariants: separator `i` is above every key of child `i` and not above any of child `i + 1`;
//! only a root is ever a leaf without keys. Underfull neighbours merge when compaction shrinks them.

use std::ops::ControlFlow;
use std::sync::Arc;

use keepd_types::{KeyRange, Revision};

use crate::index::leaf::{Leaf, State, common_prefix};
use crate::index::scan::{RangeScan, Weight};

/// Past states that compaction may remove for each leaf that it may visit.
const PASTS_PER_LEAF: usize = if cfg!(test) { 8 } else { 256 };
/// Children of an inner node before it splits.
const CHILDREN_MAX: usize = if cfg!(test) { 4 } else { 16 };

/// A node.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    /// Keys.
    Leaf(Leaf),
    /// Nodes.
    Inner(Inner),
}

/// A child with what its parent must know of it.
#[derive(Clone, Debug)]
pub(crate) struct Child {
    pub(crate) node: Arc<Node>,
    /// Live keys below.
    pub(crate) live: u64,
    /// The newest main revision below.
    pub(crate) newest: i64,
}

/// A node of nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inner {
    children: Vec<Child>,
    /// Shared between copies of the node: they may be as long as keys, and few writes change them.
    bounds: Arc<Bounds>,
}

/// The separators of a node.
#[derive(Clone, Debug, Default)]
struct Bounds {
    /// Their bytes, one after the other.
    bytes: Vec<u8>,
    /// The end of each.
    ends: Vec<u32>,
}

/// The right half of a node that split.
struct Split {
    bound: Vec<u8>,
    right: Child,
}

impl Child {
    fn new(node: Node) -> Self {
        let (live, newest) = node.summary();
        Self { node: Arc::new(node), live, newest }
    }
}

impl Node {
    fn summary(&self) -> (u64, i64) {
        match self {
            Self::Leaf(leaf) => (leaf.live() as u64, leaf.newest()),
            Self::Inner(inner) => inner
                .children
                .iter()
                .fold((0, 0), |(live, newest), it| (live + it.live, newest.max(it.newest))),
        }
    }

    /// The leaf that holds `key` if any does.
    pub(crate) fn leaf_of(&self, key: &[u8]) -> &Leaf {
        let mut node = self;
        loop {
            match node {
                Self::Leaf(leaf) => return leaf,
                Self::Inner(inner) => node = &inner.children[inner.child_of(key)].node,
            }
        }
    }

    fn for_each_leaf(&self, visit: &mut impl FnMut(&Leaf)) {
        match self {
            Self::Leaf(leaf) => visit(leaf),
            Self::Inner(inner) => {
                inner.children.iter().for_each(|child| child.node.for_each_leaf(visit));
            }
        }
    }

    fn update(
        &mut self,
        key: &[u8],
        next: impl FnOnce(Option<State>) -> State,
    ) -> (Option<State>, Option<Split>) {
        match self {
            Self::Leaf(leaf) => {
                let (old, position) = leaf.update(key, next);
                (old, leaf.is_overfull().then(|| split_leaf(leaf, position)))
            }
            Self::Inner(inner) => {
                let position = inner.child_of(key);
                let child = &mut inner.children[position];
                let node = Arc::make_mut(&mut child.node);
                let (old, split) = node.update(key, next);
                (child.live, child.newest) = node.summary();
                if let Some(split) = split {
                    inner.insert(position + 1, split);
                }
                (old, inner.is_overfull().then(|| inner.split(position)))
            }
        }
    }
}

fn split_leaf(leaf: &mut Leaf, changed: usize) -> Split {
    // Keys that arrive in order fill their leaves: only what was just appended moves on.
    let appended = changed + 1 == leaf.len();
    let middle = if appended { leaf.len() - 1 } else { leaf.len() / 2 };
    let right = leaf.split_off(middle);
    let (before, after) = (leaf.key(leaf.len() - 1), right.key(0));
    let bound = after[..=common_prefix(&before, &after)].to_vec();
    Split { bound, right: Child::new(Node::Leaf(right)) }
}

impl Bounds {
    fn start(&self, position: usize) -> usize {
        position.checked_sub(1).map_or(0, |before| self.ends[before] as usize)
    }

    fn get(&self, position: usize) -> &[u8] {
        &self.bytes[self.start(position)..self.ends[position] as usize]
    }
}

impl Inner {
    /// The children in key order.
    pub(crate) fn children(&self) -> &[Child] {
        &self.children
    }

    /// The child that `key` belongs to.
    pub(crate) fn child_of(&self, key: &[u8]) -> usize {
        self.partition(|bound| bound <= key)
    }

    /// The last child that may hold keys below `end`.
    pub(crate) fn child_before(&self, end: &[u8]) -> usize {
        self.partition(|bound| bound < end)
    }

    fn partition(&self, is_left: impl Fn(&[u8]) -> bool) -> usize {
        let (mut low, mut high) = (0, self.bounds.ends.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if is_left(self.bound(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn bound(&self, position: usize) -> &[u8] {
        self.bounds.get(position)
    }

    /// The separator before the child at `position`, if it has one.
    fn lower(&self, position: usize) -> &[u8] {
        position.checked_sub(1).map_or_else(Default::default, |before| self.bound(before))
    }

    const fn is_overfull(&self) -> bool {
        self.children.len() > CHILDREN_MAX
    }

    /// Adds a child on the right of all.
    fn push(&mut self, bound: &[u8], child: Child) {
        if !self.children.is_empty() {
            let bounds = Arc::make_mut(&mut self.bounds);
            bounds.bytes.extend_from_slice(bound);
            bounds.ends.push(u32_of(bounds.bytes.len()));
        }
        self.children.push(child);
    }

    fn insert(&mut self, position: usize, split: Split) {
        let before = position - 1;
        let bounds = Arc::make_mut(&mut self.bounds);
        let start = bounds.start(before);
        bounds.bytes.splice(start..start, split.bound.iter().copied());
        bounds.ends.insert(before, u32_of(start));
        let len = u32_of(split.bound.len());
        bounds.ends[before..].iter_mut().for_each(|end| *end += len);
        self.children.insert(position, split.right);
    }

    fn split(&mut self, changed: usize) -> Split {
        let appended = changed + 2 == self.children.len();
        let middle = if appended { self.children.len() - 1 } else { self.children.len() / 2 };
        let (mut left, mut right) = (Self::default(), Self::default());
        let bound = self.bound(middle - 1).to_vec();
        for (position, child) in self.children.iter().enumerate() {
            let half = if position < middle { &mut left } else { &mut right };
            let bound = self.lower(position);
            half.push(bound, child.clone());
        }
        *self = left;
        Split { bound, right: Child::new(Node::Inner(right)) }
    }

    /// Merges neighbours that became small.
    fn merge_small(&mut self) {
        let mut merged = Self::default();
        for (position, child) in self.children.iter().enumerate() {
            let bound = self.lower(position);
            let both = merged.children.last().and_then(|last| last.node.merge(bound, &child.node));
            match (both, merged.children.last_mut()) {
                (Some(both), Some(last)) => *last = Child::new(both),
                _ => merged.push(bound, child.clone()),
            }
        }
        *self = merged;
    }
}

impl Node {
    /// This node and its right neighbour in one, if they are small.
    fn merge(&self, bound: &[u8], right: &Self) -> Option<Self> {
        match (self, right) {
            (Self::Leaf(left), Self::Leaf(right)) => {
                left.fits_with(right).then(|| Self::Leaf(Leaf::merge(left, right)))
            }
            (Self::Inner(left), Self::Inner(right)) => {
                (left.children.len() + right.children.len() <= CHILDREN_MAX / 2).then(|| {
                    let mut merged = left.clone();
                    for (position, child) in right.children.iter().enumerate() {
                        let bound = if position == 0 { bound } else { right.bound(position - 1) };
                        merged.push(bound, child.clone());
                    }
                    Self::Inner(merged)
                })
            }
            _ => None,
        }
    }
}

/// The key index.
#[derive(Clone, Debug)]
pub(crate) struct KeyIndex {
    root: Arc<Node>,
    live: u64,
}

impl Default for KeyIndex {
    fn default() -> Self {
        Self { root: Arc::new(Node::Leaf(Leaf::default())), live: 0 }
    }
}

impl KeyIndex {
    /// An index of leaves in key order.
    pub(crate) fn from_leaves(leaves: Vec<Leaf>) -> Self {
        let bound_of = |leaf: &Leaf| leaf.key(0);
        let mut level: Vec<(Vec<u8>, Node)> =
            leaves.into_iter().map(|leaf| (bound_of(&leaf), Node::Leaf(leaf))).collect();
        // BOUND: each round divides the number of nodes by the fan-out.
        while level.len() > 1 {
            let mut parents: Vec<(Vec<u8>, Node)> = Vec::new();
            let mut nodes = level.into_iter().peekable();
            while nodes.peek().is_some() {
                let mut inner = Inner::default();
                let mut first = None;
                // Three quarters full, so that the first writes do not split everything.
                for (bound, node) in nodes.by_ref().take(CHILDREN_MAX * 3 / 4) {
                    inner.push(&bound, Child::new(node));
                    first.get_or_insert(bound);
                }
                parents.push((first.unwrap_or_default(), Node::Inner(inner)));
            }
            level = parents;
        }
        let root = level.pop().map_or_else(|| Node::Leaf(Leaf::default()), |(_, node)| node);
        let live = root.summary().0;
        Self { root: Arc::new(root), live }
    }

    /// The number of live keys.
    pub(crate) const fn live(&self) -> u64 {
        self.live
    }

    /// The latest state of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<State> {
        self.root.leaf_of(key).get(key)
    }

    /// The state of a key at main revision `at`.
    pub(crate) fn get_at(&self, key: &[u8], at: i64) -> Option<State> {
        self.root.leaf_of(key).get_at(key, at)
    }

    /// Whether the record `revision` of `key` is still reachable.
    pub(crate) fn names(&self, key: &[u8], revision: Revision) -> bool {
        self.root.leaf_of(key).names(key, revision)
    }

    /// Sets the state of a key to what `next` makes of the present one, which is returned.
    pub(crate) fn update(
        &mut self,
        key: &[u8],
        next: impl FnOnce(Option<State>) -> State,
    ) -> Option<State> {
        let root = Arc::make_mut(&mut self.root);
        let (old, split) = root.update(key, next);
        if let Some(split) = split {
            let left = std::mem::replace(root, Node::Leaf(Leaf::default()));
            let mut inner = Inner::default();
            inner.push(&[], Child::new(left));
            inner.push(&split.bound, split.right);
            *root = Node::Inner(inner);
        }
        self.live = root.summary().0;
        old
    }

    /// Shows the first `limit` live keys (0: all) of a range at main revision `at` to `visit`, as
    /// prefix, suffix and state, and returns how many there are.
    pub(crate) fn scan(
        &self,
        range: &KeyRange,
        at: i64,
        limit: usize,
        mut visit: impl FnMut(&[u8], &[u8], State),
    ) -> u64 {
        RangeScan::run(&self.root, range, at, limit, |prefix, suffix, state| {
            visit(prefix, suffix, state);
            ControlFlow::Continue(())
        })
    }

    /// Whether all live keys of a range at main revision `at` pass; looks on only while they do.
    /// `None` if there are none.
    pub(crate) fn all(
        &self,
        range: &KeyRange,
        at: i64,
        mut passes: impl FnMut(&[u8], &[u8], State) -> bool,
    ) -> Option<bool> {
        let mut all = true;
        let seen = RangeScan::run(&self.root, range, at, 0, |prefix, suffix, state| {
            all = passes(prefix, suffix, state);
            if all { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        (seen > 0).then_some(all)
    }

    /// The number of keys and states that a walk over a range at main revision `at` looks at; at most about `max`.
    pub(crate) fn weight(&self, range: &KeyRange, at: i64, max: u64) -> u64 {
        Weight { range, at, max }.of(&self.root)
    }

    /// Shows every leaf in key order.
    pub(crate) fn for_each_leaf(&self, mut visit: impl FnMut(&Leaf)) {
        self.root.for_each_leaf(&mut visit);
    }

    /// Removes what compaction at `target` makes unreachable, in at most `leaves_max` leaves from
    /// `cursor` on, and fewer if much of their past goes. The revisions of removed records go to
    /// `dead`. Returns where to go on.
    pub(crate) fn compact(
        &mut self,
        target: i64,
        cursor: &[u8],
        leaves_max: usize,
        dead: &mut Vec<Revision>,
    ) -> Option<Vec<u8>> {
        let budget = leaves_max.saturating_mul(PASTS_PER_LEAF);
        let mut pass = Pass { target, cursor, left: leaves_max, budget, dead, next: None };
        match pass.node(&self.root, &[], true) {
            Outcome::Same => return pass.next,
            Outcome::Gone => *self = Self::default(),
            Outcome::Changed(node) => self.root = Arc::new(node),
        }
        while let Node::Inner(inner) = self.root.as_ref()
            && let [only] = inner.children()
        {
            self.root = Arc::clone(&only.node);
        }
        self.live = self.root.summary().0;
        pass.next
    }
}

/// A bounded pass of compaction over the tree.
struct Pass<'a> {
    target: i64,
    /// Leaves before this key are done.
    cursor: &'a [u8],
    /// Leaves that may still be visited.
    left: usize,
    /// Past states that may still be removed.
    budget: usize,
    dead: &'a mut Vec<Revision>,
    /// The lower bound of the first leaf that is not done.
    next: Option<Vec<u8>>,
}

enum Outcome {
    Same,
    Changed(Node),
    Gone,
}

impl Pass<'_> {
    fn node(&mut self, node: &Node, lower: &[u8], at_cursor: bool) -> Outcome {
        match node {
            Node::Leaf(leaf) => self.leaf(leaf, lower),
            Node::Inner(inner) => self.inner(inner, lower, at_cursor),
        }
    }

    fn leaf(&mut self, leaf: &Leaf, lower: &[u8]) -> Outcome {
        if self.left == 0 {
            self.next.get_or_insert_with(|| lower.to_vec());
            return Outcome::Same;
        }
        self.left -= 1;
        let rest = leaf.compact(self.target, &mut self.budget, self.dead);
        if self.budget == 0 {
            self.next = Some(lower.to_vec());
        }
        match rest {
            None => Outcome::Same,
            Some(rest) if rest.len() == 0 => Outcome::Gone,
            Some(rest) => Outcome::Changed(Node::Leaf(rest)),
        }
    }

    fn inner(&mut self, inner: &Inner, lower: &[u8], at_cursor: bool) -> Outcome {
        let first = if at_cursor { inner.child_of(self.cursor) } else { 0 };
        let mut changed: Option<Inner> = None;
        for (position, child) in inner.children.iter().enumerate() {
            let bound = if position == 0 { lower } else { inner.bound(position - 1) };
            let outcome = if position < first || self.next.is_some() {
                Outcome::Same
            } else {
                self.node(&child.node, bound, at_cursor && position == first)
            };
            if changed.is_none() && !matches!(outcome, Outcome::Same) {
                changed = Some(inner.head(position));
            }
            let Some(changed) = &mut changed else { continue };
            match outcome {
                Outcome::Same => changed.push(bound, child.clone()),
                Outcome::Changed(node) => changed.push(bound, Child::new(node)),
                Outcome::Gone => {}
            }
        }
        match changed {
            None => Outcome::Same,
            Some(mut rest) => {
                rest.merge_small();
                if rest.children.is_empty() {
                    Outcome::Gone
                } else {
                    Outcome::Changed(Node::Inner(rest))
                }
            }
        }
    }
}

impl Inner {
    /// The first `count` children.
    fn head(&self, count: usize) -> Self {
        let mut head = Self::default();
        for (position, child) in self.children.iter().take(count).enumerate() {
            let bound = self.lower(position);
            head.push(bound, child.clone());
        }
        head
    }
}

fn u32_of(len: usize) -> u32 {
    u32::try_from(len).expect("separators are parts of keys, which requests limit")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(main: i64) -> State {
        State { main, sub: 0, create: main, version: 1 }
    }

    /// Separators can be as long as keys, and a request may change a hundred keys of a megabyte.
    #[test]
    fn a_write_copies_no_separator() {
        let mut index = KeyIndex::default();
        let key = |number: usize| format!("{}{number:03}", "k".repeat(1000));
        for number in 0..100 {
            index.update(key(number).as_bytes(), |_| state(1));
        }
        let before = index.clone();
        index.update(key(50).as_bytes(), |_| state(2));
        let (mut old, mut new) = (&*before.root, &*index.root);
        let mut depth = 0;
        while let (Node::Inner(a), Node::Inner(b)) = (old, new) {
            assert!(Arc::ptr_eq(&a.bounds, &b.bounds));
            let position = a.child_of(key(50).as_bytes());
            (old, new) = (&a.children[position].node, &b.children[position].node);
            depth += 1;
        }
        assert!(depth > 1 && !std::ptr::eq(old, new), "the leaf below was copied");
    }
}
