//! The other end of a connection.

use std::fmt;

use keepd_tls::PeerIdentity;

/// The other end of a connection: a client, or another member.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peer {
    /// Its address and port, or [`LOCAL`].
    pub(crate) address: String,
    /// Its certificate, verified, if it was asked for one and sent it.
    pub(crate) identity: Option<PeerIdentity>,
}

/// The address of all clients on a unix socket.
pub(crate) const LOCAL: &str = "@";

/// The form in the log: the address, and the common name of the certificate.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)?;
        let common_name = self.identity.as_ref().and_then(|it| it.common_name.as_deref());
        common_name.map_or(Ok(()), |name| write!(f, " ({name})"))
    }
}

impl Peer {
    /// Whether it came over a unix socket.
    pub(crate) fn is_local(&self) -> bool {
        self.address == LOCAL
    }
}
