//! A small client, clusters and load for the end-to-end tests in `tests/`, which run the real binary.

#![expect(clippy::panic, reason = "what is wrong fails the test")]

mod client;
mod cluster;
mod load;

pub use client::{Client, Event, Watch};
pub use cluster::{Cluster, Member, free_port, url};
pub use load::{Load, Writes};
