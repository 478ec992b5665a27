//! States between members.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use keepd_node::{Lane, STATE_CHUNK_BYTES_MAX, StateSource, Transport as _};
use keepd_types::MemberId;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::fixture::{Certificates, Member, eventually};

type Results = Arc<Mutex<Vec<Result<(), String>>>>;

/// A state of so many chunks, which fails before one.
struct Chunks {
    left: usize,
    fails_at: Option<usize>,
    results: Results,
}

impl StateSource for Chunks {
    fn next_chunk(&mut self) -> Result<Option<Bytes>, String> {
        if self.fails_at == Some(self.left) {
            return Err("a segment cannot be read".to_owned());
        }
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        Ok(Some(Bytes::from(vec![u8::try_from(left % 251).unwrap(); STATE_CHUNK_BYTES_MAX])))
    }

    fn ended(self: Box<Self>, result: Result<(), String>) {
        self.results.lock().push(result);
    }
}

fn chunks(count: usize) -> (Box<Chunks>, Results) {
    let results = Results::default();
    (Box::new(Chunks { left: count, fails_at: None, results: Arc::clone(&results) }), results)
}

async fn result(results: &Results) -> Result<(), String> {
    eventually("the source was told", || !results.lock().is_empty()).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let results = results.lock();
    assert_eq!(results.len(), 1, "it is told once");
    results[0].clone()
}

async fn comes_whole(a: &Member, b: &Member) {
    a.knows(&[b]);
    let (source, results) = chunks(40);
    assert!(a.network.send_state(b.id, "head".into(), source).is_ok());
    assert_eq!(result(&results).await, Ok(()));
    let states = b.recorder.states.lock();
    let (head, bytes) = &states[0];
    assert_eq!(head, "head");
    assert_eq!(bytes.len(), 40 * STATE_CHUNK_BYTES_MAX);
    for (number, chunk) in bytes.chunks(STATE_CHUNK_BYTES_MAX).enumerate() {
        assert!(chunk.iter().all(|byte| usize::from(*byte) == 39 - number));
    }
    assert_eq!(a.network.peers()[0].states, [1, 0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_of_ten_megabytes_comes_whole() {
    let (a, b) = (Member::new(0x201), Member::new(0x202));
    comes_whole(&a, &b).await;
    assert_eq!(b.network.peers()[0].states, [0, 0, 1, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_comes_whole_over_mutual_tls() {
    let certificates = Certificates::new("peers-state-tls");
    let a = Member::with(0x211, 0xc1, Some(certificates.tls("m1", &[])), None);
    let b = Member::with(0x212, 0xc1, Some(certificates.tls("m2", &[])), None);
    comes_whole(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_midway_comes_back_with_its_reason() {
    let (a, b) = (Member::new(0x221), Member::new(0x222));
    a.knows(&[&b]);
    *b.recorder.state_bytes_max.lock() = 2 * 1024 * 1024;
    let (source, results) = chunks(400);
    assert!(a.network.send_state(b.id, "head".into(), source).is_ok());
    let error = result(&results).await.unwrap_err();
    assert!(error.contains("the peer refuses the state: the disk is full"), "{error}");
    let (source, results) = chunks(4);
    assert!(a.network.send_state(b.id, "unwanted".into(), source).is_ok());
    let error = result(&results).await.unwrap_err();
    assert!(error.contains("nobody wants it"), "{error}");
    assert!(b.recorder.states.lock().is_empty());
    assert_eq!(*b.recorder.dropped_sinks.lock(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_fails_leaves_nothing_behind() {
    let (a, b) = (Member::new(0x231), Member::new(0x232));
    a.knows(&[&b]);
    let (mut source, results) = chunks(40);
    source.fails_at = Some(10);
    assert!(a.network.send_state(b.id, "head".into(), source).is_ok());
    assert_eq!(result(&results).await, Err("a segment cannot be read".to_owned()));
    eventually("the sink was dropped", || *b.recorder.dropped_sinks.lock() == 1).await;
    assert!(b.recorder.states.lock().is_empty());
    eventually("there is space for another", || b.network.states_under_way() == (0, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_to_send_to_and_too_many_at_once_are_told() {
    let (a, b, c) = (Member::new(0x241), Member::new(0x242), Member::new(0x243));
    a.knows(&[&b, &c]);
    let (source, results) = chunks(1);
    assert!(a.network.send_state(MemberId(9), "head".into(), source).is_ok());
    assert_eq!(result(&results).await, Err("member 9 is not a peer".to_owned()));

    b.recorder.is_state_held.store(true, Ordering::Relaxed);
    let (first, first_results) = chunks(40);
    let (second, second_results) = chunks(40);
    eventually("the first has ended", || a.network.states_under_way().0 == 0).await;
    assert!(a.network.send_state(b.id, "head".into(), first).is_ok());
    eventually("the first is under way", || b.network.states_under_way().1 == 1).await;
    assert!(a.network.send_state(b.id, "head".into(), second).is_ok());
    let error = result(&second_results).await.unwrap_err();
    assert!(error.contains("another state is being received"), "{error}");
    c.recorder.is_state_held.store(true, Ordering::Relaxed);
    let (third, third_results) = chunks(40);
    eventually("the second has ended", || a.network.states_under_way().0 == 1).await;
    assert!(a.network.send_state(c.id, "head".into(), third).is_ok());
    let (fourth, fourth_results) = chunks(40);
    assert!(a.network.send_state(c.id, "head".into(), fourth).is_err(), "two are under way");
    assert!(fourth_results.lock().is_empty(), "it was given back");
    for member in [&b, &c] {
        member.recorder.is_state_held.store(false, Ordering::Relaxed);
    }
    assert_eq!(result(&first_results).await, Ok(()));
    assert_eq!(result(&third_results).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_go_on_while_a_state_is_under_way_at_its_rate() {
    let a = Member::with(0x251, 0xc1, None, Some(4 * 1024 * 1024));
    let b = Member::new(0x252);
    a.knows(&[&b]);
    a.is_connected_to(&b).await;
    let (source, results) = chunks(16);
    let start = Instant::now();
    assert!(a.network.send_state(b.id, "head".into(), source).is_ok());
    assert!(a.network.send(b.id, Lane::Control, "beat".into()));
    eventually("the heartbeat came", || b.recorder.texts() == ["beat"]).await;
    assert!(results.lock().is_empty());
    assert_eq!(result(&results).await, Ok(()));
    assert!(start.elapsed() > Duration::from_millis(900), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_is_told_when_the_network_is_shut_down() {
    let (a, b) = (Member::new(0x261), Member::new(0x262));
    a.knows(&[&b]);
    b.recorder.is_state_held.store(true, Ordering::Relaxed);
    let (source, results) = chunks(400);
    assert!(a.network.send_state(b.id, "head".into(), source).is_ok());
    eventually("it is under way", || b.network.states_under_way().1 == 1).await;
    a.network.shutdown().await;
    assert_eq!(result(&results).await, Err("this member stops".to_owned()));
    b.recorder.is_state_held.store(false, Ordering::Relaxed);
}
