//! Batches, what waits for what, and who is told when.

use bytes::Bytes;
use keepd_machine::command::Put;
use keepd_machine::{Command, Envelope, Origin, levels};
use keepd_mvcc::Digest;
use keepd_types::StoredValue;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::*;
use crate::messages::{Completion, Proposal};
use crate::peer_message::PeerMessage;
use crate::shared::network::{Announcement, Network};
use crate::testing::{self, Unassembled};
use crate::transport::{Lane, PeerAddress, StateSource, Transport};

fn raft_thread() -> RaftThread {
    let Unassembled { shared, core, .. } = testing::member();
    RaftThread::new(shared, core, Background::new())
}

/// Confirms as the WAL part does, without a log; the number of entries of each batch.
fn confirm(raft: &mut RaftThread) -> Vec<usize> {
    let (mut appended, mut events, mut entries) = (Vec::new(), Vec::new(), Vec::new());
    raft.shared.mailboxes.wal.drain(&mut appended);
    for event in appended {
        if let WalEvent::Append(actions) = event {
            events.push(RaftEvent::Persisted(actions.number));
            entries.push(actions.entries.len());
        }
    }
    raft.handle(&mut events);
    raft.process_ready();
    entries
}

fn proposal(
    shared: &Shared,
    bytes: usize,
) -> (Proposal, oneshot::Receiver<Result<Completion, Error>>) {
    let value = StoredValue::plain(vec![7; bytes].into());
    let command = Command::Put(Put { key: "k".into(), value, ..Put::default() });
    let origin = shared.next_origin();
    let envelope = Envelope { origin: Some(origin), decided_in: None, command };
    let (waiter, reply) = oneshot::channel();
    let command = (origin, &envelope.command);
    let encoded = envelope.encode();
    (Proposal::new(command, encoded, Some(waiter), Duration::MAX, None), reply)
}

#[test]
fn proposals_that_come_during_a_sync_become_one_batch() {
    let mut raft = raft_thread();
    raft.process_ready();
    confirm(&mut raft);
    let mut replies = Vec::new();
    for _ in 0..4 {
        let (proposal, reply) = proposal(&raft.shared, 10);
        raft.proposals.enqueue(proposal);
        raft.process_ready();
        replies.push(reply);
    }
    assert_eq!(confirm(&mut raft), [1], "the first waits for nobody, the others for its sync");
    assert_eq!(confirm(&mut raft), [3]);
}

#[test]
fn what_a_client_gave_up_is_not_proposed() {
    let mut raft = raft_thread();
    raft.process_ready();
    confirm(&mut raft);
    let mut replies: Vec<_> = (0..6)
        .map(|_| {
            let (proposal, reply) = proposal(&raft.shared, 10);
            raft.proposals.enqueue(proposal);
            raft.process_ready();
            reply
        })
        .collect();
    // The first is being synced; two of the others are given up meanwhile.
    drop(replies.drain(2..4));
    assert_eq!(confirm(&mut raft), [1]);
    assert_eq!(confirm(&mut raft), [3]);
    assert_eq!((raft.proposals.len(), raft.proposals.queued_bytes()), (0, 0));
}

#[test]
fn a_batch_that_commits_in_groups_takes_along_who_comes_meanwhile() {
    let mut raft = raft_thread();
    let hand = |raft: &RaftThread, count: usize| {
        for _ in 0..count {
            raft.shared.mailboxes.raft.push(RaftEvent::Propose(proposal(&raft.shared, 10).0));
        }
    };
    raft.proposals.enqueue(proposal(&raft.shared, 10).0);
    hand(&raft, 3);
    raft.wait_for_batch(&mut Vec::new());
    assert_eq!(raft.proposals.len(), 1, "few clients are not made to wait");
    for _ in 1..GROUP_COMMIT_MIN {
        raft.proposals.enqueue(proposal(&raft.shared, 10).0);
    }
    raft.wait_for_batch(&mut Vec::new());
    assert_eq!(raft.proposals.len(), GROUP_COMMIT_MIN + 3);
}

#[test]
fn under_load_few_forwards_are_under_way_and_the_others_gather() {
    let raft = raft_thread();
    let (shared, mut proposals) = (&raft.shared, Proposals::default());
    let mut now = Duration::from_secs(1);
    let mut replies = Vec::new();
    // Sends what may be sent of `more` proposals; the numbers that went.
    let mut send = |proposals: &mut Proposals, more: usize, now| {
        for _ in 0..more {
            let (proposal, reply) = proposal(shared, 10);
            proposals.enqueue(proposal);
            replies.push(reply);
        }
        let forward = proposals.forward(1, 1, now)?;
        let numbers = forward
            .commands
            .iter()
            .map(|command| Origin::peek(&command.encoded).expect("it is this member's").sequence);
        let numbers: Vec<u64> = numbers.collect();
        proposals.forwarded(numbers.len(), 1, now);
        Some(numbers)
    };
    let first = send(&mut proposals, 1, now).expect("nobody waits without need");
    assert!(send(&mut proposals, 1, now).is_some());
    assert_eq!(send(&mut proposals, 3, now), None);
    proposals.refused(&first);
    assert_eq!(send(&mut proposals, 2, now).map(|numbers| numbers.len()), Some(5));
    assert_eq!(send(&mut proposals, 1, now), None);
    now += Duration::from_millis(100);
    assert!(send(&mut proposals, 0, now).is_some(), "a lost stream holds nobody for long");
    assert_eq!(send(&mut proposals, 1, now).map(|numbers| numbers.len()), Some(1));
    assert_eq!(send(&mut proposals, 255, now), None);
    assert!(send(&mut proposals, 1, now).is_some(), "a full one goes at once");
}

