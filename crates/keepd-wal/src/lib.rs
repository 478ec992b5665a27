//! The sealed write-ahead log: segments, records, group commit, recovery.
//!
//! The only durable thing on the write path. [`Wal::append`] seals a batch of Raft entries and
//! writes it with one call, [`Wal::sync`] makes everything appended durable with one more; the
//! caller acknowledges only then. Layout: `docs/formats/wal.md`.
//!
//! Invariants:
//! - What [`Wal::sync`] confirmed is found again by [`Wal::open`], or opening fails and names the
//!   place. A torn tail, which no sync confirmed, is dropped and reported; nothing else ever is.
//! - Every opening for writing begins a new file with a fresh key; no file is extended twice.
//! - After a failed sync every call fails: what the disk holds is no longer known.
//!
//! - [`WalReader`] finds every entry that a sync confirmed and no release let go, while the log is
//!   written.
//!
//! Not here: deciding when to sync or to release, locking the directory.
#![deny(clippy::indexing_slicing)]

mod dump;
mod error;
mod log;
mod reader;
mod record;
mod recovery;
mod segment;
mod segment_reader;
mod types;
mod wal;

pub use keepd_types::{Entry, EntryKind, HardState};

pub use dump::{Dump, DumpedFrame};
pub use error::{Error, RecordError, Result};
pub use reader::{Page, WalReader};
pub use record::{BatchRecord, PreviousSegment, Record, SegmentHeader, StartRecord, Watermark};
pub use types::{Batch, LogStart, Options, Recovered, SegmentPosition, SegmentSummary, TornTail};
pub use wal::Wal;
