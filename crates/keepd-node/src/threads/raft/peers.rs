//! The Raft part among other members: messages, forwarded commands, transfers.

use keepd_raft::{Body, Error as Refusal, Message, SnapshotEnd};
use keepd_types::MemberId;

use super::RaftThread;
use crate::error::Error;
use crate::messages::Forward;
use crate::peer_message::PeerMessage;
use crate::transport::Lane;

impl RaftThread {
    /// Takes one of Raft's messages.
    pub(super) fn take_message(&mut self, message: Message) {
        let (from, name) = (MemberId(message.from), message.body.name());
        match self.core.step(message) {
            Ok(()) => {}
            Err(error @ (Refusal::LogForgotten { .. } | Refusal::Diverged { .. })) => {
                self.shared.halt(error);
            }
            Err(error) => tracing::debug!(%from, name, %error, "ignored a peer's message"),
        }
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
        let Some(forward) = self.proposals.forward(term, boot) else { return false };
        let count = forward.commands.len();
        let message = PeerMessage::Forward(forward);
        if !self.shared.network.send(leader, Lane::Log, &message) {
            // Nothing was sent: it waits for the next tick.
            return false;
        }
        self.proposals.forwarded(count, term);
        true
    }

    /// Sends Raft's messages.
    pub(super) fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let to = MemberId(message.to);
            if matches!(message.body, Body::Snapshot(_)) {
                tracing::error!(%to, "this member lacks more than the log holds: add it anew");
                self.core.report_snapshot(to.0, SnapshotEnd::Failed);
                continue;
            }
            let lane = match message.body {
                Body::Append { .. } => Lane::Log,
                _ => Lane::Control,
            };
            if !self.shared.network.send(to, lane, &PeerMessage::Raft(message)) {
                self.core.report_unreachable(to.0);
            }
        }
    }

    /// Begins to hand leadership to another member, or to the one whose log is longest.
    pub(super) fn transfer(&mut self, to: Option<MemberId>) -> Result<MemberId, Error> {
        let own = self.shared.identity.member;
        let to = match to {
            Some(to) => to,
            None => {
                let progress = self.core.progress();
                let heirs =
                    progress.iter().filter(|it| it.id != own.0 && !it.is_learner && it.is_active);
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
