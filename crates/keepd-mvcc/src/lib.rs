//! The revision store: key index, revlog, views, transactions, history, compaction, hashes.

mod checkpoint;
mod error;
mod hash;
mod import;
mod index;
mod jobs;
mod meta;
mod reclaim;
mod record;
mod revlog;
mod store;
mod tail;
mod txn;
mod view;
mod walk;

#[cfg(test)]
mod model;

pub use checkpoint::{CheckpointDone, CheckpointJob};
pub use error::{Error, RangeError};
pub use jobs::rekey::Resealer;
pub use meta::MetaTable;
pub use record::{
    Applied, Change, ChangeKind, ChangesPage, HashKv, KeyState, RangeRefs, RangeStates, Record,
};
pub use revlog::flush::{FlushDone, FlushJob};
pub use revlog::recovery::inspect;
pub use revlog::rewrite::{RewriteDone, RewriteJob, Urgency};
pub use store::{Options, Stats, Store};
pub use txn::{PreView, WriteTxn};
pub use view::{CompactionHashJob, Records, View, Views};
