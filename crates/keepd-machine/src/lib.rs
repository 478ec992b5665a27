//! The replicated state machine: commands of the log in, outcomes and events out.
//!
//! Every member applies the same commands in the same order and gets the same records, revisions
//! and answers. Nothing here reads a clock, draws a random number, opens a sealed value or waits.
//!
//! Two exits and no third: an [`ApplyError`] is part of the answer on every member, a [`Halt`]
//! stops this one.

#![deny(clippy::wildcard_enum_match_arm)]

pub mod claims;
pub mod command;
pub mod envelope;
pub mod facts;
pub mod levels;
pub mod machine;
pub mod membership;
pub mod outcome;
pub mod tables;

mod codec;
mod keys;
mod member;
mod txn;

pub use codec::CommandError;
pub use command::Command;
pub use envelope::{Envelope, Origin};
pub use facts::ClusterFacts;
pub use machine::{AppliedBatch, Judgement, Options, StateMachine};
pub use membership::{Membership, MembershipChange};
pub use outcome::{ApplyError, CommandResponse, Halt, OpResponse, Outcome, RecordRef, TxnResponse};
