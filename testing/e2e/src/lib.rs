//! A small client, clusters, load and faults for the end-to-end tests in `tests/`, which run the real binary.

#![expect(clippy::panic, reason = "what is wrong fails the test")]

mod build;
mod client;
mod cluster;
mod granted;
mod load;
mod network;
mod small_disk;
mod storm;
mod traffic;

pub use build::Build;
pub use client::{Client, Event, Watch};
pub use cluster::{Cluster, Member, free_port, url};
pub use granted::granted;
pub use load::{Load, Writes};
pub use network::{Link, MEMBERS_MAX, Network};
pub use small_disk::SmallDisk;
pub use storm::{Counts, Storm};
pub use traffic::{Summary, Traffic};
