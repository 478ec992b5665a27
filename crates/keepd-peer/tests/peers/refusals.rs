//! Members that do not talk to one another.

use std::time::Duration;

use keepd_node::{PeerAddress, Refusal, Transport as _};
use keepd_types::MemberId;

use crate::fixture::{Certificates, ELECTION_TIMEOUT, Member, eventually, logged};

/// Lets `a` dial `b` under an id, and waits until both logs have a text once and go on having it once.
async fn both_logs(a: &Member, b: &Member, dialed: u64, text: &str) {
    a.network.set_peers(vec![PeerAddress { id: MemberId(dialed), urls: vec![b.url()] }]);
    let near = format!("peer={dialed:x}");
    let (near, far) = (["no connection", &near, text], format!("peer={}", a.id));
    let far = ["refused a peer", &far, "127.0.0.1", text];
    eventually(text, || logged(&near).len() == 1 && logged(&far).len() == 1).await;
    eventually("it is told", || !a.recorder.refused_by.lock().is_empty()).await;
    tokio::time::sleep(ELECTION_TIMEOUT).await;
    assert_eq!((logged(&near).len(), logged(&far).len()), (1, 1), "it is retried quietly");
    assert!(a.network.peers()[0].dial_failures > 2);
    assert!(!a.network.send(MemberId(dialed), keepd_node::Lane::Control, "x".into()));
    let refused = a.recorder.refused_by.lock()[0].clone();
    assert!(refused.0 == MemberId(dialed) && refused.1.reason.contains(text), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_is_refused() {
    let a = Member::with(0xb1, 0xc1, None, None);
    let b = Member::with(0xb2, 0xc2, None, None);
    both_logs(&a, &b, 0xb2, "cluster ID mismatch: member b1 belongs to cluster c1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_not_meant_refuses() {
    let (a, b) = (Member::new(0xc1), Member::new(0xc2));
    both_logs(&a, &b, 0xc3, "this is member c2, and member c3 was dialed here").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ones_own_id_is_refused() {
    let (a, b) = (Member::new(0xd1), Member::new(0xd1));
    both_logs(&a, &b, 0xd2, "both sides are member d1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_member_refuses_and_talks_once_it_does_not() {
    let (a, b) = (Member::new(0xe1), Member::new(0xe2));
    let reason = "member e1 was removed from the cluster".to_owned();
    *b.recorder.refuses.lock() = Some(Refusal { reason, is_removed: true });
    both_logs(&a, &b, 0xe2, "member e1 was removed").await;
    assert!(a.recorder.refused_by.lock()[0].1.is_removed);
    *b.recorder.refuses.lock() = None;
    a.is_connected_to(&b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dialer_that_refuses_tells_the_other_one() {
    let (a, b) = (Member::new(0xf1), Member::new(0xf2));
    let reason = "member f2 lacks the key k1".to_owned();
    *a.recorder.refuses.lock() = Some(Refusal { reason, is_removed: false });
    a.knows(&[&b]);
    let near = ["no connection", "peer=f2", "refuses the peer", "lacks the key k1"];
    let far = ["refused by a peer", "peer=f1", "lacks the key k1"];
    eventually("both logs", || logged(&near).len() == 1 && logged(&far).len() == 1).await;
    eventually("it is told", || !b.recorder.refused_by.lock().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_not_allowed_is_refused_with_the_reason() {
    let certificates = Certificates::new("peers-cn");
    let a = Member::with(0x101, 0xc1, Some(certificates.tls("stranger", &[])), None);
    let b = Member::with(0x102, 0xc1, Some(certificates.tls("m2", &["m1", "m2"])), None);
    a.knows(&[&b]);
    let near = ["no connection", "peer=102", "TLS: "];
    eventually("the log has it", || !logged(&near).is_empty()).await;
    assert!(!logged(&["connected to a peer", "peer=102"]).iter().any(|line| line.contains("INFO")));
    // Without TLS at all it is not let in either.
    let urls = vec![format!("http://{}", b.address)];
    a.network.set_peers(vec![PeerAddress { id: b.id, urls }]);
    let plain = ["no connection", "peer=102", "does not answer as a peer port of keepd"];
    eventually("the log has it", || !logged(&plain).is_empty()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(a.network.peers()[0].connected_for.is_none());
}
