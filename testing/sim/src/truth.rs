//! The truth of a run: every change in the order of revisions, taken from whichever member shows it first.
//!
//! A published view shows what is committed, so what the first member shows all others must show too:
//! their digests are compared with one another while the run goes on. So the checks of what clients saw
//! need no search for an order; only unknown outcomes are searched for what they did.

use std::collections::BTreeMap;

use bytes::Bytes;
use keepd_crypto::ValueSealer;
use keepd_mvcc::{Change, ChangeKind, View};
use keepd_types::{KeyRange, KeyValue, Revision, StoredValue};

use crate::history::{Moment, Pair};

/// BOUND: revisions taken from a view at once.
const PAGE_REVISIONS: usize = 1000;

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
    #[cfg(test)]
    pub(crate) fn with(facts: Vec<Fact>) -> Self {
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

    /// Takes in what a view shows beyond what is known.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn learn(
        &mut self,
        view: &View,
        sealer: &ValueSealer,
        mut moment: impl FnMut() -> Moment,
    ) -> Result<(), String> {
        self.compacted = self.compacted.max(view.compact_revision());
        while self.revision < view.revision() {
            let shown = moment();
            let page = view.changes(self.revision + 1, PAGE_REVISIONS);
            let page = page.map_err(|error| format!("the history cannot be read: {error}"))?;
            for change in &page.changes {
                self.facts.push(fact(change, sealer, shown)?);
            }
            self.revision = page.next - 1;
        }
        Ok(())
    }
}

/// A change as a client sees it.
pub(crate) fn fact(change: &Change, sealer: &ValueSealer, shown: Moment) -> Result<Fact, String> {
    let pair = match change.kind {
        ChangeKind::Put => Some(pair(&change.record, sealer)?),
        ChangeKind::Delete => None,
    };
    Ok(Fact { revision: change.revision, pair, key: change.key.clone(), shown })
}

/// A record as a client sees it.
pub(crate) fn pair(record: &keepd_mvcc::Record, sealer: &ValueSealer) -> Result<Pair, String> {
    let found = KeyValue::decode(&record.encoded).map_err(|error| error.to_string())?;
    let stored = StoredValue { bytes: found.value, seal: record.seal };
    let value = sealer.open(&found.key, &stored);
    Ok(Pair {
        value: value.map_err(|error| format!("the value of {:?}: {error}", found.key))?,
        key: found.key,
        mod_revision: found.mod_revision,
        create_revision: found.create_revision,
        version: found.version,
        lease: found.lease,
    })
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
