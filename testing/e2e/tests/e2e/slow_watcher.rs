//! A client that does not read: it delays nobody, and misses nothing.

use std::time::Duration;

use e2e::Client;
use testkit::{Keepd, TempDir};
use tokio::time::Instant;

/// More than a queue of 128 responses and the flow control windows hold.
const WRITES: i64 = 5000;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_misses_nothing_and_delays_nobody() {
    let dir = TempDir::new("e2e-slow");
    let keepd = Keepd::new(dir.path());
    let mut server = keepd.start();
    let writer = Client::ready(&mut server).await;
    let slow = Client::connect(keepd.endpoint()).await.unwrap();
    let mut slow = slow.watch(2).await.unwrap();
    let fast = Client::connect(keepd.endpoint()).await.unwrap();
    let mut fast = fast.watch(2).await.unwrap();
    let reader = tokio::spawn(async move { (fast.until(WRITES + 1).await, Instant::now()) });

    let value = "v".repeat(4096);
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let (writer, value) = (writer.clone(), value.clone());
            tokio::spawn(async move {
                for i in 0..WRITES / 8 {
                    writer.put(&format!("key/{task}/{}", i % 10), &value, 0).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let written = Instant::now();
    assert_eq!(writer.revision().await.unwrap(), WRITES + 1);
    let (events, read) = reader.await.unwrap();
    let lag = read.saturating_duration_since(written);
    assert!(lag < Duration::from_secs(5), "the other client got its events {lag:?} late");

    let revisions: Vec<i64> = events.iter().map(|event| event.revision).collect();
    assert_eq!(revisions, (2..=WRITES + 1).collect::<Vec<_>>());
    assert_eq!(slow.until(WRITES + 1).await, events);
}
