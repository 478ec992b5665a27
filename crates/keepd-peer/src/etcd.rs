//! etcd's members and keepd's never form one cluster, and each tells the operator so.
//!
//! On a peer port etcd's paths are answered so that its log has the reason: 412 with a text instead of
//! `Precondition Failed`, since its prober logs the status line; a joining etcd logs a field of the
//! answer to `/members`. A keepd member that finds etcd at a peer URL says that.

use http::{HeaderValue, Response, StatusCode};
use hyper::ext::ReasonPhrase;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::frames::{FrameBody, one_frame};

/// BOUND: bytes that are read of the answer of a stranger.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// The field by which etcd names its cluster.
const CLUSTER_ID: &str = "x-etcd-cluster-id";
const JOINING: &str = "/members";
const NOT_ETCD: &str = "this is a keepd member; etcd's and keepd's members do not form one cluster. To \
                        migrate: etcdctl snapshot save on etcd, then restore it with keepd's etcdutl \
                        snapshot restore for every new member, and start those";

/// The text of a URL that is etcd's.
pub(crate) fn is_etcd(url: &str, version: &str) -> String {
    format!(
        "this peer is an etcd member ({url}, etcd {version}), and etcd's and keepd's members do not \
         form one cluster. To migrate: save a snapshot of etcd (etcdctl snapshot save), restore it \
         with keepd's etcdutl snapshot restore for every new member, and start those; or correct \
         --initial-cluster or the member's peer URL"
    )
}

/// The answer to an etcd member, `None` if no etcd member asks for this path.
pub(crate) fn answer(path: &str) -> Option<Response<FrameBody>> {
    let is_etcds = ["/raft", "/members", "/leases", "/downgrade"].into_iter().any(|prefix| {
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    if !is_etcds && path != "/version" {
        return None;
    }
    let body = if path == JOINING { "[]\n".to_owned() } else { format!("{NOT_ETCD}\n") };
    let mut response = Response::new(one_frame(body.into()));
    *response.status_mut() = StatusCode::PRECONDITION_FAILED;
    response.extensions_mut().insert(ReasonPhrase::from_static(NOT_ETCD.as_bytes()));
    let content_type = if path == JOINING { "application/json" } else { "text/plain" };
    let fields = response.headers_mut();
    fields.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    fields.insert(CLUSTER_ID, HeaderValue::from_static(NOT_ETCD));
    Some(response)
}

/// A server that is no peer port of keepd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// An etcd member of this version.
    Etcd(String),
    /// A client port of keepd.
    KeepdClient,
}

/// Asks for the version, over HTTP/1.1, which every etcd speaks on both of its ports.
pub(crate) async fn ask_version(
    socket: &mut (impl AsyncRead + AsyncWrite + Unpin),
    authority: &str,
) -> Option<Found> {
    let request =
        format!("GET /version HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    let mut socket = socket.take(ANSWER_BYTES_MAX);
    loop {
        // A server may close without a farewell; etcd's peer port closes five seconds after its answer.
        let is_end = socket.read_buf(&mut answer).await.unwrap_or_default() == 0;
        let found = found(&String::from_utf8_lossy(&answer));
        if is_end || found.is_some() {
            return found;
        }
    }
}

fn found(answer: &str) -> Option<Found> {
    let (fields, body) = answer.split_once("\r\n\r\n")?;
    let object = body.find('{').zip(body.rfind('}')).and_then(|(from, to)| body.get(from..=to));
    let object = object.and_then(|it| serde_json::from_str::<serde_json::Value>(it).ok());
    if let Some(version) = object.as_ref().and_then(|it| it["etcdserver"].as_str()) {
        let is_keepd = object.as_ref().is_some_and(|it| it.get("keepd").is_some());
        let version = crate::protocol::text(version.as_bytes());
        return Some(if is_keepd { Found::KeepdClient } else { Found::Etcd(version) });
    }
    let has_id = fields.to_ascii_lowercase().contains(CLUSTER_ID) && !answer.contains("keepd");
    has_id.then(|| Found::Etcd("of an unknown version".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcd_and_a_client_port_are_told_from_what_is_neither() {
        let etcd = "HTTP/1.1 200 OK\r\n\r\n{\"etcdserver\":\"3.7.1\",\"etcdcluster\":\"3.7.0\"}";
        let chunked = "HTTP/1.1 200 OK\r\n\r\n19\r\n{\"etcdserver\":\"3.5.0\"}\r\n0\r\n\r\n";
        let client = "HTTP/1.1 200 OK\r\n\r\n{\"etcdserver\":\"3.7.1\",\"keepd\":\"0.1.0\"}";
        let fields = "HTTP/1.1 404 Not Found\r\nX-Etcd-Cluster-ID: c1\r\n\r\n404 page not found";
        let of = |version: &str| Some(Found::Etcd(version.to_owned()));
        assert_eq!(found(etcd), of("3.7.1"));
        assert_eq!(found(chunked), of("3.5.0"));
        assert_eq!(found(client), Some(Found::KeepdClient));
        assert_eq!(found(fields), of("of an unknown version"));
        for other in ["HTTP/1.1 200 OK\r\n\r\n{}", "SSH-2.0-x", "", "HTTP/1.1 200 OK\r\n\r\n}{"] {
            assert_eq!(found(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn an_answer_is_taken_as_soon_as_it_is_there() {
        let (mut asks, mut answers) = tokio::io::duplex(4096);
        answers.write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"etcdserver\":\"3.7.1\"}").await.unwrap();
        // The other side stays open.
        let found = ask_version(&mut asks, "m1:2380").await;
        assert_eq!(found, Some(Found::Etcd("3.7.1".to_owned())));
        drop(answers);
        assert_eq!(ask_version(&mut asks, "m1:2380").await, None);
    }

    #[test]
    fn every_path_of_an_etcd_peer_is_answered_and_no_other() {
        for path in [
            "/raft",
            "/raft/probing",
            "/raft/stream/msgappv2/1",
            "/raft/snapshot",
            "/members",
            "/members/promote/1",
            "/members/hashkv",
            "/leases",
            "/leases/internal",
            "/downgrade/enabled",
            "/version",
        ] {
            let answer = answer(path).unwrap();
            assert_eq!(answer.status(), StatusCode::PRECONDITION_FAILED, "{path}");
            let reason = answer.extensions().get::<ReasonPhrase>().unwrap();
            assert_eq!(reason.as_bytes(), NOT_ETCD.as_bytes());
        }
        for path in ["/", "/rafts", "/metrics", "/keepd.peer.v1.Peers/State"] {
            assert!(answer(path).is_none(), "{path}");
        }
    }
}
