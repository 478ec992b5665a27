//! Members with their real peer and client ports, TLS included, on a simulated network.
//!
//! ```text
//!  turmoil: host 192.168.1.1 .. 3             client
//!    parts of a member, stepped by a task      keepd-server <--gRPC, TLS-- clients of testing/e2e
//!    keepd-peer, keepd-server --HTTP/2, mutual TLS--> the other hosts
//!                 simulated TCP: delays, cuts, held links, resets, hosts that die
//! ```
//!
//! The code is the product's from the socket up: only the two doors to the network are others
//! (`door.rs`), as are the disk, the clock and the randomness (`keepd_env`), and the member's parts are stepped by a task
//! (`parts.rs`) instead of by threads of their own. The time of all hosts is simulated and moves by a millisecond.

#![expect(clippy::panic, reason = "a failed run names its seed")]

mod certificates;
mod cluster;
mod door;
mod host;
mod parts;
mod weather;

pub use certificates::Certificates;
pub use cluster::{CLIENT, Cluster, TICK, Way, address};
pub use door::{Doors, SimAccept, SimConnect};
pub use host::{CLIENT_PORT, PEER_PORT};
pub use weather::{Count, Weather};

/// The seeds of a run: `KEEPD_NET_SEEDS` from `KEEPD_NET_FROM` on, or as many as it takes by itself.
#[must_use]
pub fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|it| it.parse::<u64>().ok());
    let from = number("KEEPD_NET_FROM").unwrap_or(0);
    from..from + number("KEEPD_NET_SEEDS").unwrap_or(usual)
}
