//! Leases: grants, attachments, expiry, renewal.
//!
//! A lease has two halves that must not be confused. The *replicated* half (id, granted TTL,
//! checkpoint, attached keys) changes only by commands of the log and is the same on every member.
//! The *volatile* half (deadlines) exists on the primary alone: the leader, which proposes a revoke
//! for what has run out. A follower never expires anything by its own clock.
//!
//! Nothing here reads a clock: monotonic time comes in as a [`std::time::Duration`].

mod deadlines;
mod error;
mod lease;
mod lessor;

pub use error::Error;
pub use lease::{DecodeError, Lease};
pub use lessor::{FOREVER_SECONDS, Lessor, Options, Renewed};
