//! Words of the store: revisions, keys, ranges, ids, records and protocol limits.
//!
//! The lowest layer. Everything above speaks in these types; nothing here does I/O, knows a
//! protocol library or holds state.

pub mod ids;
pub mod key_range;
pub mod key_value;
pub mod limits;
pub mod raft_log;
pub mod revision;
pub mod sealed;
pub mod term_runs;
pub mod varint;
pub mod version;

pub use ids::{ClusterId, KeyId, LeaseId, MemberId, RaftIndex, Term};
pub use key_range::{KeyRange, RangeEnd};
pub use key_value::{DecodeError, KeyValue};
pub use raft_log::{Entry, EntryKind, HardState};
pub use revision::Revision;
pub use sealed::{PlainDigest, SealMark, StoredValue};
pub use term_runs::TermRuns;
