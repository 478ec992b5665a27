//! The network between members: dialing, handshake, lanes, states.
//!
//! [`Network`] is what a member sees of it: `keepd_node::Transport` on the way out, and it calls the
//! member's `keepd_node::Receiver` on the way in. Each member dials each other one, and messages flow
//! from who dialed to who accepted, over HTTP/2 and TLS on the peer ports; [`PeerService`] is mounted
//! there. The bytes are documented in docs/formats/peer-protocol.md.
//!
//! ```text
//!  send --> queue, one per lane --> stream --.             .--> lane --> Receiver::receive
//!                                             connection --+
//!  send --> queue ----------------> stream --'             '--> lane --> Receiver::receive
//! ```
//!
//! A lane is a stream of its own: heartbeats do not wait behind entries, neither in the queue nor in
//! HTTP/2's windows nor in a receiver that has no room for entries. A state has a connection of its
//! own, so that not even the socket is shared.
//!
//! A queue lives as long as its connection. What is queued when it breaks is dropped and the member
//! told (`Receiver::lost`): nothing is sent twice, and order within a lane is kept, since the
//! accepting side ends a lane's former stream before it reads the next. A message for a lane that is
//! full, or for a peer that is not connected, is not queued at all: `send` says so.
//!
//! A member without room reads nothing more: the HTTP/2 window fills, then the sender's queue, and then the
//! sender drops. Nothing here waits for a member, and no member waits for the network.

mod counters;
mod dial;
mod etcd;
mod frames;
mod handshake;
mod inbound;
mod link;
mod membership;
mod network;
mod opened;
mod pace;
mod peer;
mod protocol;
mod queue;
mod service;
mod shared;
mod socket;
mod state;

pub use frames::FrameBody;
pub use membership::{Error, fetch_membership};
pub use network::Network;
pub use opened::Remote;
pub use peer::{PeerStatus, Times};
pub use service::PeerService;
pub use shared::Options;
pub use socket::{Connect, Connecting, Socket, Tcp};
