//! Members that find each other at a discovery service, which here is a keepd.

use std::net::TcpListener;
use std::time::Duration;

use e2e::Client;
use testkit::process::tail;
use testkit::{Keepd, Server, TempDir};
use tokio::time::sleep;

const REGISTRY: &str = "/_etcd/registry";

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A member that asks the service for its cluster.
fn member(dir: &TempDir, service: &str, token: &str, peer: &str) -> Keepd {
    Keepd::new(dir.path()).args([
        "--discovery-endpoints",
        service,
        "--discovery-token",
        token,
        "--listen-peer-urls",
        peer,
        "--initial-advertise-peer-urls",
        peer,
    ])
}

async fn logs(server: &Server, text: &str) {
    let log = || server.options().log();
    for _ in 0..600 {
        if log().contains(text) {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    assert!(log().contains(text), "{text:?} is not in the log\n{}", tail(&log()));
}

fn ends_with(keepd: &Keepd, error: &str) {
    let status = keepd.run(Duration::from_secs(30));
    let log = keepd.log();
    assert_eq!(status.and_then(|status| status.code()), Some(1), "{}", tail(&log));
    assert!(log.contains(error), "{error:?} is not told\n{}", tail(&log));
    assert!(!keepd.data_dir().join("member").exists(), "nothing was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_registers_finds_its_cluster_and_needs_the_service_no_more() {
    let (service_dir, dir) = (TempDir::new("e2e-discovery"), TempDir::new("e2e-discovered"));
    let mut service = Keepd::new(service_dir.path()).start();
    let registry = Client::ready(&mut service).await;
    let endpoint = service.options().endpoint();
    let peer = format!("http://127.0.0.1:{}", free_port());

    let early = TempDir::new("e2e-undiscovered");
    let nowhere = member(&early, &endpoint, "none", &peer);
    ends_with(&nowhere, "failed to join discovery cluster (discovery: size key not found)");
    registry.put(&format!("{REGISTRY}/bad/_config/size"), "many", 0).await.unwrap();
    let bad = member(&early, &endpoint, "bad", &peer);
    ends_with(&bad, "failed to join discovery cluster (discovery: size key is bad)");

    registry.put(&format!("{REGISTRY}/one/_config/size"), "1", 0).await.unwrap();
    let keepd = member(&dir, &endpoint, "one", &peer);
    let mut server = keepd.start();
    Client::ready(&mut server).await.put("k", "v", 0).await.unwrap();
    let registered = registry.list(&format!("{REGISTRY}/one/members")).await.unwrap();
    assert_eq!(registered.len(), 1);
    assert_eq!(registered[0].value, format!("one={peer}"));
    server.kill();

    // Another one comes too late.
    let other = format!("http://127.0.0.1:{}", free_port());
    let late = member(&early, &endpoint, "one", &other);
    ends_with(&late, "failed to join discovery cluster (discovery: cluster is full)");

    service.kill();
    let mut again = keepd.start();
    let client = Client::ready(&mut again).await;
    assert_eq!(client.get("k").await.unwrap().as_deref(), Some("v"));
    logs(&again, "discovery token is ignored since cluster already initialized").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_waits_for_the_service_and_for_the_others_over_a_restart_of_it() {
    let (service_dir, dir) = (TempDir::new("e2e-discovery"), TempDir::new("e2e-discovered"));
    let keepd = Keepd::new(service_dir.path());
    let peer = format!("http://127.0.0.1:{}", free_port());
    let mut service = keepd.start();
    let registry = Client::ready(&mut service).await;
    registry.put(&format!("{REGISTRY}/two/_config/size"), "2", 0).await.unwrap();
    service.kill();
    let waiting = member(&dir, &keepd.endpoint(), "two", &peer).start();
    logs(&waiting, "retry connecting to discovery service").await;

    let service = keepd.start();
    logs(&waiting, "waiting for peers from discovery service").await;
    service.kill();
    logs(&waiting, "the watch for peers broke off; looking again").await;
    let mut service = keepd.start();
    let registry = Client::ready(&mut service).await;
    let key = format!("{REGISTRY}/two/members/1234");
    registry.put(&key, "other=http://127.0.0.1:1", 0).await.unwrap();
    logs(&waiting, "discovery joined cluster successfully").await;
    let log = waiting.options().log();
    assert!(log.contains(&format!("one={peer},other=http://127.0.0.1:1")), "{}", tail(&log));
}
