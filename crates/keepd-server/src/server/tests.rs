//! A server on a real socket, with a member on a simulated disk.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use parking_lot::Mutex;
use tonic::Status;

use super::*;
use crate::authorization::{Authorizer, Caller, Permission};
use crate::listener::{Bind, ConnectionOptions, Endpoint};
use crate::rpc::RPCS;
use crate::testing::{self, Member};

fn context(member: &Member, authorizer: impl Authorizer + 'static) -> Arc<Context> {
    let mut context = Arc::into_inner(testing::context(member)).expect("it is new");
    context.authorizer = Box::new(authorizer);
    Arc::new(context)
}

/// A server of this context and a connection to it.
async fn serve(context: Arc<Context>) -> (Server, SendRequest<Bytes>) {
    let server = Server::new(context, AccessControl::default());
    let (bind, options) = (Bind::Tcp("127.0.0.1:0".to_owned()), ConnectionOptions::default());
    let listener = Listener::bind(&bind, None, options, Endpoint::Client).await.unwrap();
    let address = listener.local_address();
    server.serve_clients(listener);
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move { connection.await.unwrap() });
    (server, client)
}

async fn end(server: Server, client: SendRequest<Bytes>, member: Member) {
    drop(client);
    server.stop_clients(Duration::from_secs(1)).await;
    server.stop().await;
    member.stop().await;
}

/// Calls an RPC with an empty message; the fields that tell how it ended.
async fn call(client: &mut SendRequest<Bytes>, path: &str, token: &str) -> HeaderMap {
    let request = Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("token", token)
        .body(())
        .unwrap();
    std::future::poll_fn(|task| client.poll_ready(task)).await.unwrap();
    let (answer, mut sending) = client.send_request(request, false).unwrap();
    sending.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
    trailers(answer.await.unwrap()).await
}

/// The fields that tell how a call ended.
async fn trailers(answer: Response<h2::RecvStream>) -> HeaderMap {
    if answer.headers().contains_key(Status::GRPC_STATUS) {
        return answer.headers().clone();
    }
    let mut body = answer.into_body();
    while let Some(data) = body.data().await {
        let len = data.unwrap().len();
        body.flow_control().release_capacity(len).unwrap();
    }
    body.trailers().await.unwrap().unwrap()
}

/// A question that an authorizer was asked: path, permission, whether the peer's address was known,
/// token.
type Question = (&'static str, Permission, bool, String);

/// Refuses everything.
#[derive(Clone, Debug, Default)]
struct Nobody(Arc<Mutex<Vec<Question>>>);

impl Authorizer for Nobody {
    fn authorize(
        &self,
        path: &'static str,
        permission: Permission,
        caller: Caller<'_>,
    ) -> Result<(), Status> {
        let token = caller.token.map(|token| token.to_str().unwrap().to_owned());
        let has_address = caller.peer.address.starts_with("127.0.0.1:");
        self.0.lock().push((path, permission, has_address, token.unwrap_or_default()));
        Err(Status::permission_denied("etcdserver: permission denied"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_asks_the_authorizer_before_its_handler_runs() {
    let (node, nobody) = (testing::member(None).await, Nobody::default());
    let revision = node.handle().status().applied_index;
    let (server, mut client) = serve(context(&node, nobody.clone())).await;
    for rpc in RPCS {
        let status = call(&mut client, rpc.path, "t.1").await;
        assert_eq!(status["grpc-status"], "7", "{}", rpc.path);
        assert_eq!(status["grpc-message"], "etcdserver:%20permission%20denied");
    }
    let asked = std::mem::take(&mut *nobody.0.lock());
    let rows = RPCS.iter().map(|rpc| (rpc.path, rpc.permission, true, "t.1".to_owned()));
    assert_eq!(asked, rows.collect::<Vec<_>>());
    assert_eq!(node.handle().status().applied_index, revision, "nothing was proposed");
    end(server, client, node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_users_everyone_may_call_everything() {
    let node = testing::member(None).await;
    let (server, mut client) = serve(context(&node, crate::authorization::Everyone)).await;
    for (path, code) in [
        ("/etcdserverpb.Cluster/MemberList", "0"),
        ("/etcdserverpb.Maintenance/Status", "0"),
        ("/etcdserverpb.KV/Put", "3"),
    ] {
        assert_eq!(call(&mut client, path, "").await["grpc-status"], code, "{path}");
    }
    end(server, client, node).await;
}

/// A network without a member: it starts, or the cluster is one of one.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_port_answers_members_and_tells_etcd_what_it_is() {
    use http_body_util::BodyExt as _;
    let node = testing::member(None).await;
    let server = Server::new(testing::context(&node), AccessControl::default());
    let (bind, options) = (Bind::Tcp("127.0.0.1:0".to_owned()), ConnectionOptions::default());
    let listener = Listener::bind(&bind, None, options, Endpoint::Peer).await.unwrap();
    let address = listener.local_address();
    let options = keepd_peer::Options {
        connect: Arc::new(keepd_peer::Tcp::default()),
        tls: None,
        election_timeout: Duration::from_secs(1),
        state_bytes_per_second: None,
    };
    let network = Network::new(options, &keepd_env::Env::real());
    server.serve_peers(listener, &network);

    let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let stream = hyper_util::rt::TokioIo::new(stream);
    let (mut client, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    for (path, status, text) in [
        ("/raft/stream/msgappv2/1", 412, "this is a keepd member"),
        ("/health", 404, "404 page not found"),
        ("/metrics", 404, "404 page not found"),
    ] {
        let request = Request::get(path).header("host", "x").body(String::new()).unwrap();
        client.ready().await.unwrap();
        let answer = client.send_request(request).await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains(text), "{path}");
    }
    let urls = [format!("http://{address}")];
    let error = keepd_peer::fetch_membership(&urls, None, Duration::from_secs(5))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("starts or stops"), "{error}");
    drop(client);
    network.shutdown().await;
    server.stop_clients(Duration::from_secs(1)).await;
    server.stop().await;
    node.stop().await;
}

/// Clients that send the end of a request behind its message, in a frame of its own, find the stream
/// still there: one that is reset under them costs them the connection after some thousand requests.
#[tokio::test]
async fn a_request_may_end_after_its_message_was_answered() {
    let member = testing::member(None).await;
    let (server, mut client) = serve(testing::context(&member)).await;
    for path in ["/etcdserverpb.KV/Range", "/etcdserverpb.KV/RangeStream"] {
        let mut open = async || {
            let request = Request::post(format!("http://localhost{path}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(())
                .unwrap();
            std::future::poll_fn(|task| client.poll_ready(task)).await.unwrap();
            let (answer, mut sending) = client.send_request(request, false).unwrap();
            sending.send_data(Bytes::from_static(b"\0\0\0\0\x03\x0a\x01k"), false).unwrap();
            (answer, sending)
        };
        let (answer, mut sending) = open().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        sending.send_data(Bytes::new(), true).unwrap();
        let status = trailers(answer.await.unwrap()).await;
        assert_eq!(status.get(Status::GRPC_STATUS).unwrap(), "0", "{path}");
        // One that never ends is answered all the same.
        let (answer, _sending) = open().await;
        let status = trailers(answer.await.unwrap()).await;
        assert_eq!(status.get(Status::GRPC_STATUS).unwrap(), "0", "{path}");
    }
    end(server, client, member).await;
}
