//! The other end of a connection: a client, or another member.

pub(crate) use keepd_peer::Remote as Peer;

/// The address of all clients on a unix socket.
pub(crate) const LOCAL: &str = "@";

/// Whether it came over a unix socket.
pub(crate) fn is_local(peer: &Peer) -> bool {
    peer.address == LOCAL
}
