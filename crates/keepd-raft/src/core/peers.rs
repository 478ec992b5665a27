//! Messages to raft's form and back, and the checks before raft sees one.
//!
//! raft stops the process on states that it calls impossible. Some of them are a message away: a
//! commit index beyond the log, a log that contradicts what is committed, a vote that was not asked
//! for yet. A message that would lead there is refused or ignored here.

use raft::eraftpb::{self, MessageType};
use raft::{INVALID_ID, StateRole};

use super::convert::{from_raft, to_raft};
use super::{Core, Error};
use crate::conf_change::ConfState;
use crate::message::{Body, LogPosition, Message, Round, SnapshotMeta};

/// raft's word in a vote request for a candidate that the leader chose.
const HANDOVER: &[u8] = raft::CAMPAIGN_TRANSFER;

/// Whether raft gets a message.
enum Fate {
    Step,
    Ignore,
}

impl Core {
    /// Takes a message from a peer. The transport answers for the sender.
    ///
    /// # Errors
    /// If no member sends such a one, now; nothing has changed then. [`Error::LogForgotten`],
    /// [`Error::Forgotten`] and [`Error::Diverged`] mean that this member must stop: its log is not
    /// what it acknowledged.
    pub fn step(&mut self, mut message: Message) -> Result<(), Error> {
        message.check()?;
        if message.to != self.settings.id {
            return Err(Error::Misdirected { to: message.to });
        }
        self.check_membership(&message)?;
        match &message.body {
            Body::ReadIndex(request) => {
                self.take_read_request(message.from, *request);
                return Ok(());
            }
            Body::ReadIndexResponse { request, index } => {
                self.reads.take_answer(*request, *index);
                self.ask_in_turn();
                return Ok(());
            }
            Body::Started(started) => {
                self.answer_start(message.from, *started);
                return Ok(());
            }
            Body::Known(known) => {
                self.take_known(message.from, message.term, known)?;
                self.after_event();
                return Ok(());
            }
            _ => {}
        }
        self.remember(&message);
        if let Fate::Ignore = self.examine(&mut message)? {
            return Ok(());
        }
        self.raw.step(message_to_raft(message))?;
        self.after_event();
        Ok(())
    }

    /// Only members answer and ask for reads. The others' requests are taken: this member's
    /// configuration may be older than theirs, most of all while it joins. A leader or a candidate
    /// has its own configuration and the votes of that; a member that was removed does not disturb
    /// those who hear their leader, and the driver, who knows who was removed, does not hear it.
    fn check_membership(&self, message: &Message) -> Result<(), Error> {
        let id = message.from;
        let is_open = match &message.body {
            Body::Append { .. }
            | Body::Heartbeat { .. }
            | Body::Snapshot(_)
            | Body::Vote { .. }
            | Body::Started(_)
            // It names the start that was told of.
            | Body::Known(_)
            | Body::TimeoutNow => true,
            Body::ReadIndexResponse { .. } => id == self.raw.raft.leader_id,
            Body::Appended { .. }
            | Body::AppendRejected { .. }
            | Body::HeartbeatResponse { .. }
            | Body::VoteResponse { .. }
            | Body::ReadIndex(_) => false,
        };
        let is_member = || self.raw.raft.prs().get(id).is_some();
        if is_open || is_member() { Ok(()) } else { Err(Error::NotMember { id }) }
    }

