//! The revision store: key index, revlog, views, transactions, history, compaction, hashes.

mod error;
mod hash;
mod index;
mod meta;
mod record;
mod revlog;
mod store;
mod tail;
mod txn;
mod view;
mod walk;

pub use error::{Error, RangeError};
pub use meta::MetaTable;
pub use record::{
    Applied, Change, ChangeKind, ChangesPage, HashKv, KeyState, RangeRefs, RangeStates, Record,
};
pub use store::{Options, Stats, Store};
pub use txn::{PreView, WriteTxn};
pub use view::{CompactionHashJob, Records, View, Views};
