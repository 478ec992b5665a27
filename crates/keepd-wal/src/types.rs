//! Arguments and results of calls on the log.

use std::path::PathBuf;

use bytes::Bytes;
use keepd_crypto::FILE_HEADER_LEN;
use keepd_types::{Entry, HardState};

/// The entry after which the log starts: the store holds everything up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStart {
    /// The last index that is no longer needed.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// Content of one [`crate::Wal::append`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch<'a> {
    /// Entries with rising indexes and no gap. The first one may repeat an index: it and all
    /// after it are then replaced.
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

/// Content of a log that was opened.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Metadata given to [`crate::Wal::create`].
    pub metadata: Bytes,
    /// The start of the log.
    pub start: LogStart,
    /// The last hard state; its commit is at least the start's index.
    pub hard_state: HardState,
    /// The entries after the start, without a gap.
    pub entries: Vec<Entry>,
    /// The write that the last crash interrupted. No sync had confirmed it.
    pub torn_tail: Option<TornTail>,
}

/// Place at which an interrupted write was dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub path: PathBuf,
    /// The first byte that was dropped.
    pub offset: u64,
    /// The number of the frame that would have begun there.
    pub frame: u64,
}

/// Position between two frames of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentPosition {
    /// The number of frames before it.
    pub frames: u64,
    /// Its offset in the file.
    pub offset: u64,
    /// The CRC32C of all frames before it, as they are in the file.
    pub chain: u32,
}

impl SegmentPosition {
    /// The position before the first frame.
    pub(crate) const fn start() -> Self {
        Self { frames: 0, offset: FILE_HEADER_LEN as u64, chain: 0 }
    }

    /// The position after `frames` more frames.
    pub(crate) fn advance(self, frames: u64, bytes: &[u8]) -> Self {
        let len = u64::try_from(bytes.len()).expect("lengths fit into 64 bits");
        Self {
            frames: self.frames + frames,
            offset: self.offset + len,
            chain: crc32c::crc32c_append(self.chain, bytes),
        }
    }
}

/// One file of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSummary {
    /// Its file.
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
