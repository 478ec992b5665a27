//! What goes into the log and what comes out of it.

use std::path::PathBuf;

use bytes::Bytes;
use keepd_types::{Entry, HardState};

/// The place behind which the log starts: a state image covers everything up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMark {
    /// The last index that is no longer needed.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// What one [`crate::Wal::append`] writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch<'a> {
    /// Entries with rising indexes and no gap. The first one may repeat an index: it and all
    /// behind it are then replaced.
    pub entries: &'a [Entry],
    /// The new hard state, if it changed.
    pub hard_state: Option<HardState>,
}

/// The sizes of a log.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A segment grows up to this length; only a single larger batch goes beyond.
    pub segment_bytes: u64,
    /// Space is reserved in steps of this size.
    pub reserve_bytes: u64,
    /// A batch is cut into frames of about this size; a larger entry has its own.
    pub frame_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, reserve_bytes: 2 << 20, frame_bytes: 1 << 20 }
    }
}

/// What opening a log found in it.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// What [`crate::Wal::create`] was given.
    pub metadata: Bytes,
    /// Where the log starts.
    pub mark: SnapshotMark,
    /// The last hard state; its commit is at least the mark's index.
    pub hard_state: HardState,
    /// The entries behind the mark, without a gap.
    pub entries: Vec<Entry>,
    /// The write that the last crash interrupted. No sync had confirmed it.
    pub torn_tail: Option<TornTail>,
}

/// Where an interrupted write was dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub path: PathBuf,
    /// The first byte that was dropped.
    pub offset: u64,
    /// The number of the frame that would have begun there.
    pub frame: u64,
}

/// One file of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSummary {
    /// Where it is.
    pub path: PathBuf,
    /// Its number.
    pub sequence: u64,
    /// The index that followed the log's last one when it was begun.
    pub first_index: u64,
    /// Its length.
    pub bytes: u64,
    /// The data key that seals it; 0 is none.
    pub data_key: u32,
}
