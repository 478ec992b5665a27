//! The words of the Raft log: what the consensus core hands out and the write-ahead log keeps.

use bytes::Bytes;

/// The kind of an entry's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A command for the machine, or nothing: a new leader's first entry.
    #[default]
    Normal,
    /// A change of one member.
    ConfChange,
    /// A change of several members.
    ConfChangeV2,
}

impl EntryKind {
    /// The number in files, the same as in Raft's protocol.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Normal => 0,
            Self::ConfChange => 1,
            Self::ConfChangeV2 => 2,
        }
    }

    /// The kind with that number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Normal),
            1 => Some(Self::ConfChange),
            2 => Some(Self::ConfChangeV2),
            _ => None,
        }
    }
}

/// One entry of the Raft log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its index in the log; the first one is 1.
    pub index: u64,
    /// The term of the leader that proposed it.
    pub term: u64,
    /// The kind of the data.
    pub kind: EntryKind,
    /// The command.
    pub data: Bytes,
}

/// Raft's hard state: what a member must remember besides the entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term seen.
    pub term: u64,
    /// The member that got this member's vote in it; 0 if none.
    pub vote: u64,
    /// The highest index known to be committed.
    pub commit: u64,
}
