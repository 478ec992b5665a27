//! Asks members for the membership, for one that wants to join and is none yet.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keepd_tls::ClientTls;
use tokio::time::timeout;

use crate::dial::Dialer;
use crate::frames::one_frame;
use crate::protocol::{self, Kind, MEMBERSHIP};
use crate::socket::Tcp;

/// BOUND: URLs that are asked.
const URLS_MAX: usize = 64;

/// The reasons why no member told the membership.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no member told the membership: {}; is a member of the cluster running, and are the peer URLs in \
     --initial-cluster right?",
    if .0.is_empty() { "no peer URLs are given".to_owned() } else { .0.join("; ") }
)]
pub struct Error(Vec<String>);

/// The membership, as the first member tells it that answers at one of the URLs; each is
/// given so much time.
///
/// # Errors
/// The reason for each of the URLs.
pub async fn fetch_membership(
    urls: &[String],
    tls: Option<Arc<ClientTls>>,
    limit: Duration,
) -> Result<Bytes, Error> {
    let (connect, keepalive) = (Arc::new(Tcp::default()), (limit, limit));
    let dialer = Dialer { connect, tls, timeout: limit / 2, keepalive };
    let mut reasons = Vec::new();
    for url in urls.iter().take(URLS_MAX) {
        match timeout(limit, ask(&dialer, url)).await {
            Ok(Ok(membership)) => return Ok(membership),
            Ok(Err(reason)) => reasons.push(reason),
            Err(_elapsed) => reasons.push(format!("{url}: no answer within {limit:?}")),
        }
    }
    Err(Error(reasons))
}

async fn ask(dialer: &Dialer, url: &str) -> Result<Bytes, String> {
    let mut connection = dialer.connect(url).await.map_err(|error| error.to_string())?;
    let question = one_frame(protocol::frame(Kind::AskMembership, &[protocol::VERSION]));
    let answer = connection.call(MEMBERSHIP, question).await;
    let mut reader = answer.map_err(|error| error.to_string())?;
    match reader.next().await {
        Ok(Some((Kind::Membership, membership))) => Ok(membership),
        Ok(Some((Kind::Refused, payload))) => {
            Err(format!("{url}: {}", protocol::refusal(&payload)))
        }
        Ok(Some((Kind::Ended, payload))) => Err(format!("{url}: {}", protocol::text(&payload))),
        Ok(Some((kind, _))) => Err(format!("{url}: {kind:?} came instead of the membership")),
        Ok(None) => Err(format!("{url}: it ended without an answer")),
        Err(error) => Err(format!("{url}: {error}")),
    }
}
