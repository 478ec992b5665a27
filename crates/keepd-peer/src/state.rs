//! States: one stream each, on a connection of its own, so that no heartbeat waits behind one.

mod receive;
mod send;

use std::time::Duration;

pub(crate) use receive::receive;
pub(crate) use send::{Source, send};

/// BOUND: frames between the disk and the network.
const CHUNKS_MAX: usize = 2;
/// Time limit within which a state gets on.
const STALL_MAX: Duration = Duration::from_secs(60);
/// Time limit for the receiver to check a state and make it durable.
const FINISH_MAX: Duration = Duration::from_secs(600);
