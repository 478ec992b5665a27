//! The Raft part among other members: messages, forwarded commands, transfers.

use std::sync::atomic::Ordering;

use keepd_machine::levels;
use keepd_raft::{Body, Error as Refusal, Known, Message, SnapshotEnd, SnapshotMeta};
use keepd_types::MemberId;

use super::RaftThread;
use crate::error::Error;
use crate::messages::{Forward, Job, ReceivedState, WalEvent};
use crate::peer_message::PeerMessage;
use crate::state_transfer;
use crate::transport::Lane;

impl RaftThread {
    /// Takes one of Raft's messages.
    pub(super) fn take_message(&mut self, message: Message) {
        let (from, name) = (MemberId(message.from), message.body.name());
        match self.core.step(message) {
            Ok(()) => {}
            Err(
                error @ (Refusal::LogForgotten { .. }
                | Refusal::Forgotten { .. }
                | Refusal::Diverged { .. }),
            ) => self.shared.halt(error),
            Err(error) => tracing::debug!(%from, name, %error, "ignored a peer's message"),
        }
    }

    /// Sending a state has ended.
    pub(super) fn state_sent(&mut self, to: MemberId, end: SnapshotEnd) {
        match end {
            SnapshotEnd::Finished => self.states.arrived(to),
            SnapshotEnd::Failed => self.states.failed(to, self.shared.env.clock.monotonic()),
        }
        self.core.report_snapshot(to.0, end);
    }

    /// Takes the state that a leader has sent, if it is still wanted.
    pub(super) fn take_state(&mut self, received: Box<ReceivedState>) {
        if received.staged.data_key != self.shared.encryption.files().active() {
            tracing::info!("the data key changed while a state was received: it has to come again");
            return self.discard(received);
        }
        let message = received.message.clone();
        self.staged = Some(received);
        self.take_message(message);
        self.process_actions();
        if let Some(unwanted) = self.staged.take() {
            tracing::info!("a state that was received is not needed any more");
            self.discard(unwanted);
        }
    }

    /// The core wants the state that it was told of, which becomes this member's, whatever comes.
    pub(super) fn install(&mut self, meta: &SnapshotMeta) -> Box<ReceivedState> {
        let received = self.staged.take().expect("Raft was told of a state that is staged");
        assert_eq!(received.meta, *meta, "Raft takes the state that it was told of");
        self.installed = meta.last.index;
        self.shared.progress.commit_index.store(meta.last.index, Ordering::Release);
        // Their outcomes are in the state, or they are lost, or come later: nobody can tell.
        self.proposals.fail_lost(meta.last.term + 1);
        // ORDER: behind what was appended before, and before what follows the state.
        self.shared.mailboxes.wal.push(WalEvent::Install(received.staged.clone()));
        received
    }

    fn discard(&self, received: Box<ReceivedState>) {
        self.background.run(Job::DiscardState(received.place));
    }

    /// Takes commands that a follower sent to its leader.
    pub(super) fn take_forward(&mut self, from: MemberId, forward: Forward) {
        let status = self.core.status();
        if status.role != keepd_raft::Role::Leader || status.term != forward.term {
            // The sender learns it when an entry of a later term is committed.
            return;
        }
        let (boot, now) = (forward.boot, self.shared.env.clock.monotonic());
        let refused = self.proposals.take_forward(from, forward, now);
        let sequences: Vec<u64> =
            refused.iter().filter_map(|command| command.origin()).map(|it| it.sequence).collect();
        if !sequences.is_empty() {
            let refused = PeerMessage::Refused { boot, sequences };
            self.shared.network.send(from, Lane::Control, &refused);
        }
    }

    /// Sends what is queued to the leader; whether there was something.
    pub(super) fn forward(&mut self, leader: MemberId, term: u64) -> bool {
        self.proposals.enter_term(term);
        let boot = self.shared.boot();
        let now = self.shared.env.clock.monotonic();
        let Some(forward) = self.proposals.forward(term, boot, now) else { return false };
        let count = forward.commands.len();
        let message = PeerMessage::Forward(forward);
        if !self.shared.network.send(leader, Lane::Log, &message) {
            // Nothing was sent: it waits for the next tick.
            return false;
        }
        self.proposals.forwarded(count, term, now);
        true
    }

    /// Sends Raft's messages.
    pub(super) fn send(&mut self, messages: Vec<Message>) {
        if !messages.is_empty() {
            use keepd_env::failpoints;
            failpoints::pass_one_of(|| match self.core.status().role {
                keepd_raft::Role::Leader => failpoints::Place::RaftBeforeLeaderSend,
                _ => failpoints::Place::RaftBeforeFollowerSend,
            });
        }
        for message in messages {
            let to = MemberId(message.to);
            if matches!(message.body, Body::Snapshot(_)) {
                let now = self.shared.env.clock.monotonic();
                let is_time = self.states.may_send(to, now);
                if !is_time || !state_transfer::send(&self.shared, message) {
                    // Raft asks again.
                    self.core.report_snapshot(to.0, SnapshotEnd::Failed);
                }
                continue;
            }
            if !self.understands(to, &message.body) {
                continue;
            }
            let lane = match message.body {
                Body::Append { .. } => Lane::Log,
                _ => Lane::Control,
            };
            let is_heartbeat = matches!(message.body, Body::Heartbeat { .. });
            if !self.shared.network.send(to, lane, &PeerMessage::Raft(message)) {
                if is_heartbeat {
                    self.shared.metrics.heartbeat_send_failures.fetch_add(1, Ordering::Relaxed);
                }
                self.core.report_unreachable(to.0);
            }
        }
    }

    /// Whether a member reads such a message. Says who has forgotten what it had confirmed.
    fn understands(&self, to: MemberId, body: &Body) -> bool {
        let (Body::Started(_) | Body::Known(_)) = body else { return true };
        if let Body::Known(Known { needed: Some((term, index)), .. }) = body {
            tracing::error!(
                peer = %to, term, index,
                "a member has forgotten what it confirmed: its disk lost what it had synced, or an \
                 older copy was put back; it stops: remove the member and add it again"
            );
        }
        self.shared.network.reads(to, levels::REJOIN)
    }

    /// Names the members without whose word this one begins to take part after its start.
    pub(super) fn name_unheard(&mut self) {
        let unheard = self.core.take_unheard();
        if unheard.is_empty() {
            return;
        }
        let members: Vec<String> = unheard.iter().map(|id| MemberId(*id).to_string()).collect();
        tracing::warn!(
            members = members.join(", "),
            "these members have not said whether this one still has all that it confirmed: it takes part \
             without their word"
        );
    }

    /// Begins to hand leadership to another member, or to the one whose log is longest.
    pub(super) fn transfer(&mut self, to: Option<MemberId>) -> Result<MemberId, Error> {
        let own = self.shared.identity.member;
        let to = match to {
            Some(to) => to,
            None => {
                let progress = self.core.progress();
                let is_there = |id: u64| self.shared.network.is_active(MemberId(id));
                let heirs = progress.iter().filter(|it| {
                    it.id != own.0 && !it.is_learner && it.is_active && is_there(it.id)
                });
                let heir = heirs.max_by_key(|progress| progress.matched);
                MemberId(heir.ok_or(Error::NoLeader)?.id)
            }
        };
        self.core.transfer_leader(to.0).map_err(|error| match error {
            Refusal::NotVoter => Error::NotVoter,
            _ => Error::NotLeader,
        })?;
        Ok(to)
    }
}
