//! Records, changes and positions: the vocabulary of this crate, and the life of a key.
//!
//! Every write transaction gets the next main revision, and each of its changes a sub revision. A
//! change makes one record, which is never altered. A key lives in generations: a put of a key that is
//! not there begins one (version 1), each further put adds a version, a deletion ends it with a
//! tombstone. Main revision 1 is the empty store, so the first write is 2.
//!
//! ```text
//!   revision    2.0      3.0      4.0      5.0      6.0      7.0
//!   write       put a    put b    put a    del a    put b    put a
//!   key a       v1       .        v2       tomb     .        v1
//!               |<--- generation 1 --->|            |<- generation 2
//!   create      2                 2                          7
//!   previous    -        -        2.0      4.0      3.0      -
//! ```
//!
//! The way of the record 2.0, the first value of `a`:
//!
//! 1. *Written.* The transaction encodes it as an `mvccpb.KeyValue` and sets the slot of `a` in the key
//!    index. Nobody sees it before the publish.
//! 2. *Published.* A new view shows it, from the tail in memory. Watchers get the change.
//! 3. *Flushed.* It lies in a block of a segment; the tail forgets it. Reads load it from there.
//! 4. *Superseded* by 4.0. The index moves its state into the undo log of its leaf: a read at
//!    revision 2 or 3 still finds it, a read at 4 does not.
//! 5. *Compacted* at 5. Reads before revision 5 are refused, so nobody can ask for it. Once the
//!    compaction is durable, trimming removes it from the index, and it counts as dead.
//! 6. *Dropped.* A rewrite of its segment leaves it out. The tombstone 5.0 stays longer, if a start might
//!    need it ([`crate::jobs::rewrite`]).
//!
//! A deletion at the compact revision itself can still be watched, as in etcd; the tombstone of an
//! earlier one leaves the index with it. A restart in between changes none of this: the index is rebuilt
//! from a checkpoint and the records after it.

use bytes::Bytes;
use keepd_types::{Revision, SealMark};

/// A place in the Raft log: the last entry that was applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Applied {
    /// The last applied entry.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// One record of one key, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The encoded `mvccpb.KeyValue`; a sealed value is ciphertext in field 5, a tombstone holds
    /// the key alone.
    pub encoded: Bytes,
    /// Whether the record ends a generation.
    pub tombstone: bool,
    /// Present if the value is ciphertext of ours.
    pub seal: Option<SealMark>,
}

/// Kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was written.
    Put,
    /// It was deleted.
    Delete,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its place in the total order.
    pub revision: Revision,
    /// The kind of change.
    pub kind: ChangeKind,
    /// The key.
    pub key: Bytes,
    /// Whether the put began a generation.
    pub created: bool,
    /// The record that the change wrote.
    pub record: Record,
    /// The record that the key had before this mutation, if it had one.
    pub prev: Option<Revision>,
}

/// The latest live generation of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyState {
    /// The main revision that began the generation.
    pub create_revision: i64,
    /// The last change.
    pub mod_revision: Revision,
    /// Puts since the generation began.
    pub version: i64,
}

/// The keys of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeRefs {
    /// Keys in ascending order with the revisions of their records, up to the limit.
    pub keys: Vec<(Bytes, Revision)>,
    /// The number of keys in the range, whatever the limit.
    pub count: u64,
}

/// The states of a range's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeStates {
    /// Keys in ascending order, up to the limit.
    pub keys: Vec<(Bytes, KeyState)>,
    /// The number of keys in the range, whatever the limit.
    pub count: u64,
}

/// A part of the history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangesPage {
    /// Changes in revision order; only whole main revisions.
    pub changes: Vec<Change>,
    /// The main revision to go on from; the current revision + 1 when nothing is left.
    pub next: i64,
}

/// etcd's hash of the records up to a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// CRC-32C as etcd computes it.
    pub hash: u32,
    /// The compact revision that it was computed with.
    pub compact_revision: i64,
    /// The last revision that it covers.
    pub revision: i64,
}

/// A change with what its record must tell besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) change: Change,
    /// The main revision that began the generation; for a tombstone, the generation that it ended.
    pub(crate) create: i64,
}

impl Entry {
    /// Bytes that it takes in a block, roughly: for thresholds.
    pub(crate) const fn bytes(&self) -> u64 {
        self.change.record.encoded.len() as u64 + 16
    }
}