    fn examine(&mut self, message: &mut Message) -> Result<Fate, Error> {
        let raft = &self.raw.raft;
        let log = &raft.raft_log;
        let is_old = message.term < raft.term;
        let is_to_leader = message.term == raft.term && raft.state == StateRole::Leader;
        match &mut message.body {
            Body::Append { previous, .. } if !is_old && previous.index >= log.committed => {
                // A leader's log has everything committed, so none of its terms is lower there.
                let term = log.term(log.committed).unwrap_or(0);
                let is_lower = previous.term < term;
                if is_lower || (previous.index == log.committed && previous.term != term) {
                    return Err(Error::Diverged { committed: log.committed });
                }
            }
            Body::Heartbeat { commit, .. } if !is_old && *commit > log.last_index() => {
                return Err(Error::LogForgotten { last: log.last_index(), needed: *commit });
            }
            Body::Appended { index, .. } if is_to_leader && *index > log.last_index() => {
                return Err(Error::LogBeyondLeader { from: message.from, index: *index });
            }
            Body::AppendRejected { index, hint, .. } if is_to_leader => {
                let matched = raft.prs().get(message.from).map_or(0, |progress| progress.matched);
                if *index <= matched {
                    return Ok(Fate::Ignore);
                }
                // raft would look for this entry by going through the log.
                if hint.term > 0 && log.term(hint.index).is_ok_and(|term| term > hint.term) {
                    hint.index = log.store().last_at_most(hint.index, hint.term);
                }
                // raft would send again from below what the follower has confirmed (raft-rs #557).
                if hint.index < matched {
                    *hint = LogPosition { term: 0, index: matched };
                }
            }
            // The request for this vote leaves after the log's sync.
            Body::VoteResponse { is_granted: true, .. } if self.has_unsynced() => {
                return Ok(Fate::Ignore);
            }
            Body::Vote { is_pre, last, .. } if !self.may_vote(message.term, *is_pre, *last) => {
                return Ok(Fate::Ignore);
            }
            Body::TimeoutNow => return self.examine_handover(message),
            _ => {}
        }
        Ok(Fate::Step)
    }

    /// Only the leader names its heir. raft would not stand for election before a committed change
    /// of the configuration is applied, and would forget that it was asked to.
    fn examine_handover(&mut self, message: &Message) -> Result<Fate, Error> {
        if message.from != self.raw.raft.leader_id {
            return Err(Error::NotLeader { from: message.from });
        }
        if self.is_unfit() {
            return Ok(Fate::Ignore);
        }
        if self.has_unapplied() || self.has_unsynced() {
            self.held_handover = Some(message.clone());
            return Ok(Fate::Ignore);
        }
        Ok(Fate::Step)
    }

    /// Stands for election as the leader asked, if that had to wait and is still wanted.
    pub(super) fn take_held_handover(&mut self) {
        if self.held_handover.is_none() || self.has_unapplied() || self.has_unsynced() {
            return;
        }
        let message = self.held_handover.take().expect("just seen");
        let raft = &mut self.raw.raft;
        if message.term == raft.term && message.from == raft.leader_id {
            raft.step(message_to_raft(message)).expect("a handover is taken or ignored");
        }
    }

    fn has_unapplied(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        log.applied < log.committed
    }

    /// Whether entries or a snapshot are not known to be in the WAL.
    pub(super) fn has_unsynced(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        !self.unsynced.is_empty()
            || !log.unstable_entries().is_empty()
            || log.unstable_snapshot().is_some()
    }
}

impl Message {
    /// Whether a follower may send it before its log is synced: with a slow disk it must lose
    /// neither its leader nor its leader the quorum.
    ///
    /// A vote and a confirmation of entries are promises, which a crash must not take back. The
    /// answer to a heartbeat says only that this member knew of no higher term when it handled that.
    /// This stays true if it crashes and forgets the term: the leader was elected with votes that are
    /// on disks, so nobody else is elected in that term or a lower one, whatever this member votes
    /// for then. And if it had voted in a higher term it would not have answered: it does not forget
    /// a vote that has left, and one that has not left elects nobody. So the answer may also confirm
    /// a round of reads. Its commit index is the leader's. The word to take over is a request.
    pub(super) const fn promises_nothing(&self) -> bool {
        matches!(self.body, Body::HeartbeatResponse { .. } | Body::TimeoutNow)
    }
}

impl Round {
    /// raft's context of the round.
    pub(super) fn encode(self) -> Vec<u8> {
        (u128::from(self.term) << 64 | u128::from(self.number)).to_be_bytes().to_vec()
    }

    pub(super) fn decode(context: &[u8]) -> Option<Self> {
        let (term, number) = context.split_first_chunk::<8>()?;
        let number = u64::from_be_bytes(number.try_into().ok()?);
        Some(Self { term: u64::from_be_bytes(*term), number })
    }
}

