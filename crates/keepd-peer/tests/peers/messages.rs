//! Order, lanes, loss, back-pressure.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use keepd_node::{Lane, Transport as _};
use keepd_types::MemberId;

use crate::fixture::{Certificates, ELECTION_TIMEOUT, Member, eventually, logged, pair};

async fn flows_both_ways(a: &Member, b: &Member) {
    a.knows(&[b]);
    b.knows(&[a]);
    a.is_connected_to(b).await;
    b.is_connected_to(a).await;
    for number in 0..500 {
        for (from, to) in [(a, b), (b, a)] {
            let message = format!("{number}").repeat(1 + number % 7 * 5000);
            assert!(from.network.send(to.id, Lane::Log, message.into()));
        }
    }
    for (from, to) in [(a, b), (b, a)] {
        eventually("all came", || to.recorder.received.lock().len() == 500).await;
        for (number, (sender, text)) in to.recorder.received.lock().iter().enumerate() {
            assert_eq!(*sender, from.id);
            assert_eq!(text, format!("{number}").repeat(1 + number % 7 * 5000).as_str());
        }
        eventually("active", || to.network.is_active(from.id)).await;
        eventually("round trips", || to.network.peers()[0].round_trip.is_some()).await;
        let sent = from.network.peers()[0].sent_bytes;
        let received = to.network.peers()[0].received_bytes;
        assert!(received > 1_000_000 && sent.abs_diff(received) < 10_000, "{sent} {received}");
        assert_eq!(from.network.queued_bytes(to.id, Lane::Log), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_come_in_order_both_ways() {
    let (a, b) = (Member::new(0x11), Member::new(0x12));
    flows_both_ways(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_come_in_order_over_mutual_tls() {
    let certificates = Certificates::new("peers-tls");
    let tls = |name| Some(certificates.tls(name, &["m1", "m2"]));
    let a = Member::with(0x21, 0xc1, tls("m1"), None);
    let b = Member::with(0x22, 0xc1, tls("m2"), None);
    flows_both_ways(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_overtake_entries_that_the_receiver_has_no_space_for() {
    let (a, b) = pair(0x31, 0x32).await;
    b.recorder.is_full.store(true, Ordering::Relaxed);
    let entry = Bytes::from(format!("log{}", "x".repeat(100_000)));
    let mut queued = 0;
    // The window and the queue fill.
    while a.network.send(b.id, Lane::Log, entry.clone()) {
        queued += 1;
        if queued % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(queued < 1000, "the queue is bounded");
    }
    assert!(a.network.queued_bytes(b.id, Lane::Log) <= 32 * 1024 * 1024);
    assert!(queued * entry.len() > 31 * 1024 * 1024, "{queued}");
    assert!(a.network.send(b.id, Lane::Control, "beat".into()));
    eventually("the heartbeat came", || b.recorder.texts() == ["beat"]).await;
    // The connection lives longer than an election timeout although nobody reads the lane.
    tokio::time::sleep(ELECTION_TIMEOUT * 2).await;
    assert!(a.network.is_active(b.id) && b.network.is_active(a.id));
    b.recorder.is_full.store(false, Ordering::Relaxed);
    eventually("all came", || b.recorder.received.lock().len() == 1 + queued).await;
    assert!(a.recorder.lost.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_takes_nothing_does_not_hold_up_another() {
    let (a, b, c) = (Member::new(0x41), Member::new(0x42), Member::new(0x43));
    a.knows(&[&b, &c]);
    a.is_connected_to(&b).await;
    a.is_connected_to(&c).await;
    b.recorder.is_full.store(true, Ordering::Relaxed);
    let entry = Bytes::from(format!("log{}", "x".repeat(100_000)));
    while a.network.send(b.id, Lane::Log, entry.clone()) {}
    for _ in 0..100 {
        assert!(a.network.send(c.id, Lane::Log, entry.clone()));
    }
    eventually("the other one has all", || c.recorder.received.lock().len() == 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_connection_loses_what_waited_and_is_made_again() {
    let (a, mut b) = pair(0x51, 0x52).await;
    b.recorder.is_full.store(true, Ordering::Relaxed);
    for number in 0..100 {
        assert!(a.network.send(b.id, Lane::Log, format!("log{number}").into()));
    }
    b.close();
    eventually("the loss is told", || a.recorder.lost.lock().contains(&b.id)).await;
    assert!(!a.network.send(b.id, Lane::Log, "log of nobody".into()), "nobody is there");
    assert!(!a.network.is_active(b.id));
    assert_eq!(a.network.queued_bytes(b.id, Lane::Log), 0);
    b.listen();
    a.is_connected_to(&b).await;
    assert!(a.network.send(b.id, Lane::Log, "log after".into()));
    b.recorder.is_full.store(false, Ordering::Relaxed);
    eventually("it goes on", || b.recorder.texts().contains(&"log after".to_owned())).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let texts = b.recorder.texts();
    assert_eq!(texts.last().map(String::as_str), Some("log after"), "nothing came behind it");
    let mut once = texts.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), texts.len(), "nothing came twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_link_is_noticed_within_about_an_election_timeout() {
    let b = Member::new(0x62);
    let a = Member::new(0x61);
    // A relay that stops carrying bytes, as a cable that is cut does: nobody says anything.
    let relay = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", relay.local_addr().unwrap());
    let carrying = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let (is_carrying, target) = (std::sync::Arc::clone(&carrying), b.address);
    let relaying = tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (mut near, _) = relay.accept().await.unwrap();
            if !is_carrying.load(Ordering::Relaxed) {
                kept.push(near);
                continue;
            }
            let is_carrying = std::sync::Arc::clone(&is_carrying);
            tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(target).await.unwrap();
                let copying = tokio::io::copy_bidirectional(&mut near, &mut far);
                let cut = async {
                    while is_carrying.load(Ordering::Relaxed) {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
                tokio::select! { _ = copying => {} () = cut => std::future::pending().await }
            });
        }
    });
    a.network.set_peers(vec![keepd_node::PeerAddress { id: b.id, urls: vec![url, b.url()] }]);
    b.knows(&[&a]);
    a.is_connected_to(&b).await;
    eventually("active", || a.network.is_active(b.id)).await;
    carrying.store(false, Ordering::Relaxed);
    let cut = tokio::time::Instant::now();
    eventually("the loss is told", || a.recorder.lost.lock().contains(&b.id)).await;
    assert!(cut.elapsed() < ELECTION_TIMEOUT * 3, "{:?}", cut.elapsed());
    // The next URL leads there still.
    a.is_connected_to(&b).await;
    relaying.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_url_is_tried_and_changed_ones_are_dialed() {
    let (a, b, other) = (Member::new(0x71), Member::new(0x72), Member::new(0x72));
    let dead = "http://127.0.0.1:9".to_owned();
    let urls = vec![dead.clone(), b.url()];
    a.network.set_peers(vec![keepd_node::PeerAddress { id: b.id, urls }]);
    a.is_connected_to(&b).await;
    assert!(a.network.peers()[0].dial_failures >= 1);
    assert!(a.network.send(b.id, Lane::Control, "one".into()));
    eventually("it came", || b.recorder.texts() == ["one"]).await;
    a.knows(&[&other]);
    a.is_connected_to(&other).await;
    assert!(a.network.send(b.id, Lane::Control, "two".into()));
    eventually("it came", || other.recorder.texts() == ["two"]).await;
    assert_eq!(b.recorder.texts(), ["one"]);
    a.knows(&[]);
    assert!(!a.network.send(b.id, Lane::Control, "three".into()), "it is no peer any more");
    eventually("the loss is told", || a.recorder.lost.lock().len() == 2).await;
    assert!(a.network.peers().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_no_member_sends_ends_the_connection_with_the_reason_in_both_logs() {
    let (a, b) = pair(0x8a1, 0x8a2).await;
    assert!(a.network.send(b.id, Lane::Log, "bad".into()));
    eventually("both logs", || {
        !logged(&["lost the connection", "peer=8a2", "a bad message"]).is_empty()
            && !logged(&["sent what no member sends", "peer=8a1", "a bad message"]).is_empty()
    })
    .await;
    eventually("the loss is told", || a.recorder.lost.lock().contains(&MemberId(0x8a2))).await;
    a.is_connected_to(&b).await;
    assert!(a.network.send(b.id, Lane::Log, "good".into()));
    eventually("it goes on", || b.recorder.texts() == ["good"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_over_the_bound_is_dropped_and_one_at_the_bound_comes() {
    let (a, b) = pair(0x91, 0x92).await;
    let max = keepd_node::PEER_MESSAGE_BYTES_MAX;
    assert!(!a.network.send(b.id, Lane::Log, Bytes::from(vec![0; max + 1])));
    assert!(a.network.send(b.id, Lane::Log, Bytes::from(vec![0; max])));
    assert!(!a.network.send(b.id, Lane::Log, "no space".into()), "it fills the lane by itself");
    eventually("it came", || b.recorder.received.lock().len() == 1).await;
    assert_eq!(b.recorder.received.lock()[0].1.len(), max);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_ends_streams_and_lets_go_of_the_member() {
    let (a, b) = pair(0xa1, 0xa2).await;
    let recorder = std::sync::Arc::downgrade(&b.recorder);
    b.network.shutdown().await;
    drop(b);
    eventually("the member is let go of", || recorder.upgrade().is_none()).await;
    eventually("the loss is told", || a.recorder.lost.lock().contains(&MemberId(0xa2))).await;
}
