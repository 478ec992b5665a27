//! Changes of the configuration: proposed one at a time, applied as a barrier (rule 9.16).

use keepd_types::{Entry, EntryKind};
use raft::StateRole;

use super::convert::from_raft;
use super::{Core, Error};
use crate::conf_change::{ConfChange, ConfState};

/// The state machine's answer to a committed change of the configuration. All members give the
/// same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The change takes effect.
    Accepted,
    /// Nothing changes.
    Rejected,
}

/// A committed change that is not applied.
#[derive(Debug)]
pub(super) struct PendingChange {
    pub(super) index: u64,
    change: ConfChange,
}

impl PendingChange {
    pub(super) fn of(entry: &Entry) -> Option<Self> {
        (entry.kind != EntryKind::Normal).then(|| Self {
            index: entry.index,
            change: ConfChange::decode(&entry.data).expect("it was checked when it came"),
        })
    }
}

impl Core {
    /// Proposes a change of the configuration; returns its index and term. Only the leader does,
    /// and only while no other change is under way.
    ///
    /// # Errors
    /// If nothing was appended.
    pub fn propose_conf_change(&mut self, change: &ConfChange) -> Result<(u64, u64), Error> {
        if !self.is_leader() {
            return Err(Error::NoLeader);
        }
        if self.raw.raft.has_pending_conf() {
            return Err(Error::ConfChangePending);
        }
        if let Some(reason) = self.conf_state.refuse(change) {
            return Err(Error::ConfChangeRefused(reason));
        }
        let raft_change = change.to_raft();
        if !change.steps.is_empty() {
            self.rehearse(&raft_change)?;
        }
        let index = self.raw.raft.raft_log.last_index() + 1;
        let context = change.encode().to_vec();
        match self.raw.propose_conf_change(context, raft_change) {
            Ok(()) => {
                assert_eq!(self.raw.raft.pending_conf_index, index, "raft has taken the change");
                Ok((index, self.raw.raft.term))
            }
            Err(raft::Error::ProposalDropped) => Err(Error::ProposalDropped),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the change on a copy: what raft refuses must not enter the log.
    fn rehearse(&self, change: &raft::eraftpb::ConfChangeV2) -> Result<(), Error> {
        let mut changer = raft::Changer::new(self.raw.raft.prs());
        let made = match change.enter_joint() {
            Some(auto_leave) => changer.enter_joint(auto_leave, &change.changes),
            None => changer.simple(&change.changes),
        };
        made.map(drop).map_err(|_none_left| Error::ConfChangeRefused("no voter would be left"))
    }

    /// Applies the change of the configuration at `index`, as the state machine decided, and
    /// everything before it. Returns the configuration that counts from there on.
    ///
    /// A leader that does not vote any more steps down; it asks a voter that has everything committed
    /// to take over.
    ///
    /// # Panics
    /// If no change was handed out at this index, or an earlier one is not applied.
    pub fn apply_conf_change(&mut self, index: u64, verdict: Verdict) -> ConfState {
        let pending = self.pending_changes.front().filter(|pending| pending.index == index);
        assert!(pending.is_some(), "changes are applied in order, each once");
        if index - 1 > self.raw.raft.raft_log.applied {
            self.applied(index - 1);
        }
        let PendingChange { change, .. } = self.pending_changes.pop_front().expect("just seen");
        // A change that a leader proposed fits the configuration it was proposed in, which is this
        // one: there is one at a time. One that does not fit changes nothing, on every member.
        if verdict == Verdict::Accepted && self.conf_state.refuse(&change).is_none() {
            match self.raw.apply_conf_change(&change.to_raft()) {
                Ok(state) => self.conf_state = ConfState::from_raft(&state),
                Err(raft::Error::ConfChangeError(_)) => {}
                Err(error) => unreachable!("no other error comes of a change: {error}"),
            }
            assert!(self.conf_state.is_sound(), "a change leaves a sound configuration");
            self.step_down_without_vote();
        }
        let last = self.raw.raft.raft_log.last_index();
        self.applied(index);
        if self.is_leader() && self.raw.raft.raft_log.last_index() > last {
            // raft has appended the end of a joint change, and sends it with the next heartbeat.
            self.raw.raft.bcast_append();
        }
        self.conf_state.clone()
    }

    /// [`keepd_env::mutants::Mutant::ChangeAtAppend`].
    pub(super) fn change_at_append(&mut self, entries: &[raft::eraftpb::Entry]) {
        for entry in entries.iter().cloned().map(from_raft) {
            if let Some(PendingChange { change, .. }) = PendingChange::of(&entry) {
                // Applied again it changes nothing.
                let _changed = self.raw.apply_conf_change(&change.to_raft());
            }
        }
    }

    /// Ends leading or standing for election of a member that does not vote any more: raft expects
    /// its own progress in the configuration then.
    fn step_down_without_vote(&mut self) {
        let is_follower = self.raw.raft.state == StateRole::Follower;
        if self.conf_state.is_voter(self.settings.id) || is_follower {
            return;
        }
        self.hand_over();
    }

    /// The configuration as of the last change that was applied.
    #[must_use]
    pub const fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }
}
