//! The revision store: key index, revlog, views, transactions, history, compaction, hashes.
//!
//! One writer, the apply thread, holds the [`Store`]. A [`WriteTxn`] changes the key index at once
//! and appends records to the tail in memory; [`Store::publish`] makes a batch visible as a new
//! [`View`], which any thread reads without a lock and which never changes. What is published
//! becomes durable with the next flush, together with the applied index: the Raft log above it is
//! the only other place where it lies. Flushes, checkpoints and rewrites are jobs that the store
//! hands out and other threads run.
//!
//! Values are opaque here: a sealed one is ciphertext with a mark beside it, and nothing in this
//! crate opens it. No call reads a clock; nothing depends on the order of a hash map; equal commands
//! give equal records, hashes and revisions on every member. What differs between members is only
//! when things become durable and what space is reclaimed.

mod affected;
mod damage;
mod digest;
mod disk_full;
mod durable;
mod error;
mod gate;
mod hash;
mod index;
mod jobs;
mod kept;
mod meta;
mod options;
mod pace;
mod read;
mod record;
mod record_iter;
mod recovery;
mod revlog;
mod state_stream;
mod store;
mod tail;
mod view;

pub use affected::Affected;
pub use damage::{Damage, Damages};
pub use digest::Digest;
pub use disk_full::DiskFullHook;
pub use error::{Error, RangeError};
pub use jobs::reclaim::{Reclaim, Urgency};
pub use jobs::{Cause, Done, Job, JobKind, JobRequest};
pub use kept::Records;
pub use meta::MetaTable;
pub use options::Options;
pub use pace::{Pace, full_speed};
pub use record::{
    Applied, Change, ChangeKind, ChangesPage, HashKv, KeyState, RangeRefs, RangeStates, Record,
};
pub use recovery::{LogSpan, inspect};
pub use revlog::reencryptor::Reencryptor;
pub use state_stream::{STATE_CHUNK_BYTES_MAX, StagedState, StateHead, StateReader, StateWriter};
pub use store::in_place::InPlace;
pub use store::txn::WriteTxn;
pub use store::{Stats, Store};
pub use view::{View, Views};
