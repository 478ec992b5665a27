//! State machine safety: members that have applied the same entries have the same state, at every index.

use std::collections::BTreeMap;

use keepd_mvcc::View;
use keepd_types::MemberId;

use super::{Verdict, verdict};

/// The digests of all states that were seen, by the applied index.
#[derive(Debug, Default)]
pub struct StateMachineSafety {
    /// By the index after which the digest begins and the applied one.
    digests: BTreeMap<(u64, u64), (u64, i64)>,
    /// The last revision at each index.
    revisions: BTreeMap<u64, i64>,
}

impl StateMachineSafety {
    /// Takes in what a member shows.
    ///
    /// # Errors
    /// If another one showed something else at the same index.
    pub fn observe(&mut self, member: MemberId, view: &View) -> Verdict {
        let (digest, revision) = (view.digest(), view.revision());
        let index = view.applied().index;
        let at = (digest.since, digest.index);
        let found = (digest.value, revision);
        let known = *self.digests.entry(at).or_insert(found);
        let known_revision = *self.revisions.entry(index).or_insert(revision);
        let result = if known == found && known_revision == revision {
            Ok(())
        } else {
            Err(format!("{member} at index {index}: {found:?}, another: {known:?}"))
        };
        verdict("state_machine_safety", result)
    }
}
