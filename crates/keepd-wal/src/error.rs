//! Errors of writing, opening and reading the log.

use std::path::PathBuf;

use keepd_crypto::{FileError, FrameError, FrameTooLong};
use keepd_env::{IoError, IoOp};
use thiserror::Error;

/// Advice to the operator of a log that cannot be trusted.
const ADVICE: &str = "nothing was changed; put the file back from a copy, or restore this member \
                      from a backup, or remove it from the cluster and add it again";

/// A failed call on the log.
#[derive(Debug, Error)]
pub enum Error {
    /// The disk refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// An earlier sync failed, so nothing may be acknowledged any more.
    #[error("the log stopped after a failed sync: restart the process")]
    Poisoned,
    /// There is a log already.
    #[error("{} already holds a log", dir.display())]
    Exists {
        /// The directory.
        dir: PathBuf,
    },
    /// There is no log.
    #[error("{} holds no log", dir.display())]
    NotFound {
        /// The directory.
        dir: PathBuf,
    },
    /// An entry is larger than a frame can hold.
    #[error("entry {index} has {len} bytes, more than a frame of the log can hold")]
    EntryTooLarge {
        /// The entry's index.
        index: u64,
        /// Its length.
        len: usize,
    },
    /// A payload does not fit into a frame; nothing was written.
    #[error(transparent)]
    FrameTooLong(#[from] FrameTooLong),
    /// A segment is whole, but this program or its keys cannot read it.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The segment.
        path: PathBuf,
        /// The missing key or unknown version.
        source: FileError,
    },
    /// A segment's header is damaged or another file's.
    #[error("{}: {source}; {ADVICE}", path.display())]
    Header {
        /// The segment.
        path: PathBuf,
        /// The error found.
        source: FileError,
    },
    /// Damage in front of something that was acknowledged.
    #[error("{} is damaged at byte {offset}, frame {frame}: {source}; {ADVICE}", path.display())]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// The offset of the damaged frame.
        offset: u64,
        /// Its number.
        frame: u64,
        /// The error found.
        source: FrameError,
    },
    /// A whole frame does not say what it must.
    #[error("{}: frame {frame} at byte {offset}: {source}; {ADVICE}", path.display())]
    Record {
        /// The segment.
        path: PathBuf,
        /// The offset of the frame.
        offset: u64,
        /// Its number.
        frame: u64,
        /// The error found.
        source: RecordError,
    },
    /// A segment has lost its end.
    #[error("{} has {len} bytes, but had at least {expected}; {ADVICE}", path.display())]
    Shortened {
        /// The segment.
        path: PathBuf,
        /// Its length.
        len: u64,
        /// A length that was durable.
        expected: u64,
    },
    /// A segment is not the one that its successor continues.
    #[error("{} is not the segment that {} continues; {ADVICE}", path.display(), next.display())]
    WrongSegment {
        /// The segment.
        path: PathBuf,
        /// Its successor.
        next: PathBuf,
    },
    /// A segment that is still needed is not there.
    #[error("segment {sequence:016x}, which {} continues, is missing; {ADVICE}", next.display())]
    MissingSegment {
        /// The missing segment's number.
        sequence: u64,
        /// The segment that needs it.
        next: PathBuf,
    },
    /// An entry of the log is in none of its files.
    #[error("entry {index} is in no file of the log; {ADVICE}")]
    MissingEntry {
        /// The entry's index.
        index: u64,
    },
    /// Two files claim the same number.
    #[error("{} holds segment {sequence:016x} twice; {ADVICE}", dir.display())]
    DuplicateSegment {
        /// The directory.
        dir: PathBuf,
        /// The number.
        sequence: u64,
    },
    /// The log ends before an index that it knows to be committed.
    #[error(
        "{} ends at index {last_index}, but index {commit} was committed: its end is damaged at \
         byte {offset}; {ADVICE}",
        path.display()
    )]
    EndsBelowCommit {
        /// The last segment.
        path: PathBuf,
        /// The end of its last whole frame.
        offset: u64,
        /// The last index found.
        last_index: u64,
        /// The committed index.
        commit: u64,
    },
}

/// A whole frame that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The payload ends early, goes on too long or holds an impossible number.
    #[error("its payload is malformed")]
    Malformed,
    /// A newer program wrote it.
    #[error("format version {0} of the log is not supported, the newest known one is 1")]
    UnsupportedVersion(u8),
    /// A frame of a kind that this program does not know.
    #[error("kind {0} is not known")]
    UnknownKind(u8),
    /// An entry of a kind that this program does not know.
    #[error("entry kind {0} is not known")]
    UnknownEntryKind(u8),
    /// The first frame is not a header frame, or another one is.
    #[error("a segment's header must be its first frame, and only that")]
    MisplacedHead,
    /// Entries do not follow what is before them.
    #[error("index {found} follows, but the log continues at {next} and starts after {start}")]
    Gap {
        /// The first index of the batch.
        found: u64,
        /// The index that may come at most.
        next: u64,
        /// The start's index.
        start: u64,
    },
    /// A segment's header frame does not agree with what is before it.
    #[error("the segment's header contradicts the segments before it")]
    Contradiction,
}

/// The result of a call on the log.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether the disk is full. The log is then as it was before the call, which may be made
    /// again; a failed sync is not among this.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Self::Io(error) if error.is_out_of_space())
    }

    /// Whether space or descriptors ran short. As with [`Self::is_out_of_space`] the call may be
    /// made again.
    #[must_use]
    pub fn is_shortage(&self) -> bool {
        matches!(self, Self::Io(error) if error.is_shortage())
    }

    /// Whether a sync failed.
    pub(crate) fn is_failed_sync(&self) -> bool {
        matches!(self, Self::Io(error) if error.op == IoOp::Sync)
    }
}
