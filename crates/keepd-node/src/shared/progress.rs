//! Progress of the member: Raft's term and leader, the commit and applied index, and the tasks that
//! wait between the two.

use std::sync::atomic::{AtomicBool, AtomicU64};

use crate::shared::leadership::Leadership;
use crate::shared::unapplied::Unapplied;

#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Raft's current term.
    pub(crate) term: AtomicU64,
    /// The known leader, 0 if none.
    pub(crate) leader: AtomicU64,
    pub(crate) commit_index: AtomicU64,
    pub(crate) applied_index: AtomicU64,
    /// The first entry of the log that another member lacks; 0 if none does, or this member follows.
    pub(crate) log_needed: AtomicU64,
    /// Times the leader changed, as this member saw it.
    pub(crate) leader_changes: AtomicU64,
    /// Whether this member learns only, as of the applied index.
    pub(crate) is_learner: AtomicBool,
    /// In which term this member leads, if it does.
    pub(crate) leadership: Leadership,
    /// Entries that are committed and not published.
    pub(crate) unapplied: Unapplied,
    /// The log owes a confirmation, after which the Raft part reacts to what is queued.
    pub(crate) is_syncing: AtomicBool,
    /// The newest batch had several proposals: the next one will likely have too.
    pub(crate) commits_in_groups: AtomicBool,
}
