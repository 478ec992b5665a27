//! Entries to raft's form and back.
//!
//! raft's form of a change of the configuration, protobuf, is made once, by the member that proposes
//! it, for raft to look at. The log and the messages have [`ConfChange`]'s, which travels through
//! raft as the entry's context.

use keepd_types::{Entry, EntryKind};
use raft::eraftpb::{self, EntryType};

use crate::conf_change::{ConfChange, MalformedConfChange};

/// Checks the data of an entry that comes from a disk or a peer. raft's older kind of change is
/// written by nobody.
pub(super) fn check(entry: &Entry) -> Result<(), MalformedConfChange> {
    match entry.kind {
        EntryKind::Normal => Ok(()),
        EntryKind::ConfChange => Err(MalformedConfChange),
        EntryKind::ConfChangeV2 => ConfChange::decode(&entry.data).map(drop),
    }
}

pub(super) fn from_raft(entry: eraftpb::Entry) -> Entry {
    let (kind, data) = match entry.get_entry_type() {
        EntryType::EntryNormal => (EntryKind::Normal, entry.data),
        EntryType::EntryConfChange => (EntryKind::ConfChange, entry.data),
        EntryType::EntryConfChangeV2 => (EntryKind::ConfChangeV2, entry.context),
    };
    Entry { index: entry.index, term: entry.term, kind, data }
}

pub(crate) fn to_raft(entry: Entry) -> eraftpb::Entry {
    let Entry { index, term, kind, data } = entry;
    let mut out = eraftpb::Entry { index, term, ..Default::default() };
    match kind {
        EntryKind::Normal => out.data = data,
        EntryKind::ConfChange => {
            out.set_entry_type(EntryType::EntryConfChange);
            out.data = data;
        }
        EntryKind::ConfChangeV2 => {
            out.set_entry_type(EntryType::EntryConfChangeV2);
            out.context = data;
        }
    }
    out
}
