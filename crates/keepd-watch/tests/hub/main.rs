//! The hub over a real store: golden scripts and a property test.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failure fails the test")]

mod golden;
mod histories;
mod installed;
mod readers;
mod world;
