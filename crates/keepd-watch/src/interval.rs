//! Ranges by the keys they hold: an AVL tree ordered by (start, end) in which each node knows the
//! furthest end below it.
//!
//! Finding the `k` ranges that hold a key takes O((1 + k) log n) and touches no other range, also
//! when ten thousand prefixes stand side by side. Balanced by height rather than by chance, because
//! clients choose what is inserted; recursion is bounded by that height, 1.44 log2 n.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use bytes::Bytes;
use keepd_types::{KeyRange, RangeEnd};

use crate::slab::Slot;

/// End of a range; the order is that of the ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Bytes),
    Never,
}

impl End {
    fn is_after(&self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => end.as_ref() > key,
            Self::Never => true,
        }
    }
}

#[derive(Debug)]
struct Node {
    start: Bytes,
    end: End,
    /// Watchers of exactly this range; never empty.
    slots: BTreeSet<Slot>,
    /// The furthest end in this subtree.
    max_end: End,
    height: u8,
    left: Tree,
    right: Tree,
}

type Tree = Option<Box<Node>>;

/// A set of ranges, each with its watchers.
#[derive(Debug, Default)]
pub(crate) struct IntervalTree {
    root: Tree,
}

impl IntervalTree {
    /// Adds a watcher of a range that is no point.
    pub(crate) fn insert(&mut self, range: &KeyRange, slot: Slot) {
        self.root = Some(insert(self.root.take(), &range.start, &end_of(range), slot));
    }

    /// Removes a watcher; it must have been added with this range.
    pub(crate) fn remove(&mut self, range: &KeyRange, slot: Slot) {
        self.root = remove(self.root.take(), &range.start, &end_of(range), slot);
    }

    /// Calls `found` for each watcher whose range holds `key`.
    pub(crate) fn stab(&self, key: &[u8], found: &mut impl FnMut(Slot)) {
        stab(&self.root, key, found);
    }
}

fn end_of(range: &KeyRange) -> End {
    match &range.end {
        RangeEnd::Before(end) => End::Before(end.clone()),
        RangeEnd::Open => End::Never,
        RangeEnd::Point => unreachable!("points are kept apart"),
    }
}

fn stab(tree: &Tree, key: &[u8], found: &mut impl FnMut(Slot)) {
    let Some(node) = tree else { return };
    if !node.max_end.is_after(key) {
        return;
    }
    stab(&node.left, key, found);
    if node.start.as_ref() <= key {
        if node.end.is_after(key) {
            node.slots.iter().copied().for_each(&mut *found);
        }
        stab(&node.right, key, found);
    }
}

fn insert(tree: Tree, start: &Bytes, end: &End, slot: Slot) -> Box<Node> {
    let Some(mut node) = tree else {
        return Box::new(Node {
            start: start.clone(),
            end: end.clone(),
            slots: BTreeSet::from([slot]),
            max_end: end.clone(),
            height: 1,
            left: None,
            right: None,
        });
    };
    match (start, end).cmp(&(&node.start, &node.end)) {
        Ordering::Less => node.left = Some(insert(node.left.take(), start, end, slot)),
        Ordering::Greater => node.right = Some(insert(node.right.take(), start, end, slot)),
        Ordering::Equal => {
            let is_new = node.slots.insert(slot);
            assert!(is_new, "a watcher is inserted once");
        }
    }
    balance(node)
}

fn remove(tree: Tree, start: &Bytes, end: &End, slot: Slot) -> Tree {
    let mut node = tree.expect("what is removed was inserted");
    match (start, end).cmp(&(&node.start, &node.end)) {
        Ordering::Less => node.left = remove(node.left.take(), start, end, slot),
        Ordering::Greater => node.right = remove(node.right.take(), start, end, slot),
        Ordering::Equal => {
            let was_there = node.slots.remove(&slot);
            assert!(was_there, "what is removed was inserted");
            if node.slots.is_empty() {
                return join(node.left.take(), node.right.take());
            }
        }
    }
    Some(balance(node))
}

/// One tree of two whose heights differ by at most one, everything in `left` before `right`.
fn join(left: Tree, right: Tree) -> Tree {
    let Some(right) = right else { return left };
    let (mut first, rest) = take_first(right);
    first.left = left;
    first.right = rest;
    Some(balance(first))
}

