//! The Raft core without I/O; the only crate that names the raft crate.
//!
//! [`Core`] takes events (ticks, proposals, reads, messages, "persisted", "applied") and hands out
//! [`Actions`]: what to append, what to send, what to apply, which reads may go ahead. It owns no
//! thread, file, socket or clock, so that one thread can simulate a cluster.

mod conf_change;
mod core;
mod log_store;
mod message;

pub use keepd_types::{Entry, EntryKind, HardState};

pub use crate::conf_change::{ConfChange, ConfState, MalformedConfChange, Step, Transition};
pub use crate::core::{
    Actions, Core, Error, Progress, Replication, Role, Settings, SnapshotEnd, Status, Verdict,
};
pub use crate::log_store::{Fetch, Fetched, InitialState};
pub use crate::message::{
    Body, Known, LogPosition, MalformedMessage, Message, ReadRequest, Round, SnapshotMeta, Started,
};
