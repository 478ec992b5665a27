//! Histories of concurrent clients, and whether they may be: for the simulator and for real processes.
//!
//! ```text
//!   history:  each operation with its call, its end and what came of it
//!   truth:    every change, in the order of revisions, as members show it
//!   watches:  what each watch was told
//!   requests: what clients ask for
//!   one invariant in each other file
//! ```
//!
//! Revisions are the order of all writes. So an answer is checked against one order instead of searched for
//! in all of them: it must be what the keys were at its revision (`reads`, `acknowledged_writes`), and
//! revisions must follow real time (`real_time`). Only writes of unknown outcome are searched for what they
//! did; every value is written once in a run.

pub mod acknowledged_writes;
pub mod history;
pub mod lease_bounds;
pub mod reads;
pub mod real_time;
pub mod requests;
pub mod truth;
mod verdict;
pub mod watch_events;
pub mod watches;

use bytes::Bytes;
use keepd_types::LeaseId;

pub use self::verdict::{Broken, Verdict, verdict};

/// Begins every key and value: it must never be read on a disk.
pub const MARKER: &str = "never-plain-on-disk";

/// The key of a lease: written once, with it, and removed with it only.
#[must_use]
pub fn lease_key(id: LeaseId) -> Bytes {
    format!("{MARKER}/leased/{}", id.0).into()
}

/// Whether a key goes with a lease only.
#[must_use]
pub fn is_leased(key: &Bytes) -> bool {
    key.starts_with(format!("{MARKER}/leased/").as_bytes())
}
