//! Committed changes of the membership: the machine judges, Raft follows.
//!
//! Such an entry takes two steps. [`StateMachine::judge_change`] changes the members or refuses;
//! Raft's core is told the verdict, makes the configuration that counts from this entry on, and
//! [`StateMachine::set_conf_state`] stores it.
//!
//! INVARIANT: both are in one published batch, so no restart and no copy of the store finds members
//! of one index beside a configuration of another.

use bytes::Bytes;
use keepd_mvcc::Applied;

use super::StateMachine;
use crate::codec::CommandError;
use crate::command::Command;
use crate::envelope::Envelope;
use crate::membership::{self, ConfState, MembershipChange};
use crate::outcome::{CommandResponse, Failure, Halt, Outcome};
use crate::tables;

/// The machine's answer to a committed change of Raft's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether the change takes effect; Raft's core must be told. The same on every member.
    pub is_accepted: bool,
    /// The answer to who proposed it.
    pub outcome: Outcome,
}

/// An accepted change whose configuration Raft has not told yet.
#[derive(Debug)]
pub(super) enum AwaitedChange {
    /// Of the membership.
    Membership(MembershipChange),
    /// The end of a joint configuration.
    EndOfJoint,
}

impl StateMachine {
    /// Judges a committed change of Raft's configuration by its context, and makes it unless it is
    /// refused. A change without a context is a leader's end of a joint configuration.
    ///
    /// After an accepted change [`Self::set_conf_state`] comes before anything else.
    ///
    /// # Errors
    /// Only if this member must stop.
    ///
    /// # Panics
    /// If entries come out of order, or one comes twice.
    pub fn judge_change(&mut self, at: Applied, context: &Bytes) -> Result<Judgement, Halt> {
        let change = read(context).map_err(|source| Halt::Command { index: at.index, source })?;
        self.step(at);
        let result = match &change {
            None => Ok(CommandResponse::Done),
            Some(change) => match self.change_membership(change) {
                Ok(response) => Ok(response),
                Err(Failure::Refused(error)) => Err(error),
                Err(Failure::Halt(halt)) => return Err(halt),
            },
        };
        let is_accepted = result.is_ok();
        if is_accepted {
            self.awaited =
                Some(change.map_or(AwaitedChange::EndOfJoint, AwaitedChange::Membership));
        }
        self.store.digest_entry(at, context);
        let outcome = Outcome { revision: self.store.revision(), result };
        Ok(Judgement { is_accepted, outcome })
    }

    fn change_membership(&mut self, change: &MembershipChange) -> Result<CommandResponse, Failure> {
        let raft = ConfState::load(self.store.meta(tables::CONF_STATE))?;
        change.judge(|table| self.store.meta(table), &raft)?;
        change.make(&mut self.store)?;
        Ok(CommandResponse::Members(membership::members(self.store.meta(tables::MEMBERS))?))
    }

    /// Stores Raft's configuration as of the change that was just judged.
    ///
    /// # Panics
    /// If the configuration is not what the judgement makes of the stored one: Raft and the
    /// members' table would count different members from here on.
    pub fn set_conf_state(&mut self, state: &ConfState) {
        match self.awaited.take() {
            Some(AwaitedChange::Membership(change)) => {
                assert!(change.is_made_in(state), "Raft has made the accepted change");
            }
            Some(AwaitedChange::EndOfJoint) => {
                assert!(state.voters_outgoing.is_empty(), "the joint configuration has ended");
            }
            None => {
                let stored = ConfState::stored(self.store.meta(tables::CONF_STATE));
                let is_same = stored.is_ok_and(|stored| stored.as_ref() == Some(state));
                assert!(is_same, "without an accepted change the configuration stays");
                return;
            }
        }
        state.store(&mut self.store);
    }
}

fn read(context: &Bytes) -> Result<Option<MembershipChange>, CommandError> {
    if context.is_empty() {
        return Ok(None);
    }
    let envelope = Envelope::decode(context.clone())?;
    let Command::ChangeMembership(change) = envelope.command else {
        return Err(CommandError::Malformed("change of the membership"));
    };
    Ok(Some(change))
}
