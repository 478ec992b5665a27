//! Changes of Raft's configuration: who votes, who only learns.
//!
//! A change is an entry of the log of kind [`EntryKind::ConfChangeV2`]; its bytes are laid out in
//! `docs/formats/conf-change.md`. raft's own protobuf form never leaves this process.
//!
//! [`EntryKind::ConfChangeV2`]: keepd_types::EntryKind::ConfChangeV2

use bytes::Bytes;
use keepd_types::varint;
use raft::eraftpb::{self, ConfChangeSingle, ConfChangeTransition, ConfChangeType};
use thiserror::Error;

/// The format that is written.
const FORMAT: u8 = 1;
/// BOUND: steps in one change; no cluster has as many members.
const STEPS_MAX: usize = 64;

/// Raft's configuration: with what votes are counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfState {
    /// Voting members.
    pub voters: Vec<u64>,
    /// Members that receive the log without a vote.
    pub learners: Vec<u64>,
    /// Voting members of the old configuration, during a joint change.
    pub voters_outgoing: Vec<u64>,
    /// Outgoing voters that become learners at the end of a joint change.
    pub learners_next: Vec<u64>,
    /// Whether the leader ends the joint change by itself.
    pub auto_leave: bool,
}

/// One step of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A new member that votes.
    AddVoter(u64),
    /// A new member that receives the log without a vote.
    AddLearner(u64),
    /// A learner gets a vote.
    Promote(u64),
    /// A member leaves.
    Remove(u64),
    /// A member's record changes, its vote does not.
    Update(u64),
}

/// The way from the old configuration to the new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transition {
    /// At once for one step; by a joint configuration that the leader ends by itself for more.
    #[default]
    Auto,
    /// By a joint configuration that the leader ends by itself.
    Joint,
    /// By a joint configuration that lasts until a change without steps.
    JointUntilLeft,
}

/// A change of the configuration. Without steps it ends a joint configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfChange {
    /// The way to the new configuration.
    pub transition: Transition,
    /// Steps, each about another member.
    pub steps: Vec<Step>,
    /// Bytes that the core does not look at: the member's record.
    pub context: Bytes,
}

/// The bytes of an entry are no change of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("malformed change of the configuration")]
pub struct MalformedConfChange;

impl Step {
    /// The member that a step is about.
    #[must_use]
    pub const fn member(self) -> u64 {
        match self {
            Self::AddVoter(id)
            | Self::AddLearner(id)
            | Self::Promote(id)
            | Self::Remove(id)
            | Self::Update(id) => id,
        }
    }

    const fn tag(self) -> u8 {
        match self {
            Self::AddVoter(_) => 1,
            Self::AddLearner(_) => 2,
            Self::Promote(_) => 3,
            Self::Remove(_) => 4,
            Self::Update(_) => 5,
        }
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        *bytes = rest;
        let id = varint::read_u64(bytes).filter(|id| *id != 0)?;
        Some(match tag {
            1 => Self::AddVoter(id),
            2 => Self::AddLearner(id),
            3 => Self::Promote(id),
            4 => Self::Remove(id),
            5 => Self::Update(id),
            _ => return None,
        })
    }

    fn to_raft(self) -> ConfChangeSingle {
        let (kind, id) = match self {
            Self::AddVoter(id) | Self::Promote(id) => (ConfChangeType::AddNode, id),
            Self::AddLearner(id) => (ConfChangeType::AddLearnerNode, id),
            Self::Remove(id) => (ConfChangeType::RemoveNode, id),
            // raft does nothing for member 0.
            Self::Update(_) => (ConfChangeType::AddNode, 0),
        };
        let mut single = ConfChangeSingle { node_id: id, ..ConfChangeSingle::default() };
        single.set_change_type(kind);
        single
    }
}

impl ConfChange {
    /// The change's bytes, as the log and the messages have them.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let transition = match self.transition {
            Transition::Auto => 0,
            Transition::Joint => 1,
            Transition::JointUntilLeft => 2,
        };
        let mut out = vec![FORMAT, transition];
        varint::write_u64(self.steps.len() as u64, &mut out);
        for step in &self.steps {
            out.push(step.tag());
            varint::write_u64(step.member(), &mut out);
        }
        out.extend_from_slice(&self.context);
        out.into()
    }

    /// Reads a change. No bytes are the change by which a leader ends a joint configuration.
    ///
    /// # Errors
    /// If the bytes are none.
    pub fn decode(bytes: &Bytes) -> Result<Self, MalformedConfChange> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let mut rest: &[u8] = bytes;
        let (transition, steps) = Self::read(&mut rest).ok_or(MalformedConfChange)?;
        Ok(Self { transition, steps, context: bytes.slice_ref(rest) })
    }

    fn read(rest: &mut &[u8]) -> Option<(Transition, Vec<Step>)> {
        let ([FORMAT, transition], after) = rest.split_first_chunk::<2>()? else { return None };
        let transition = match transition {
            0 => Transition::Auto,
            1 => Transition::Joint,
            2 => Transition::JointUntilLeft,
            _ => return None,
        };
        *rest = after;
        let count = usize::try_from(varint::read_u64(rest)?).ok()?;
        if count > STEPS_MAX || (count == 0 && transition != Transition::Auto) {
            return None;
        }
        let steps: Option<Vec<Step>> = (0..count).map(|_| Step::read(rest)).collect();
        Some((transition, steps?))
    }

    pub(crate) fn to_raft(&self) -> eraftpb::ConfChangeV2 {
        let mut out = eraftpb::ConfChangeV2::default();
        out.set_transition(match self.transition {
            Transition::Auto => ConfChangeTransition::Auto,
            Transition::Joint => ConfChangeTransition::Implicit,
            Transition::JointUntilLeft => ConfChangeTransition::Explicit,
        });
        let steps: Vec<ConfChangeSingle> = self.steps.iter().map(|step| step.to_raft()).collect();
        out.set_changes(steps.into());
        out
    }
}

