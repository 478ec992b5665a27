//! One call of an RPC: its message, its metadata, its deadline and its connection.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use crate::authorization::Authorized;
use crate::unfinished::Share;
use crate::unread::ListPermit;

/// The metadata of a call that is used; other fields are not kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metadata {
    /// `hasleader`: refuse the call when no leader is known.
    pub(crate) wants_leader: bool,
    /// `token`, or else `authorization`, unchanged.
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

/// A call that a service answers, authorized.
#[derive(Debug)]
pub(crate) struct Call<R> {
    /// Its message, or `Requests` if it may send many.
    pub(crate) request: R,
    /// The time at which its client gives up; the answer ends then in any case.
    pub(crate) deadline: Option<Instant>,
    /// Its connection.
    pub(crate) connection: Arc<Share>,
}

impl<R> Call<R> {
    /// A call with this message, which [`authorize`](crate::authorization::authorize) has let through.
    pub(crate) fn new(
        request: R,
        deadline: Option<Instant>,
        connection: Arc<Share>,
        _authorized: Authorized,
    ) -> Self {
        Self { request, deadline, connection }
    }

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
