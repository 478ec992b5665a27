//! A small client for the end-to-end tests in `tests/`, which run the real binary.

#![expect(clippy::panic, reason = "what is wrong fails the test")]

mod client;

pub use client::{Client, Event, Watch};
