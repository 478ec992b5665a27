//! Leases over time and over kills.

use std::time::Duration;

use e2e::{Client, Event};
use testkit::{Keepd, TempDir};
use tokio::time::{Instant, sleep};

/// A lease of two seconds ends with the poll behind its deadline; the rest is a slow machine.
const GONE_WITHIN: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_lives_for_its_ttl_and_takes_its_keys_along() {
    let dir = TempDir::new("e2e-lease");
    let mut server = Keepd::new(dir.path()).start();
    let client = Client::ready(&mut server).await;
    let kept = client.grant(2).await.unwrap();
    let left = client.grant(2).await.unwrap();
    let granted = Instant::now();
    client.put("left/b", "1", left).await.unwrap();
    client.put("left/a", "1", left).await.unwrap();
    let last = client.put("kept", "1", kept).await.unwrap();
    let mut watch = client.watch(last + 1).await.unwrap();
    let events = tokio::spawn(async move { (watch.until(last + 1).await, Instant::now()) });
    while granted.elapsed() < GONE_WITHIN {
        assert_eq!(client.keep_alive(kept).await.unwrap(), 2);
        sleep(Duration::from_millis(300)).await;
    }
    let (events, gone) = events.await.unwrap();
    // All keys of the lease in one revision, in byte order.
    let deleted = |key: &str| Event { key: key.to_owned().into(), value: None, revision: last + 1 };
    assert_eq!(events, [deleted("left/a"), deleted("left/b")]);
    let lived = gone - granted;
    assert!(lived >= Duration::from_millis(1900), "gone after {lived:?}");
    assert!(lived < GONE_WITHIN, "gone after {lived:?}");
    assert_eq!(client.get("kept").await.unwrap().as_deref(), Some("1"));
    assert_eq!(client.leases().await.unwrap(), [kept]);
    assert_eq!(client.keep_alive(left).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_outlives_a_kill_and_then_ends() {
    let dir = TempDir::new("e2e-lease-kill");
    let keepd = Keepd::new(dir.path());
    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    let short = client.grant(3).await.unwrap();
    let long = client.grant(3600).await.unwrap();
    client.put("short", "1", short).await.unwrap();
    client.put("long", "1", long).await.unwrap();
    // Attached, then put without a lease: it stays when the lease ends.
    client.put("detached", "1", short).await.unwrap();
    client.put("detached", "2", 0).await.unwrap();
    server.kill();

    let mut server = keepd.start();
    let client = Client::ready(&mut server).await;
    assert_eq!(client.get("short").await.unwrap().as_deref(), Some("1"));
    let restarted = Instant::now();
    while client.get("short").await.unwrap().is_some() {
        assert!(restarted.elapsed() < GONE_WITHIN + Duration::from_secs(3), "it never ends");
        sleep(Duration::from_millis(100)).await;
    }
    assert!(restarted.elapsed() > Duration::from_secs(2), "a new leader gives the full time again");
    assert_eq!(client.get("long").await.unwrap().as_deref(), Some("1"));
    assert_eq!(client.get("detached").await.unwrap().as_deref(), Some("2"));
    assert_eq!(client.leases().await.unwrap(), [long]);
}
