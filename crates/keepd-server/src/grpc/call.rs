//! One call of an RPC: what its client sent, and who that is.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use keepd_tls::PeerIdentity;
use tokio::time::Instant;

use crate::unfinished::Share;
use crate::unread::ListPermit;

/// Who is at the other end of a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peer {
    /// Its address and port, or [`LOCAL`].
    pub(crate) address: String,
    /// Its certificate, if it was asked for one and showed it; verified.
    pub(crate) identity: Option<PeerIdentity>,
}

/// The address of all who come over a unix socket.
pub(crate) const LOCAL: &str = "@";

/// As the log names it: its address, and its certificate's common name.
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

/// The metadata of a call that the services look at; other fields are not kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metadata {
    /// `hasleader`: refuse the call when no leader is known.
    pub(crate) wants_leader: bool,
    /// `token`, or else `authorization`, as it came.
    #[cfg_attr(not(test), expect(dead_code, reason = "read once users are built"))]
    pub(crate) token: Option<HeaderValue>,
}

impl Metadata {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let token = headers.get("token").or_else(|| headers.get("authorization"));
        Self {
            wants_leader: headers.get("hasleader").is_some_and(|value| value == "true"),
            token: token.cloned(),
        }
    }
}

/// A call that a service answers.
#[derive(Debug)]
pub(crate) struct Call<R> {
    /// Its message, or `Requests` if it may send many.
    pub(crate) request: R,
    pub(crate) metadata: Metadata,
    /// When its client gives up; the call is ended then in any case.
    #[expect(dead_code, reason = "read where a call is passed on to another member")]
    pub(crate) deadline: Option<Instant>,
    /// Its connection, and with it who calls.
    pub(crate) connection: Arc<Share>,
}

impl<R> Call<R> {
    /// Waits until another answer with values may be made for this connection, and, if it is a list
    /// of them, for the permit to make it.
    pub(crate) async fn admit_answer(&self, is_list: bool) -> Option<ListPermit> {
        let unread = &self.connection.unread;
        unread.room().await;
        if is_list { Some(unread.list().await) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_what_clients_of_etcd_send() {
        let read = |fields: &[(&'static str, &'static str)]| {
            let fields = fields.iter().map(|(name, value)| {
                (http::HeaderName::from_static(name), HeaderValue::from_static(value))
            });
            Metadata::of(&fields.collect())
        };
        assert!(read(&[("hasleader", "true")]).wants_leader);
        assert!(!read(&[("hasleader", "TRUE")]).wants_leader);
        assert_eq!(read(&[]).token, None);
        assert_eq!(read(&[("authorization", "Bearer a.1")]).token.unwrap(), "Bearer a.1");
        assert_eq!(read(&[("authorization", "x"), ("token", "b.2")]).token.unwrap(), "b.2");
    }
}
