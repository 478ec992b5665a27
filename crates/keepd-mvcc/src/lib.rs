//! The revision store: key index, revlog, views, transactions, history, compaction, hashes.
#![allow(
    clippy::todo,
    missing_docs,
    unused_variables,
    clippy::allow_attributes_without_reason,
    clippy::allow_attributes,
    missing_debug_implementations,
    dead_code,
    clippy::needless_pass_by_ref_mut,
    clippy::must_use_candidate
)]

mod error;
mod record;
mod skeleton;

pub use error::{Error, RangeError};
pub use record::{
    Applied, Change, ChangeKind, ChangesPage, HashKv, KeyState, RangeRefs, RangeStates, Record,
};
pub use skeleton::*;