impl ConfState {
    /// Whether votes are counted in two configurations.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// Whether a member votes, in any of the two configurations of a joint change.
    #[must_use]
    pub fn is_voter(&self, id: u64) -> bool {
        self.voters.contains(&id) || self.voters_outgoing.contains(&id)
    }

    /// Whether a member receives the log.
    #[must_use]
    pub fn is_member(&self, id: u64) -> bool {
        self.is_voter(id) || self.learners.contains(&id)
    }

    /// Whether this member votes and nobody else does.
    #[must_use]
    pub fn is_alone(&self, id: u64) -> bool {
        self.is_voter(id)
            && self.voters.iter().chain(&self.voters_outgoing).all(|voter| *voter == id)
    }

    /// Whether raft can work with it: ids are not 0, there is a voter, nobody is listed twice, who
    /// learns does not vote, and only outgoing voters become learners.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let lists = [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next];
        let has_no_doubles = |list: &Vec<u64>| {
            let mut ids = list.clone();
            ids.sort_unstable();
            ids.dedup();
            ids.len() == list.len() && ids.first() != Some(&0)
        };
        lists.into_iter().all(has_no_doubles)
            && !self.voters.is_empty()
            && self.learners.iter().all(|id| !self.is_voter(*id))
            && self
                .learners_next
                .iter()
                .all(|id| self.voters_outgoing.contains(id) && !self.voters.contains(id))
            && (self.is_joint() || !self.auto_leave)
    }

    pub(crate) fn to_raft(&self) -> eraftpb::ConfState {
        eraftpb::ConfState {
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            voters_outgoing: self.voters_outgoing.clone(),
            learners_next: self.learners_next.clone(),
            auto_leave: self.auto_leave,
            ..eraftpb::ConfState::default()
        }
    }

    /// Reads raft's form. The lists are sorted: raft keeps them in an order of its own.
    pub(crate) fn from_raft(state: &eraftpb::ConfState) -> Self {
        let sorted = |ids: &[u64]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        };
        Self {
            voters: sorted(&state.voters),
            learners: sorted(&state.learners),
            voters_outgoing: sorted(&state.voters_outgoing),
            learners_next: sorted(&state.learners_next),
            auto_leave: state.auto_leave,
        }
    }

    /// Says why a change cannot be made on top of this configuration.
    pub(crate) fn refuse(&self, change: &ConfChange) -> Option<&'static str> {
        if change.steps.len() > STEPS_MAX {
            return Some("too many steps");
        }
        match (self.is_joint(), change.steps.is_empty()) {
            (true, false) => return Some("the joint configuration must be left first"),
            (false, true) => return Some("there is no joint configuration to leave"),
            (_, true) if change.transition != Transition::Auto => {
                return Some("a change without steps has no transition");
            }
            _ => {}
        }
        let mut ids: Vec<u64> = change.steps.iter().map(|step| step.member()).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.len() != change.steps.len() || ids.first() == Some(&0) {
            return Some("a member is named twice, or has the id 0");
        }
        change.steps.iter().find_map(|step| match step {
            Step::AddVoter(id) | Step::AddLearner(id) if self.is_member(*id) => {
                Some("the member exists")
            }
            Step::Promote(id) if !self.learners.contains(id) => Some("the member is no learner"),
            Step::Remove(id) | Step::Update(id) if !self.is_member(*id) => {
                Some("there is no such member")
            }
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_read_as_it_was_written() {
        let change = ConfChange {
            transition: Transition::Joint,
            steps: vec![Step::AddVoter(1), Step::Promote(u64::MAX), Step::Remove(3)],
            context: Bytes::from_static(b"record"),
        };
        assert_eq!(ConfChange::decode(&change.encode()), Ok(change));
        assert_eq!(ConfChange::decode(&Bytes::new()), Ok(ConfChange::default()));
        let leave = ConfChange::default();
        assert_eq!(ConfChange::decode(&leave.encode()), Ok(leave));
    }

    #[test]
    fn malformed_changes_are_refused() {
        for bytes in [
            &[1][..],
            &[2, 0, 0],
            &[1, 3, 0],
            &[1, 1, 0],
            &[1, 0, 1],
            &[1, 0, 1, 6, 1],
            &[1, 0, 1, 1, 0],
            &[1, 0, 200, 1],
        ] {
            let read = ConfChange::decode(&Bytes::copy_from_slice(bytes));
            assert_eq!(read, Err(MalformedConfChange), "{bytes:?}");
        }
    }

    #[test]
    fn only_sound_configurations_reach_raft() {
        let sound = ConfState {
            voters: vec![1, 2],
            learners: vec![4],
            voters_outgoing: vec![1, 3],
            learners_next: vec![3],
            auto_leave: true,
        };
        assert!(sound.is_sound());
        for unsound in [
            ConfState::default(),
            ConfState { voters: vec![0], ..ConfState::default() },
            ConfState { voters: vec![1, 1], ..ConfState::default() },
            ConfState { voters: vec![1], auto_leave: true, ..ConfState::default() },
            ConfState { learners: vec![2], ..sound.clone() },
            ConfState { learners: vec![3], ..sound.clone() },
            ConfState { learners_next: vec![1], ..sound.clone() },
            ConfState { learners_next: vec![5], ..sound.clone() },
            ConfState { voters_outgoing: vec![], ..sound },
        ] {
            assert!(!unsound.is_sound(), "{unsound:?}");
        }
    }
}
