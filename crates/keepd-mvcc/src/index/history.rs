//! The old states of one key, oldest first: a persistent sequence.
//!
//! States lie in chunks; [`FANOUT`] neighbouring nodes of one height become one node of the next, so
//! that the list of nodes at the top stays short: at most twice `FANOUT` of each height, low ones at both
//! ends. Copies share every chunk and every node. Appending costs the same however long the sequence
//! is, finding takes a search per height, and dropping the oldest states costs what is dropped.

use std::sync::Arc;

use keepd_types::Revision;

use crate::index::leaf::State;
use crate::index::steps;

/// Neighbours of one height that become one node.
const FANOUT: usize = if cfg!(test) { 3 } else { 16 };
/// States in a chunk, at most.
const CHUNK_MAX: usize = if cfg!(test) { 8 } else { 256 };
/// A last chunk with fewer is filled up before another is begun.
const CHUNK_FULL: usize = CHUNK_MAX / 8;

/// The place of a state in time: main and sub revision.
type Mark = (i64, u32);

const fn mark_of(state: &State) -> Mark {
    (state.main, state.sub)
}

/// The old states of one key.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    nodes: Arc<Vec<Node>>,
}

/// Neighbouring states.
#[derive(Clone, Debug)]
struct Node {
    /// The oldest state's.
    first: Mark,
    height: u8,
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    /// Never empty.
    Chunk(Arc<[State]>),
    /// Nodes of one height less.
    Inner(Arc<[Node]>),
}

impl Node {
    /// `None` if there are no states.
    fn chunk(states: &[State]) -> Option<Self> {
        let first = mark_of(states.first()?);
        Some(Self { first, height: 0, body: Body::Chunk(states.into()) })
    }

    fn for_each(&self, visit: &mut impl FnMut(&State)) {
        match &self.body {
            Body::Chunk(states) => states.iter().for_each(visit),
            Body::Inner(children) => children.iter().for_each(|child| child.for_each(visit)),
        }
    }

    fn last(&self) -> Option<&State> {
        let mut node = self;
        loop {
            match &node.body {
                Body::Chunk(states) => return states.last(),
                Body::Inner(children) => node = children.last()?,
            }
        }
    }
}

impl History {
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The newest state.
    pub(crate) fn newest(&self) -> Option<&State> {
        self.nodes.last()?.last()
    }

    /// Shows every state, oldest first.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&State)) {
        self.nodes.iter().for_each(|node| node.for_each(&mut visit));
    }

    /// Adds states that are newer than all others.
    pub(crate) fn append(&mut self, states: &[State]) {
        steps::count(self.nodes.len() + states.len());
        let nodes = Arc::make_mut(&mut self.nodes);
        let unfilled = nodes.pop_if(|last| match &last.body {
            Body::Chunk(states) => states.len() < CHUNK_FULL,
            Body::Inner(_) => false,
        });
        let joined = match unfilled {
            Some(Node { body: Body::Chunk(last), .. }) => [&*last, states].concat(),
            _ => states.to_vec(),
        };
        for chunk in joined.chunks(CHUNK_MAX) {
            nodes.extend(Node::chunk(chunk));
            gather(nodes);
        }
    }

    /// The state of the key at main revision `at`.
    pub(crate) fn at(&self, at: i64) -> Option<&State> {
        self.last_until((at, u32::MAX))
    }

    /// Whether a state has this revision.
    pub(crate) fn names(&self, revision: Revision) -> bool {
        let Ok(sub) = u32::try_from(revision.sub) else { return false };
        self.last_until((revision.main, sub)).is_some_and(|state| state.revision() == revision)
    }

    /// The newest state at `mark` or before it.
    fn last_until(&self, mark: Mark) -> Option<&State> {
        let mut nodes: &[Node] = &self.nodes;
        // BOUND: each round goes down one height.
        loop {
            steps::count(1);
            let position = nodes.partition_point(|node| node.first <= mark).checked_sub(1)?;
            match &nodes[position].body {
                Body::Inner(children) => nodes = children,
                Body::Chunk(states) => {
                    let behind = states.partition_point(|state| mark_of(state) <= mark);
                    return states.get(behind.checked_sub(1)?);
                }
            }
        }
    }

    /// Drops what compaction at `target` makes unreachable, at most `budget` states, whose revisions go
    /// to `dead`. The newest state was superseded at main revision `until`.
    pub(crate) fn compact(
        &mut self,
        target: i64,
        until: i64,
        budget: &mut usize,
        dead: &mut Vec<Revision>,
    ) {
        let Some(last) = self.at(target) else { return };
        // The last state that compaction finds is what the key was then; it stays unless it was
        // nothing, or something in the same revision came after it.
        let is_newest = self.newest().is_some_and(|newest| mark_of(newest) == mark_of(last));
        let is_gone = last.is_expired(target) || (is_newest && until <= target);
        let bound = if is_gone { (last.main, last.sub + 1) } else { mark_of(last) };
        if self.nodes.first().is_none_or(|first| first.first >= bound) {
            return;
        }
        steps::count(self.nodes.len());
        let nodes = Arc::make_mut(&mut self.nodes);
        while *budget > 0 && nodes.first().is_some_and(|first| first.first < bound) {
            match nodes.remove(0).body {
                Body::Inner(children) => {
                    steps::count(children.len());
                    nodes.splice(0..0, children.iter().cloned());
                }
                Body::Chunk(states) => {
                    let gone = states.partition_point(|state| mark_of(state) < bound).min(*budget);
                    steps::count(states.len());
                    dead.extend(states[..gone].iter().map(State::revision));
                    *budget -= gone;
                    nodes.splice(0..0, Node::chunk(&states[gone..]));
                    if gone < states.len() {
                        return;
                    }
                }
            }
        }
    }
}

/// Puts the last nodes under one as long as there are enough of one height.
fn gather(nodes: &mut Vec<Node>) {
    // BOUND: each round makes the list shorter.
    while let Some(at) = nodes.len().checked_sub(FANOUT) {
        let height = nodes[at].height;
        if nodes[at..].iter().any(|node| node.height != height) {
            return;
        }
        let children: Arc<[Node]> = nodes.drain(at..).collect();
        let first = children[0].first;
        nodes.push(Node { first, height: height + 1, body: Body::Inner(children) });
    }
}
