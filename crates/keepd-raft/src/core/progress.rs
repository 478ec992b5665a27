//! Progress of the members, as the leader knows it, and handing over leadership.

use raft::{ProgressState, SnapshotStatus};

use super::{Core, Error};

/// The way in which the leader sends its log to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    /// One message at a time, until it is known where the logs part.
    Probe,
    /// As the log grows.
    Replicate,
    /// Not at all: the member gets the state of the store.
    Snapshot,
}

/// Progress of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The member.
    pub id: u64,
    /// The last entry that it has for certain.
    pub matched: u64,
    /// The next entry to send.
    pub next: u64,
    /// The way in which it gets the log.
    pub replication: Replication,
    /// Index of the snapshot that is on its way; 0 if none is.
    pub pending_snapshot: u64,
    /// Whether it was heard since the last check of the quorum, which is once in an election
    /// timeout.
    pub is_active: bool,
    /// Whether it learns only.
    pub is_learner: bool,
}

/// The end of sending a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotEnd {
    /// The member has it.
    Finished,
    /// It does not; it is tried again.
    Failed,
}

impl Core {
    /// Progress of all members, by id; empty unless this member leads.
    #[must_use]
    pub fn progress(&self) -> Vec<Progress> {
        if !self.is_leader() {
            return Vec::new();
        }
        let own = self.settings.id;
        let members = self.raw.raft.prs().iter().map(|(id, progress)| Progress {
            id: *id,
            matched: progress.matched,
            next: progress.next_idx,
            replication: match progress.state {
                ProgressState::Probe => Replication::Probe,
                ProgressState::Replicate => Replication::Replicate,
                ProgressState::Snapshot => Replication::Snapshot,
            },
            pending_snapshot: progress.pending_snapshot,
            is_active: *id == own || progress.recent_active,
            is_learner: self.conf_state.learners.contains(id),
        });
        let mut members: Vec<Progress> = members.collect();
        members.sort_unstable_by_key(|progress| progress.id);
        members
    }

    /// Hands leadership to a voter. It proposes nothing until that is done or an election timeout
    /// has passed.
    ///
    /// # Errors
    /// If this member does not lead, or the other does not vote.
    pub fn transfer_leader(&mut self, to: u64) -> Result<(), Error> {
        if !self.is_leader() {
            return Err(Error::NoLeader);
        }
        if !self.conf_state.is_voter(to) {
            return Err(Error::NotVoter);
        }
        self.raw.transfer_leader(to);
        self.after_event();
        Ok(())
    }

    /// Notes that messages to a member were lost.
    pub fn report_unreachable(&mut self, id: u64) {
        self.raw.report_unreachable(id);
    }

    /// Notes that sending a snapshot has ended: the member gets no entries until then.
    pub fn report_snapshot(&mut self, id: u64, end: SnapshotEnd) {
        let status = match end {
            SnapshotEnd::Finished => SnapshotStatus::Finish,
            SnapshotEnd::Failed => SnapshotStatus::Failure,
        };
        self.raw.report_snapshot(id, status);
        self.after_event();
    }
}