pub(super) fn message_from_raft(message: eraftpb::Message) -> Message {
    let kind = message.get_msg_type();
    let (index, commit) = (message.index, message.commit);
    let at = LogPosition { term: message.log_term, index };
    let commit_at = LogPosition { term: message.commit_term, index: commit };
    let round = Round::decode(&message.context);
    let body = match kind {
        MessageType::MsgAppend => {
            let entries = message.entries.into_iter().map(from_raft).collect();
            Body::Append { previous: at, commit, entries }
        }
        MessageType::MsgAppendResponse if message.reject => {
            let hint = LogPosition { term: message.log_term, index: message.reject_hint };
            Body::AppendRejected { index, commit, hint }
        }
        MessageType::MsgAppendResponse => Body::Appended { index, commit },
        MessageType::MsgHeartbeat => Body::Heartbeat { commit, round },
        MessageType::MsgHeartbeatResponse => Body::HeartbeatResponse { commit, round },
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => Body::Vote {
            is_pre: kind == MessageType::MsgRequestPreVote,
            is_handover: message.context == HANDOVER,
            last: at,
            commit: commit_at,
        },
        MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse => {
            Body::VoteResponse {
                is_pre: kind == MessageType::MsgRequestPreVoteResponse,
                is_granted: !message.reject,
                commit: commit_at,
            }
        }
        MessageType::MsgSnapshot => {
            Body::Snapshot(meta_from_raft(message.get_snapshot().get_metadata()))
        }
        MessageType::MsgTimeoutNow => Body::TimeoutNow,
        other => unreachable!("raft sends no {other:?} to a peer"),
    };
    Message { from: message.from, to: message.to, term: message.term, body }
}

pub(super) fn meta_from_raft(meta: &eraftpb::SnapshotMetadata) -> SnapshotMeta {
    let last = LogPosition { term: meta.term, index: meta.index };
    SnapshotMeta { last, conf_state: ConfState::from_raft(meta.get_conf_state()) }
}

fn message_to_raft(message: Message) -> eraftpb::Message {
    let Message { from, to, term, body } = message;
    assert_ne!(from, INVALID_ID, "raft takes a message without a sender for its own");
    let mut out = eraftpb::Message { from, to, term, ..Default::default() };
    let kind = match body {
        Body::Append { previous, commit, entries } => {
            (out.log_term, out.index, out.commit) = (previous.term, previous.index, commit);
            out.set_entries(entries.into_iter().map(to_raft).collect());
            MessageType::MsgAppend
        }
        Body::Appended { index, commit } => {
            (out.index, out.commit) = (index, commit);
            MessageType::MsgAppendResponse
        }
        Body::AppendRejected { index, commit, hint } => {
            (out.index, out.commit, out.reject) = (index, commit, true);
            (out.log_term, out.reject_hint) = (hint.term, hint.index);
            MessageType::MsgAppendResponse
        }
        Body::Heartbeat { commit, round } => {
            out.commit = commit;
            out.context = round.map(Round::encode).unwrap_or_default().into();
            MessageType::MsgHeartbeat
        }
        Body::HeartbeatResponse { commit, round } => {
            out.commit = commit;
            out.context = round.map(Round::encode).unwrap_or_default().into();
            MessageType::MsgHeartbeatResponse
        }
        Body::Vote { is_pre, is_handover, last, commit } => {
            (out.log_term, out.index) = (last.term, last.index);
            (out.commit_term, out.commit) = (commit.term, commit.index);
            if is_handover {
                out.context = HANDOVER.into();
            }
            if is_pre { MessageType::MsgRequestPreVote } else { MessageType::MsgRequestVote }
        }
        Body::VoteResponse { is_pre, is_granted, commit } => {
            (out.commit_term, out.commit) = (commit.term, commit.index);
            out.reject = !is_granted;
            if is_pre {
                MessageType::MsgRequestPreVoteResponse
            } else {
                MessageType::MsgRequestVoteResponse
            }
        }
        Body::Snapshot(meta) => {
            let to = out.mut_snapshot().mut_metadata();
            (to.term, to.index) = (meta.last.term, meta.last.index);
            to.set_conf_state(meta.conf_state.to_raft());
            MessageType::MsgSnapshot
        }
        Body::TimeoutNow => MessageType::MsgTimeoutNow,
        Body::ReadIndex(_) | Body::ReadIndexResponse { .. } | Body::Started(_) | Body::Known(_) => {
            unreachable!("raft gets none of our own")
        }
    };
    out.set_msg_type(kind);
    out
}
