//! The shipped log: the entries that were committed between two backups, in batches.
//!
//! ```text
//! <cluster id>/log/<chain>/<batch>.log.zst.age
//! ```
//!
//! A *chain* is one history without a gap: each batch begins behind the one before and names its object by
//! digest. Where nobody can say that the history goes on (entries were lost, the cluster was restored), a
//! new chain begins, and says why. [`position`] tells, from the names alone, where a chain ended and whether
//! a member's log goes on there, so that a leader needs no key to go on with another's chain. [`batch`] is
//! the content, [`ship`] writes it; [`shipped`] finds what can be reached, and [`replay`] hands it to a
//! restore; [`keep`] says what no base needs any more.
//!
//! INVARIANT: of one index of a chain there is one entry, whoever shipped it. Leaders that overlap ship the
//! same, and a restore compares the state with the marks of whoever shipped.

pub mod batch;
pub mod keep;
pub mod name;
pub mod position;
pub mod replay;
pub mod ship;
pub mod shipped;

#[cfg(test)]
mod tests;
