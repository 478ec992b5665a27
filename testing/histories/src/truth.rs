//! The truth of a run: every change in the order of revisions, taken from whichever member shows it first.
//!
//! A published view shows what is committed, so what the first member shows all others must show too:
//! their digests are compared with one another while the run goes on. So the checks of what clients saw
//! need no search for an order; only unknown outcomes are searched for what they did.

use std::collections::BTreeMap;

use bytes::Bytes;
use keepd_types::{KeyRange, Revision};

use crate::history::{Moment, Pair};

/// A change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Its place in the order.
    pub revision: Revision,
    /// The key as it is from there on; `None` if it was removed.
    pub pair: Option<Pair>,
    /// The key.
    pub key: Bytes,
    /// The moment at which the first member showed it.
    pub shown: Moment,
}

/// Every change of a run.
#[derive(Debug, Default)]
pub struct Truth {
    facts: Vec<Fact>,
    revision: i64,
    compacted: i64,
}

impl Truth {
    /// The truth of a store that nothing was written to.
    #[must_use]
    pub const fn new() -> Self {
        Self { facts: Vec::new(), revision: 1, compacted: -1 }
    }

    /// The truth of these changes.
    #[must_use]
    pub fn with(facts: Vec<Fact>) -> Self {
        let revision = facts.last().map_or(1, |fact| fact.revision.main);
        Self { facts, revision, compacted: -1 }
    }

    /// The last revision that a member has shown.
    #[must_use]
    pub const fn revision(&self) -> i64 {
        self.revision
    }

    /// The last revision that a member has compacted to.
    #[must_use]
    pub const fn compacted(&self) -> i64 {
        self.compacted
    }

    /// All changes, in order.
    #[must_use]
    pub fn facts(&self) -> &[Fact] {
        &self.facts
    }

    /// The changes from a main revision on.
    #[must_use]
    pub fn from(&self, main: i64) -> &[Fact] {
        let first = self.facts.partition_point(|fact| fact.revision.main < main);
        &self.facts[first..]
    }

    /// The changes of one main revision.
    #[must_use]
    pub fn of(&self, main: i64) -> &[Fact] {
        let facts = self.from(main);
        &facts[..facts.partition_point(|fact| fact.revision.main == main)]
    }

    /// Takes in a change, which is not before the last one.
    pub fn push(&mut self, fact: Fact) {
        self.revision = self.revision.max(fact.revision.main);
        self.facts.push(fact);
    }

    /// All changes up to a revision are taken in.
    pub fn reach(&mut self, revision: i64) {
        self.revision = self.revision.max(revision);
    }

    /// History is forgotten up to a revision.
    pub fn compact(&mut self, revision: i64) {
        self.compacted = self.compacted.max(revision);
    }
}

/// The keys as they are at one revision after the other.
#[derive(Debug, Default)]
pub struct Replay {
    keys: BTreeMap<Bytes, Pair>,
    taken: usize,
}

impl Replay {
    /// Goes on to a revision, which is not before the one it stands at.
    pub fn go_to(&mut self, truth: &Truth, main: i64) {
        while let Some(fact) = truth.facts.get(self.taken).filter(|it| it.revision.main <= main) {
            self.taken += 1;
            match &fact.pair {
                Some(pair) => self.keys.insert(fact.key.clone(), pair.clone()),
                None => self.keys.remove(&fact.key),
            };
        }
    }

    /// A key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Pair> {
        self.keys.get(key)
    }

    /// The keys of a range, in order.
    #[must_use]
    pub fn range(&self, range: &KeyRange) -> Vec<Pair> {
        let pairs = self.keys.values().filter(|pair| range.contains(&pair.key));
        pairs.cloned().collect()
    }
}
