//! Starting and stopping.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use e2e::Client;
use testkit::{Keepd, TempDir};

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_serves_and_data_survives_restarts() {
    let dir = TempDir::new("e2e-start");
    // As Kubernetes' own tests start it: single dashes, a default cluster, ports left to it.
    let keepd = Keepd::new(dir.path()).args(["-log-level", "warn"]);
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    assert_eq!(client.revision().await.unwrap(), 1);
    assert_eq!(client.put("/registry/demo", "hello", 0).await.unwrap(), 2);
    assert_eq!(client.get("/registry/demo").await.unwrap().as_deref(), Some("hello"));
    let lease = client.grant(600).await.unwrap();
    assert_eq!(client.put("/registry/leased", "x", lease).await.unwrap(), 3);

    // It dies of the signal that stopped it, as etcd does, and leaves no socket behind.
    assert_eq!(server.stop().signal(), Some(15));
    assert!(!keepd.socket().exists());

    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    assert_eq!(client.revision().await.unwrap(), 3);
    assert_eq!(client.get("/registry/demo").await.unwrap().as_deref(), Some("hello"));
    assert_eq!(client.leases().await.unwrap(), [lease]);
    assert_eq!(client.delete("/registry/demo").await.unwrap(), 4);
    assert_eq!(client.history(2, 4).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn port_zero_is_a_free_port_that_the_log_names() {
    let dir = TempDir::new("e2e-port");
    let keepd = Keepd::new(dir.path()).args(["--listen-client-urls", "http://127.0.0.1:0"]);
    let mut server = keepd.start();
    let mut found = None;
    for _ in 0..500 {
        server.assert_running();
        found = keepd.log().lines().filter(|line| line.contains("serving client")).find_map(port);
        if found.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let port = found.unwrap_or_else(|| panic!("no line names the port:\n{}", keepd.log()));
    assert_ne!(port, 0);
    let client = Client::connect(format!("http://127.0.0.1:{port}")).await.unwrap();
    assert_eq!(client.put("a", "1", 0).await.unwrap(), 2);
}

fn port(line: &str) -> Option<u16> {
    let digits = line.split("127.0.0.1:").nth(1)?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_never_share_a_directory() {
    let dir = TempDir::new("e2e-lock");
    let keepd = Keepd::new(dir.path());
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    client.put("a", "1", 0).await.unwrap();

    let other_socket = format!("unix://{}", dir.join("t").display());
    let other = keepd.clone().args(["--listen-client-urls", &other_socket]);
    // It may wait for the lock, as etcd does, or end; it must not serve.
    let mut second = other.start();
    let status = second.wait(Duration::from_secs(3));
    assert!(status.is_none_or(|status| !status.success()));
    if let Ok(client) = Client::connect(other_socket).await {
        client.revision().await.unwrap_err();
    }
    drop(second);
    assert_eq!(client.put("a", "2", 0).await.unwrap(), 3);
}
