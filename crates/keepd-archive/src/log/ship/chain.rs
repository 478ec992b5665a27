//! The chain that is being shipped.

use keepd_backup::Mark;

use crate::Moment;
use crate::log::batch::After;
use crate::log::name::{BatchName, ChainName};

/// A chain, and where it ends.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) name: ChainName,
    /// The number of the next batch.
    pub(super) number: u64,
    /// The place of the next batch.
    pub(super) after: After,
    /// The last entry.
    pub(super) last: u64,
    pub(super) term: u64,
    pub(super) revision: i64,
    pub(super) tag: u64,
    pub(super) until: Moment,
}

impl Chain {
    /// A chain that begins behind a state.
    pub(super) const fn new(name: ChainName, state: &Mark, tag: u64, reason: String) -> Self {
        Self {
            name,
            number: 0,
            after: After::Begin(reason),
            last: state.position.index,
            term: state.position.term,
            revision: state.revision,
            tag,
            until: name.begin,
        }
    }

    /// A chain that goes on behind a batch.
    pub(super) fn behind(name: ChainName, last: &BatchName, sha256: &str) -> Self {
        let after = After::Begin(String::new());
        let mut chain = Self {
            name,
            number: 0,
            after,
            last: 0,
            term: 0,
            revision: 0,
            tag: 0,
            until: last.until,
        };
        chain.advance(last, sha256);
        chain
    }

    /// A batch is shipped.
    pub(super) fn advance(&mut self, batch: &BatchName, sha256: &str) {
        self.number = batch.number.saturating_add(1);
        self.after = After::Batch { name: batch.to_string(), sha256: sha256.to_owned() };
        (self.last, self.term, self.tag) = (batch.last, batch.term, batch.tag);
        (self.revision, self.until) = (batch.revision, batch.until);
    }
}