#[test]
fn what_raft_does_not_take_waits_for_a_commit() {
    let mut raft = raft_thread();
    raft.process_ready();
    confirm(&mut raft);
    let mut replies = Vec::new();
    for _ in 0..100 {
        let (proposal, reply) = proposal(&raft.shared, 1 << 20);
        raft.proposals.enqueue(proposal);
        replies.push(reply);
    }
    raft.process_ready();
    assert!(raft.proposals.len() > 0, "more is uncommitted than may be");
    assert!(raft.proposals.pending() > 50, "what fits is proposed");
    let refused = raft.proposals.len();
    confirm(&mut raft);
    assert!(raft.proposals.len() < refused, "the commit has freed some");
    while !confirm(&mut raft).is_empty() {}
    assert_eq!((raft.proposals.len(), raft.proposals.queued_bytes()), (0, 0));
    assert!(raft.proposals.pending() == 0, "everything is committed");
    for mut reply in replies {
        let answer = reply.try_recv();
        assert!(matches!(answer, Err(oneshot::error::TryRecvError::Empty)), "{answer:?}");
    }
}

/// An entry that takes minutes to apply must not keep the others from being told.
#[test]
fn who_waits_for_apply_is_told_in_time_and_health_fails() {
    let mut raft = raft_thread();
    raft.process_ready();
    confirm(&mut raft);
    let shared = Arc::clone(&raft.shared);
    shared.progress.unapplied.take(u64::MAX);
    let (mut proposal, mut reply) = proposal(&raft.shared, 10);
    let now = shared.env.clock.monotonic();
    proposal.taken = now;
    raft.proposals.enqueue(proposal);
    raft.process_ready();
    while !confirm(&mut raft).is_empty() {}
    // It is committed, and no apply part takes it.
    let (timeout, election) = (shared.options.request_timeout(), shared.options.election_timeout);
    raft.expire_waiters(now + timeout - Duration::from_millis(1));
    assert!(reply.try_recv().is_err());
    raft.expire_waiters(now + timeout);
    assert!(matches!(reply.try_recv(), Ok(Err(Error::TimedOut))));
    assert!(shared.progress.unapplied.stall(now, election).is_none());
    let later = shared.env.clock.monotonic() + election * 2;
    assert!(shared.progress.unapplied.stall(later, election).is_some());
}

/// Keeps what is sent.
#[derive(Debug, Default)]
struct Sent(Mutex<Vec<Bytes>>);

impl Transport for Sent {
    fn send(&self, _to: MemberId, _lane: Lane, message: Bytes) -> bool {
        self.0.lock().push(message);
        true
    }

    fn set_peers(&self, _peers: Vec<PeerAddress>) {}

    fn send_state(
        &self,
        _to: MemberId,
        _head: Bytes,
        source: Box<dyn StateSource>,
    ) -> Result<(), Box<dyn StateSource>> {
        Err(source)
    }

    fn is_active(&self, _peer: MemberId) -> bool {
        true
    }
}

#[test]
fn a_message_is_held_back_from_a_member_that_cannot_read_it() {
    let (network, sent) = (Network::new(levels::NEWEST), Arc::new(Sent::default()));
    let transport: Arc<dyn Transport> = sent.clone();
    network.connect(transport);
    let member = MemberId(7);
    let digest = PeerMessage::Digest(Digest { since: 1, index: 2, value: 3 });
    let first = PeerMessage::Refused { boot: 1, sequences: vec![2] };
    let announce = |feature_level| {
        let version = "3.7.1".to_owned();
        network.announce(member, Announcement { version, feature_level });
    };
    assert!(!network.send(member, Lane::Control, &digest), "it has announced nothing");
    announce(levels::DIGEST_CHECK - 1);
    assert!(!network.reads(member, levels::DIGEST_CHECK));
    assert!(!network.send(member, Lane::Control, &digest));
    assert!(network.send(member, Lane::Control, &first));
    announce(levels::DIGEST_CHECK);
    assert!(network.reads(member, levels::DIGEST_CHECK));
    assert!(!network.reads(member, levels::REJOIN));
    assert!(network.send(member, Lane::Control, &digest));
    assert_eq!(*sent.0.lock(), [first.encode(), digest.encode()]);
    // As an older version it does not know the message itself.
    assert!(!Network::new(levels::FIRST).reads(member, levels::DIGEST_CHECK));
}
