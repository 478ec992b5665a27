//! Progress of the members, as the leader knows it, and handing over leadership.

use raft::{INVALID_ID, ProgressState, SnapshotStatus, StateRole};

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

    /// Stops leading, because the disk or the state machine of this member hangs; returns the voter
    /// that it asks to take over. What was proposed may still be committed.
    ///
    /// A lone voter goes on: nobody else could lead.
    pub fn step_down(&mut self) -> Option<u64> {
        if !self.is_leader() || self.conf_state.is_alone(self.settings.id) {
            return None;
        }
        let heir = self.hand_over();
        self.after_event();
        heir
    }

    /// Becomes a follower of its own term, which has no leader then. A leader asks a voter to take
    /// over: one that was heard lately, with as much of the log as any, and with everything committed.
    pub(super) fn hand_over(&mut self) -> Option<u64> {
        let raft = &self.raw.raft;
        let voters = self.conf_state.voters.iter().filter(|id| **id != self.settings.id);
        let known = voters.filter_map(|id| raft.prs().get(*id).map(|progress| (*id, progress)));
        let fit = known.filter(|(_, progress)| progress.matched >= raft.raft_log.committed);
        let best = fit.max_by_key(|(id, progress)| {
            (progress.recent_active, progress.matched, std::cmp::Reverse(*id))
        });
        let heir = best.map(|(id, _)| id).filter(|_| self.is_leader());
        let raft = &mut self.raw.raft;
        if let Some(heir) = heir {
            raft.send_timeout_now(heir);
        }
        raft.become_follower(raft.term, INVALID_ID);
        heir
    }

    /// Says whether the disk or the state machine of this member hangs. While it does, the member
    /// does not stand for election; it follows and votes, as slow as its disk. A lone voter stands
    /// all the same. A leader goes on until [`Self::step_down`].
    pub fn set_stalled(&mut self, is_stalled: bool) {
        self.is_stalled = is_stalled;
        if !is_stalled || !self.must_not_stand() {
            return;
        }
        self.held_handover = None;
        if self.raw.raft.state != StateRole::Follower {
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, INVALID_ID);
        }
        self.after_event();
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
