//! Those that are no members: joining ones, etcd, versions to come.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use keepd_node::{PeerAddress, Transport as _};
use keepd_peer::fetch_membership;
use keepd_types::MemberId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::fixture::{Certificates, Member, eventually, logged};

const SECONDS: std::time::Duration = std::time::Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_wants_to_join_gets_the_membership_from_the_first_that_answers() {
    let certificates = Certificates::new("peers-join");
    let (server, client) = certificates.tls("m1", &[]);
    let a = Member::with(0x301, 0xc1, Some((server, client.clone())), None);
    let urls = ["http://127.0.0.1:9".to_owned(), a.url()];
    assert_eq!(fetch_membership(&urls, Some(client), SECONDS).await.unwrap(), "the membership");
    let error = fetch_membership(&urls, None, SECONDS).await.unwrap_err().to_string();
    assert!(error.contains("http://127.0.0.1:9: ") && error.contains("refused"), "{error}");
    assert!(error.contains("--peer-trusted-ca-file"), "{error}");
    let error = fetch_membership(&[], None, SECONDS).await.unwrap_err().to_string();
    assert!(error.contains("no peer URLs are given"), "{error}");
}

/// A request over HTTP/2, whatever it carries.
async fn request(member: &Member, path: &str, body: &'static [u8]) -> (StatusCode, Bytes) {
    let stream = TcpStream::connect(member.address).await.unwrap();
    let (mut requests, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = Request::post(format!("http://{}{path}", member.address))
        .header("content-type", "application/x-keepd-peer")
        .body(Full::new(Bytes::from_static(body)))
        .unwrap();
    let answer = requests.send_request(request).await.unwrap();
    let status = answer.status();
    (status, answer.into_body().collect().await.unwrap().to_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_version_of_the_protocol_is_refused_with_the_remedy() {
    let a = Member::new(0x311);
    for (path, body) in [
        ("/keepd.peer.v1.Peers/Messages", b"\x01\0\0\0\x03\x02zz"),
        ("/keepd.peer.v1.Peers/State", b"\x01\0\0\0\x03\x02zz"),
        ("/keepd.peer.v1.Peers/Membership", b"\x0c\0\0\0\x03\x02zz"),
    ] {
        let (status, answer) = request(&a, path, body).await;
        assert_eq!((status, answer[0], answer[5]), (StatusCode::OK, 2, 0), "{path}: refused");
        let text = String::from_utf8_lossy(&answer);
        assert!(text.contains("version 2") && text.contains("upgrade the older"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_frames_harm_nobody() {
    let a = Member::new(0x321);
    for body in [&b"\x01\xff\xff\xff\xff"[..], b"\x63\0\0\0\0", b"\x04\0\0\0\x01a", b"\x01", b""] {
        let (status, answer) = request(&a, "/keepd.peer.v1.Peers/Messages", body).await;
        assert_eq!((status, answer[0]), (StatusCode::OK, 3), "ended");
    }
    assert!(a.recorder.received.lock().is_empty() && a.network.peers().is_empty());
    let (status, _) = request(&a, "/metrics", b"").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

/// A stub that answers over HTTP/1.1 as etcd's peer port does.
async fn etcd(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let len = stream.read(&mut request).await.unwrap();
            let is_get = request[..len].starts_with(b"GET /version ");
            let not_found = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
            let answer = if is_get { answer } else { not_found };
            let _gone = stream.write_all(answer.as_bytes()).await;
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_etcd_or_a_client_port_is_named() {
    let a = Member::new(0x331);
    for (id, answer, text) in [
        (
            0x332,
            "HTTP/1.1 200 OK\r\n\r\n{\"etcdserver\":\"3.7.1\",\"etcdcluster\":\"3.7.0\"}",
            "this peer is an etcd member",
        ),
        (
            0x333,
            "HTTP/1.1 200 OK\r\n\r\n{\"etcdserver\":\"3.7.1\",\"keepd\":\"0.1.0\"}",
            "is a client URL of keepd",
        ),
        (0x334, "HTTP/1.1 200 OK\r\n\r\nhello", "does not answer as a peer port of keepd"),
    ] {
        let url = etcd(answer).await;
        let urls = vec![url.clone()];
        a.network.set_peers(vec![PeerAddress { id: MemberId(id), urls: urls.clone() }]);
        let peer = format!("peer={id:x}");
        eventually(text, || !logged(&["no connection", &peer, text]).is_empty()).await;
        let error = fetch_membership(&urls, None, SECONDS).await.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    let remedy = logged(&["peer=332", "etcdutl snapshot restore", "etcd 3.7.1"]);
    assert_eq!(remedy.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_member_is_told_what_it_has_dialed() {
    let a = Member::new(0x341);
    for path in ["/raft/stream/msgappv2/1", "/raft", "/members", "/version"] {
        let mut stream = TcpStream::connect(a.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 412"), "{answer}");
        assert!(
            answer.contains("this is a keepd member") && answer.contains("etcdutl"),
            "{answer}"
        );
    }
}