fn take_first(mut node: Box<Node>) -> (Box<Node>, Tree) {
    let Some(left) = node.left.take() else {
        let rest = node.right.take();
        return (node, rest);
    };
    let (first, rest) = take_first(left);
    node.left = rest;
    (first, Some(balance(node)))
}

fn height(tree: &Tree) -> u8 {
    tree.as_ref().map_or(0, |node| node.height)
}

fn update(node: &mut Node) {
    node.height = 1 + height(&node.left).max(height(&node.right));
    let below = [&node.left, &node.right].into_iter().flatten().map(|child| &child.max_end);
    node.max_end = below.fold(&node.end, Ord::max).clone();
}

fn balance(mut node: Box<Node>) -> Box<Node> {
    let (left, right) = (height(&node.left), height(&node.right));
    if left > right + 1 {
        let child = node.left.take().expect("the higher side is there");
        let child =
            if height(&child.right) > height(&child.left) { rotate_left(child) } else { child };
        node.left = Some(child);
        rotate_right(node)
    } else if right > left + 1 {
        let child = node.right.take().expect("the higher side is there");
        let child =
            if height(&child.left) > height(&child.right) { rotate_right(child) } else { child };
        node.right = Some(child);
        rotate_left(node)
    } else {
        update(&mut node);
        node
    }
}

fn rotate_left(mut node: Box<Node>) -> Box<Node> {
    let mut top = node.right.take().expect("the side that is rotated up is there");
    node.right = top.left.take();
    update(&mut node);
    top.left = Some(node);
    update(&mut top);
    top
}

fn rotate_right(mut node: Box<Node>) -> Box<Node> {
    let mut top = node.left.take().expect("the side that is rotated up is there");
    node.left = top.right.take();
    update(&mut node);
    top.right = Some(node);
    update(&mut top);
    top
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::Slab;
    use proptest::prelude::*;

    fn assert_balanced(tree: &Tree) {
        let Some(node) = tree else { return };
        assert_balanced(&node.left);
        assert_balanced(&node.right);
        assert!(height(&node.left).abs_diff(height(&node.right)) <= 1);
        assert_eq!(node.height, 1 + height(&node.left).max(height(&node.right)));
    }

    fn found(tree: &IntervalTree, key: &[u8]) -> Vec<Slot> {
        let mut slots = Vec::new();
        tree.stab(key, &mut |slot| slots.push(slot));
        slots.sort_unstable();
        slots
    }

    /// Few letters, so that ranges nest, touch and coincide.
    fn key() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(b'a'..b'd', 0..4).prop_map(Bytes::from)
    }

    proptest! {
        #[test]
        fn a_key_finds_exactly_the_ranges_that_hold_it(
            ranges in proptest::collection::vec((key(), proptest::option::of(key()), any::<bool>()), 1..60),
            keys in proptest::collection::vec(key(), 1..20),
        ) {
            let mut slab = Slab::new();
            let mut tree = IntervalTree::default();
            let mut model = Vec::new();
            for (start, end, _) in &ranges {
                let end = end.clone().map_or(RangeEnd::Open, RangeEnd::Before);
                let range = KeyRange { start: start.clone(), end };
                let slot = slab.insert(());
                tree.insert(&range, slot);
                model.push((slot, range));
                assert_balanced(&tree.root);
            }
            let mut keep = ranges.iter().map(|(_, _, keep)| *keep);
            model.retain(|(slot, range)| {
                let keep = keep.next().unwrap();
                if !keep {
                    tree.remove(range, *slot);
                    assert_balanced(&tree.root);
                }
                keep
            });
            for key in &keys {
                let expected: Vec<_> =
                    model.iter().filter(|(_, range)| range.contains(key)).map(|(slot, _)| *slot).collect();
                prop_assert_eq!(found(&tree, key), expected);
            }
        }
    }

    #[test]
    fn sorted_prefixes_stay_balanced() {
        let mut slab = Slab::new();
        let mut tree = IntervalTree::default();
        for i in 0..10_000 {
            let range =
                KeyRange::from_request(format!("/p/{i:05}/").into(), format!("/p/{i:05}0").into());
            tree.insert(&range, slab.insert(()));
        }
        assert_balanced(&tree.root);
        assert!(height(&tree.root) <= 19);
        assert_eq!(found(&tree, b"/p/04711/x").len(), 1);
        assert_eq!(found(&tree, b"/p/04711").len(), 0);
    }
}
