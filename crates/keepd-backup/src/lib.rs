//! etcd's snapshot files over `keepd-bolt`: made from a view, examined, restored.
//!
//! [`Export`] is what `Maintenance.Snapshot` streams: a bbolt image with etcd's buckets and a
//! SHA-256, made on the fly. [`status()`] checks a file and tells what it holds. [`restore()`] makes a
//! data directory from etcd's files and keepd's. Layout: `docs/formats/snapshot.md`.
//!
//! Invariants:
//! - What is exported is etcd's to read; sealed values stay sealed, and one more bucket, which etcd
//!   keeps and ignores, binds each of them to its key.
//! - A data directory is whole or not there: it is made under another name and renamed.
//! - Memory does not grow with the values. Files are hostile: they lead to an [`Error`], never to a
//!   panic.
//!
//! Everything here blocks on disk; async callers run it on a blocking thread.

mod buckets;
mod error;
mod export;
mod format;
mod import;
mod making;
mod pending;
mod progress;
mod replay;
mod restore;
mod snapshot_file;
mod snapshot_meta;
mod source;
mod status;

#[cfg(test)]
mod tests;

pub use error::Error;
pub use export::Export;
pub use format::LogPosition;
pub use pending::{complete_pending, is_pending};
pub use progress::{Progress, Stage};
pub use replay::{EndOfReplay, Mark, Replayed, ShippedLog, Step};
pub use restore::{
    DEFAULT_BUMP, RestoreOptions, Restored, restore, restore_file, restore_with_log,
};
pub use status::{Status, sealed_values, status, status_file};

pub(crate) use progress::Meter;
