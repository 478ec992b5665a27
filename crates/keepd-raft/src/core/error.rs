//! Refusals of the core, and the reasons for which a member stops.

use thiserror::Error;

use crate::conf_change::{ConfState, MalformedConfChange};
use crate::message::MalformedMessage;

/// Refusals of the core.
#[derive(Debug, Error)]
pub enum Error {
    /// No leader is known, or this member is not it: nothing was proposed.
    #[error("no leader")]
    NoLeader,
    /// The leader dropped the proposal (a transfer is under way, or too much is uncommitted).
    #[error("raft proposal dropped")]
    ProposalDropped,
    /// The log on disk ends before what is known to be committed.
    #[error(
        "the write-ahead log ends at index {log_last} but index {needed} was committed or applied: \
         log files are missing or were rolled back; restore them, or restore a backup"
    )]
    LogTooShort {
        /// The last index in the log.
        log_last: u64,
        /// The highest index that was committed or applied.
        needed: u64,
    },
    /// The store has not applied everything up to the log's start, and the log no longer holds it.
    #[error(
        "the store stands at index {applied} but the write-ahead log starts after {start}: \
         store files are missing or were rolled back; restore them, or restore a backup"
    )]
    StoreTooOld {
        /// The last index that the store has applied.
        applied: u64,
        /// The index after which the log starts.
        start: u64,
    },
    /// This member is a learner, or no member at all: it cannot lead.
    #[error("this member does not vote")]
    NotVoter,
    /// The configuration in the store is none that Raft can count votes with.
    #[error("the configuration in the store is unsound: {0:?}; restore a backup")]
    ConfState(ConfState),
    /// An entry of the log that should change the configuration cannot be read.
    #[error("entry {index} of the write-ahead log: {source}")]
    ConfChangeEntry {
        /// The entry's index.
        index: u64,
        /// The fault.
        source: MalformedConfChange,
    },
    /// The last change of the configuration is not applied yet.
    #[error("a change of the configuration is under way")]
    ConfChangePending,
    /// A change does not fit the configuration.
    #[error("the configuration cannot be changed so: {0}")]
    ConfChangeRefused(&'static str),
    /// A message that no member sends.
    #[error(transparent)]
    Malformed(#[from] MalformedMessage),
    /// A message for another member.
    #[error("a message for member {to:x} came here")]
    Misdirected {
        /// The member that it is for.
        to: u64,
    },
    /// A message from one that is not in the configuration.
    #[error("member {id:x} is not in the configuration")]
    NotMember {
        /// The sender.
        id: u64,
    },
    /// A message that only the leader sends.
    #[error("member {from:x} does not lead")]
    NotLeader {
        /// The sender.
        from: u64,
    },
    /// A follower confirms entries that its leader does not have.
    #[error("member {from:x} confirms index {index}, which the leader does not have")]
    LogBeyondLeader {
        /// The sender.
        from: u64,
        /// The index.
        index: u64,
    },
    /// The leader knows that this member had more in its log.
    #[error(
        "the log ends at index {last}, but this member has confirmed index {needed}: its disk lost \
         what it had synced, or an older copy was put back; remove the member and add it again"
    )]
    LogForgotten {
        /// The last index.
        last: u64,
        /// The index that it confirmed.
        needed: u64,
    },
    /// Another member knows that this one had promised more than its disk had at its start.
    #[error(
        "this member started in term {term} with a log that ends at index {last}, but in term \
         {needed_term} it has voted or led, and has confirmed index {needed}: its disk lost what it \
         had synced, or an older copy was put back; remove the member and add it again"
    )]
    Forgotten {
        /// The term that it started in.
        term: u64,
        /// The last index then.
        last: u64,
        /// The term in which it was before.
        needed_term: u64,
        /// The index that it confirmed in that term.
        needed: u64,
    },
    /// The leader's log contradicts what this member knows to be committed.
    #[error(
        "the leader's log differs at or below index {committed}, which is committed here: this \
         member or the leader lost its log; remove the wrong one and add it again"
    )]
    Diverged {
        /// The commit index of this member.
        committed: u64,
    },
    /// The term on disk is older than the log.
    #[error("the log has entries of term {log_term}, but the hard state is of term {term}")]
    TermTooLow {
        /// The hard state's term.
        term: u64,
        /// The term of the last entry.
        log_term: u64,
    },
    /// The raft crate refused; a broken invariant of the driver.
    #[error("raft: {0}")]
    Raft(#[from] raft::Error),
}
