//! Messages between members, in a form of our own. Laid out in `docs/formats/raft-message.md`.
//!
//! [`Message::decode`] checks each field by itself; [`crate::Core::step`] checks what depends on the
//! member that receives it. The transport answers for `from`: the peer's identity.

mod encoding;

use keepd_types::Entry;

pub use self::encoding::MalformedMessage;
use crate::conf_change::ConfState;

/// Term and index of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPosition {
    /// The entry's term.
    pub term: u64,
    /// The entry's index; 0 is before the first.
    pub index: u64,
}

/// A message from one member to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The member that sends it.
    pub from: u64,
    /// The member that it is for.
    pub to: u64,
    /// The sender's term; of a (pre-)candidate the term that it stands for.
    pub term: u64,
    /// The content.
    pub body: Body,
}

/// Content of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Entries of the leader's log.
    Append {
        /// The entry before them.
        previous: LogPosition,
        /// The leader's commit index.
        commit: u64,
        /// Entries, without a gap.
        entries: Vec<Entry>,
    },
    /// The follower's log equals the leader's up to `index`.
    Appended {
        /// The last index that is equal.
        index: u64,
        /// The follower's commit index.
        commit: u64,
    },
    /// The follower's log does not have what precedes the entries.
    AppendRejected {
        /// The index that it does not have.
        index: u64,
        /// The follower's commit index.
        commit: u64,
        /// An entry of the follower's to try next.
        hint: LogPosition,
    },
    /// The leader is there.
    Heartbeat {
        /// The commit index, as far as the follower has confirmed its log.
        commit: u64,
        /// The leader's round of reads that this asks to confirm.
        round: Option<Round>,
    },
    /// The follower has heard the leader.
    HeartbeatResponse {
        /// The follower's commit index.
        commit: u64,
        /// The round that it confirms.
        round: Option<Round>,
    },
    /// A candidate asks for a vote.
    Vote {
        /// Whether it only asks if it would get one.
        is_pre: bool,
        /// Whether the leader told it to take over.
        is_handover: bool,
        /// The end of its log.
        last: LogPosition,
        /// Its commit index.
        commit: LogPosition,
    },
    /// The answer to a candidate.
    VoteResponse {
        /// Whether the candidate only asked.
        is_pre: bool,
        /// Whether it gets the vote.
        is_granted: bool,
        /// The voter's commit index; sent with a refusal.
        commit: LogPosition,
    },
    /// The follower is too far behind for the log. The transport sends the state of the store before
    /// this, and the follower steps it when it has that.
    Snapshot(SnapshotMeta),
    /// The receiver shall stand for election at once.
    TimeoutNow,
    /// A follower asks the leader for a read index.
    ReadIndex(ReadRequest),
    /// The leader's answer to a read request.
    ReadIndexResponse {
        /// The request.
        request: ReadRequest,
        /// The index from which on the reads may go ahead.
        index: u64,
    },
    /// A member has started, and asks what is known of it (rule 9.23).
    Started(Started),
    /// The answer to that.
    Known(Known),
}

/// The state of a member's disk at its start; or of the member by now, once it takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// A random number that the member drew at its start.
    pub boot: u64,
    /// Its term.
    pub term: u64,
    /// The candidate that it voted for in that term; 0 if it has not voted.
    pub vote: u64,
    /// The last index of its log.
    pub last: u64,
}

/// A member's knowledge of another one that has started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The start that this answers.
    pub boot: u64,
    /// The promises that the member had no more at its start: a term, and the index that it has
    /// confirmed in it. `None` if nothing is missing.
    pub needed: Option<(u64, u64)>,
    /// The end of the log of who answers.
    pub last: LogPosition,
    /// The index as of which these vote.
    pub applied: u64,
    /// The voters, as who answers knows them.
    pub voters: Vec<u64>,
}

/// A leader's round of reads. No two rounds of a cluster have the same, because no two leaders have
/// a term in common: a late confirmation confirms nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Round {
    /// The leader's term.
    pub term: u64,
    /// Counts the leader's rounds.
    pub number: u64,
}

/// The name of a read request: no two of a member have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// A random number that the asking member drew at its start.
    pub boot: u64,
    /// Counts its reads since.
    pub number: u64,
}

/// Index and configuration of a state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The last entry that the state contains.
    pub last: LogPosition,
    /// The configuration then.
    pub conf_state: ConfState,
}

impl Body {
    /// The kind's name, as Raft's literature and etcd have it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Append { .. } => "MsgAppend",
            Self::Appended { .. } | Self::AppendRejected { .. } => "MsgAppendResponse",
            Self::Heartbeat { .. } => "MsgHeartbeat",
            Self::HeartbeatResponse { .. } => "MsgHeartbeatResponse",
            Self::Vote { is_pre: true, .. } => "MsgRequestPreVote",
            Self::Vote { is_pre: false, .. } => "MsgRequestVote",
            Self::VoteResponse { is_pre: true, .. } => "MsgRequestPreVoteResponse",
            Self::VoteResponse { is_pre: false, .. } => "MsgRequestVoteResponse",
            Self::Snapshot(_) => "MsgSnapshot",
            Self::TimeoutNow => "MsgTimeoutNow",
            Self::ReadIndex(_) => "MsgReadIndex",
            Self::ReadIndexResponse { .. } => "MsgReadIndexResp",
            Self::Started(_) => "MsgStarted",
            Self::Known(_) => "MsgKnown",
        }
    }
}
