//! Errors, one variant per thing the caller can act on.

use std::path::PathBuf;

use keepd_crypto::{FileError, FrameTooLong};
use keepd_env::IoError;
use keepd_types::Revision;
use thiserror::Error;

use crate::affected::Affected;

/// A revision outside of what can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RangeError {
    /// Below the compact revision.
    #[error("required revision {required} has been compacted, the compact revision is {compacted}")]
    Compacted {
        /// The revision that was asked for.
        required: i64,
        /// The compact revision.
        compacted: i64,
    },
    /// Above the current revision.
    #[error("required revision {required} is a future revision, the current one is {current}")]
    Future {
        /// The revision that was asked for.
        required: i64,
        /// The current revision.
        current: i64,
    },
}

/// A failure of the store.
#[derive(Debug, Error)]
pub enum Error {
    /// The revision cannot be read; nothing is wrong with the store.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// A file operation failed.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A file cannot be opened with the keys at hand.
    #[error("{}: {source}", file.display())]
    Key {
        /// The file.
        file: PathBuf,
        /// Why.
        source: FileError,
    },
    /// A file does not hold what was written into it.
    #[error("{} is damaged at byte {offset}: {reason}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// The offset of the damage.
        offset: u64,
        /// The finding.
        reason: &'static str,
    },
    /// Damage in a part of a file that holds records which are needed.
    #[error("{source}; {affected} lie there")]
    Affecting {
        /// The damage.
        source: Box<Self>,
        /// The keys and revisions of the records.
        affected: Box<Affected>,
    },
    /// Damage to what was acknowledged, which the Raft log does not hold any more.
    #[error(
        "{damage}; what was written behind revision {revision} (index {index} of the log) is lost \
         with it, up to revision {last_revision} at least, and the log, which begins behind index \
         {log_mark}, cannot give it back; nothing was changed: bring the file back from a copy of the \
         disk, or restore the last snapshot into a new directory"
    )]
    Lost {
        /// The damage.
        damage: Box<Self>,
        /// The last revision that is whole.
        revision: i64,
        /// The applied index with it.
        index: u64,
        /// The last revision that is known to have been there.
        last_revision: i64,
        /// The index after which the log begins.
        log_mark: u64,
    },
    /// A file that the manifest names does not exist.
    #[error("{} is missing", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
    },
    /// No record has this revision (any more).
    #[error("no record at revision {revision}")]
    NoRecord {
        /// The revision.
        revision: Revision,
    },
    /// An imported record does not fit after those that are there.
    #[error("record {revision} cannot be imported: {reason}")]
    Import {
        /// The record's revision.
        revision: Revision,
        /// Why.
        reason: &'static str,
    },
    /// Bytes that are no sound state stream, or not all of one; nothing of it is kept.
    #[error("the state from another member is malformed at byte {offset}: {reason}")]
    Stream {
        /// The number of bytes of it that were sound.
        offset: u64,
        /// The finding.
        reason: &'static str,
    },
    /// A state stream of another version of keepd.
    #[error(
        "the state from another member has format {version}, which this version of keepd does not \
         know: bring both members to the same version"
    )]
    StreamVersion {
        /// The format version.
        version: u8,
    },
    /// A value of a received state is sealed under a key that cannot be read here.
    #[error(
        "a value of the state is sealed under key {key:016x}, which the encryption configuration of this \
         member lacks: give it the configuration of the other members"
    )]
    KeyLacking {
        /// The key's check value.
        key: u64,
    },
    /// The active data key changed while a state was received; it has to be sent again.
    #[error("the data key changed while {} was written; the state is to be sent again", dir.display())]
    KeyChanged {
        /// The directory.
        dir: PathBuf,
    },
    /// The data to be written does not fit into a frame; nothing was written.
    #[error("{}: {source}", file.display())]
    TooLong {
        /// The file.
        file: PathBuf,
        /// The length and the limit.
        source: FrameTooLong,
    },
    /// A job was told to stop; nothing is changed, and it can be done anew.
    #[error("the job was stopped")]
    Stopped,
    /// A rewrite would copy more than the space that it was given; it wrote nothing.
    #[error("a rewrite copies {bytes} bytes at least, and has room for {room}")]
    NoRoom {
        /// Bytes to be copied, as far as they were counted.
        bytes: u64,
        /// Bytes that it may take.
        room: u64,
    },
    /// An earlier write to the manifest failed, so what it holds is unknown.
    #[error("{} failed before and is not written any more", file.display())]
    Poisoned {
        /// The manifest.
        file: PathBuf,
    },
}

impl Error {
    /// Whether a part of a file cannot be read: what needs it fails, everything else goes on.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Affecting { .. })
            || matches!(self, Self::Io(error) if error.op == keepd_env::IoOp::Read)
    }

    /// This damage, with whose records lie in it.
    pub(crate) fn affecting(self, affected: Affected) -> Self {
        Self::Affecting { source: Box::new(self), affected: Box::new(affected) }
    }

    /// Whether the disk was full, so that the same work can be done once it is not.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Self::Io(error) if error.is_out_of_space())
    }

    /// Whether space or file descriptors ran short; the same work can be done once they are back.
    #[must_use]
    pub fn is_shortage(&self) -> bool {
        matches!(self, Self::Io(error) if error.is_shortage())
    }
}

/// The reason in words for a frame's error.
pub(crate) const fn frame_reason(error: keepd_crypto::FrameError) -> &'static str {
    use keepd_crypto::FrameError;
    match error {
        FrameError::Truncated { .. } => "the file ends inside a frame",
        FrameError::Zeroed => "zeros where a frame was written",
        FrameError::BadCrc => "a frame's checksum does not match",
        FrameError::BadSeal => "a frame's seal does not open",
        FrameError::TooLong { .. } => "a frame with an impossible length",
        FrameError::WrongOrdinal { .. } => "a frame from another place",
    }
}
