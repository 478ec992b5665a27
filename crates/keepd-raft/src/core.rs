//! The core: events in, actions out.
//!
//! The driver's duties, in this order (they are the safety argument):
//! 1. send [`Actions::messages`] at once (a leader replicates before its own sync);
//! 2. append [`Actions::entries`] and [`Actions::hard_state`] to the WAL, sync if
//!    [`Actions::must_sync`], then call [`Core::persisted`] and only now send
//!    [`Actions::messages_after_sync`];
//! 3. apply [`Actions::committed`] in order, then call [`Core::applied`]. A change of the
//!    configuration is a barrier: when everything before it is applied the state machine accepts or
//!    rejects it, [`Core::apply_conf_change`] says the configuration that counts from there on, and
//!    the state machine stores that with the entry's index before it applies what follows.
//!
//! Between members:
//! 4. a [`crate::Body::Snapshot`] to send means: send the state of the store as of that index or
//!    later, put what it is of into the message, and send that last; then [`Core::report_snapshot`].
//!    A receiver takes the state to its disk whole before it steps the message;
//! 5. [`Actions::snapshot`] comes before the batch's entries: drop what is committed and not applied,
//!    switch the store, reset the WAL to that index; then [`Core::persisted`], then
//!    [`Core::applied`] of that index;
//! 6. the transport answers for the sender of a message, takes none of a member that is known to be
//!    removed, keeps the order of each peer's, and says with [`Core::report_unreachable`] that some
//!    were lost. After [`Error::LogForgotten`], [`Error::Forgotten`] and [`Error::Diverged`] the member
//!    stops. While disk or state machine hang: [`Core::set_stalled`], and a leader's
//!    [`Core::step_down`];
//! 7. a read that is answered also answers the earlier ones; the driver ends those that wait too
//!    long;
//! 8. each of [`Actions::fetches`] is read from the WAL, without delaying its syncs, and answered with
//!    [`Core::fetched`]. [`Core::log_starts_at`] follows each truncation of the WAL.

mod announce;
mod catch_up;
mod convert;
mod error;
mod membership;
mod peers;
mod progress;
mod reads;
mod rejoin;
mod restored;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use keepd_env::Random;
use keepd_env::mutants::{self, Mutant};
use keepd_types::{Entry, HardState};
use raft::eraftpb::{self, MessageType};
use raft::{RawNode, StateRole};

use self::catch_up::CatchUp;
use self::convert::from_raft;
pub(crate) use self::convert::to_raft;
pub use self::error::Error;
use self::membership::PendingChange;
pub use self::membership::Verdict;
use self::peers::{message_from_raft, meta_from_raft};
pub use self::progress::{Progress, Replication, SnapshotEnd};
use self::reads::Reads;
use self::rejoin::Rejoin;
use crate::conf_change::ConfState;
use crate::log_store::{Fetch, InitialState, LogStore};
use crate::message::{Message, SnapshotMeta, Started};

/// Bytes of uncommitted entries beyond which proposals are refused.
const UNCOMMITTED_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Committed bytes handed to apply at once.
const COMMITTED_BYTES_PER_READY: u64 = 8 * 1024 * 1024;
/// Bytes of entries in one append message.
const MESSAGE_BYTES_MAX: u64 = 256 * 1024;
/// Append messages in flight per follower.
const INFLIGHT_MESSAGES_MAX: usize = 256;
/// Bytes of applied entries kept in memory for followers that lag.
const CATCH_UP_BYTES: usize = 16 * 1024 * 1024;
/// Reads of a member that may wait for an answer, and rounds that may wait for their confirmation.
const HELD_READS_MAX: usize = 1024;

/// A member's part in its term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows, or looks for a leader.
    Follower,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

/// Timing and identity.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// This member.
    pub id: u64,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// Ticks without a leader before an election.
    pub election_ticks: usize,
    /// Ask before disturbing a working leader.
    pub pre_vote: bool,
    /// Ticks after which a read without an answer is asked again.
    pub read_retry_ticks: usize,
    /// Ticks for which a member that starts waits for what the other voters remember of it, before it
    /// takes part without the word of those that do not answer. With 0 it asks nobody.
    pub rejoin_ticks: usize,
    /// Applied entries kept in memory for followers that lag, besides the bound in bytes.
    pub catch_up_entries: usize,
}

/// Work for the driver: raft's `Ready`.
#[derive(Debug, Default)]
pub struct Actions {
    /// Number of this batch, for [`Core::persisted`].
    pub number: u64,
    /// Entries to append to the WAL.
    pub entries: Vec<Entry>,
    /// Hard state to write to the WAL, if it changed.
    pub hard_state: Option<HardState>,
    /// Whether the WAL must be synced before [`Core::persisted`].
    pub must_sync: bool,
    /// A state that replaces log and store: it comes before the entries, and earlier committed
    /// entries count no more.
    pub snapshot: Option<Box<SnapshotMeta>>,
    /// Messages to send to peers at once.
    pub messages: Vec<Message>,
    /// Messages to send to peers after the sync.
    pub messages_after_sync: Vec<Message>,
    /// Committed entries to apply, in order. Each change of the configuration among them needs
    /// [`Core::apply_conf_change`].
    pub committed: Vec<Entry>,
    /// Reads that may go ahead once the index is applied: (context, index).
    pub reads: Vec<(u64, u64)>,
    /// Entries to read from the WAL for followers that lag.
    pub fetches: Vec<Fetch>,
}

/// The core's state, for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// This member's part.
    pub role: Role,
    /// The leader, 0 if none is known.
    pub leader: u64,
    /// The current term.
    pub term: u64,
    /// The commit index.
    pub commit: u64,
    /// The last index of the log.
    pub last_index: u64,
    /// The member that leadership is being handed to, 0 if none is.
    pub transferee: u64,
    /// Whether this member is the only voter, also after a membership change that is under way.
    pub is_alone: bool,
}

/// A member's Raft state machine.
pub struct Core {
    raw: RawNode<LogStore>,
    random: Arc<dyn Random>,
    settings: Settings,
    reads: Reads,
    rejoin: Rejoin,
    catch_up: CatchUp,
    /// Numbers of the last batch that was handed out and of the last one that is confirmed.
    batches: (u64, u64),
    /// Numbers of the batches with entries or a snapshot that are not confirmed.
    unsynced: VecDeque<u64>,
    /// Index of the snapshot that was handed out and is not applied. Until then this member does
    /// not stand for election.
    installing: Option<u64>,
    /// Index of the last committed entry that was handed out.
    committed: u64,
    /// The driver says that disk or state machine hangs.
    is_stalled: bool,
    /// Changes of the configuration that were handed out and are not applied.
    pending_changes: VecDeque<PendingChange>,
    /// The leader's word that this member shall take over, which came before everything committed
    /// was applied.
    held_handover: Option<Message>,
    /// The commit index that the followers were sent, by this member as their leader.
    announced: u64,
    /// Whether a batch that will carry it is about to be proposed.
    is_batch_coming: bool,
    /// The configuration as of the last change that was applied.
    conf_state: ConfState,
    last_term: u64,
    last_role: StateRole,
    last_leader: u64,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Core {
    /// Starts from the state on disk, as a follower. A member that joins a cluster has nothing on
    /// disk, not even a configuration: it follows whoever leads, and gets the state first.
    ///
    /// # Errors
    /// If log and store do not fit together: nothing is guessed then.
    ///
    /// # Panics
    /// If the entries do not follow the start of the log without a gap.
    pub fn new(
        settings: Settings,
        restored: InitialState,
        random: Arc<dyn Random>,
    ) -> Result<Self, Error> {
        let commit = restored::check(&restored)?;
        let hard_state = eraftpb::HardState {
            term: restored.hard_state.term,
            vote: restored.hard_state.vote,
            commit,
            ..Default::default()
        };
        let boot = random.next_u64();
        let log_last = restored.entries.last().map_or(restored.start_index, |entry| entry.index);
        let started = Started {
            boot,
            term: restored.hard_state.term,
            vote: restored.hard_state.vote,
            last: log_last,
        };
        let (patience, applied) = (settings.rejoin_ticks, restored.applied_index);
        let rejoin = Rejoin::new(started, patience, applied, &restored.conf_state);
        let before = (restored.start_index, restored.start_term);
        let entries = restored.entries.into_iter().map(to_raft).collect();
        let store = LogStore::new(hard_state, restored.conf_state.to_raft(), before, entries);
        let config = raft::Config {
            id: settings.id,
            election_tick: settings.election_ticks,
            heartbeat_tick: settings.heartbeat_ticks,
            applied: restored.applied_index,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: INFLIGHT_MESSAGES_MAX,
            check_quorum: true,
            pre_vote: settings.pre_vote,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: COMMITTED_BYTES_PER_READY,
            // The commit index goes along with the next batch, or when none is coming.
            skip_bcast_commit: true,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, store, &logger)?;
        let mut core = Self {
            batches: (0, 0),
            committed: restored.applied_index,
            last_term: raw.raft.term,
            last_role: raw.raft.state,
            last_leader: raw.raft.leader_id,
            unsynced: VecDeque::new(),
            installing: None,
            is_stalled: false,
            raw,
            reads: Reads::new(boot),
            rejoin,
            catch_up: CatchUp::default(),
            random,
            settings,
            pending_changes: VecDeque::new(),
            held_handover: None,
            announced: 0,
            is_batch_coming: false,
            conf_state: restored.conf_state,
        };
        let store = core.raw.mut_store();
        // A state can be sent at once: who needs it may be needed for the next commit.
        store.note_applied(restored.applied_index, &core.conf_state);
        store.release(restored.applied_index, settings.catch_up_entries, CATCH_UP_BYTES);
        store.shrink();
        core.draw_election_timeout();
        core.begin_rejoin();
        Ok(core)
    }

    /// Campaigns at a start if nobody else votes: then there is nobody to ask or to disturb. Any
    /// other member waits for its election timeout.
    ///
    /// # Errors
    /// As [`Self::campaign`].
    pub fn campaign_if_alone(&mut self) -> Result<(), Error> {
        if self.conf_state.is_alone(self.settings.id) { self.campaign() } else { Ok(()) }
    }

    /// Campaigns without waiting for the election timeout; a lone voter wins at once.
    ///
    /// # Errors
    /// [`Error::NotVoter`]: raft itself would let a learner win.
    pub fn campaign(&mut self) -> Result<(), Error> {
        if !self.raw.raft.promotable() {
            return Err(Error::NotVoter);
        }
        if self.must_not_stand() {
            return Ok(());
        }
        self.raw.campaign()?;
        self.after_event();
        Ok(())
    }

    /// Advances the clock by one tick.
    pub fn tick(&mut self) {
        if self.must_not_stand() {
            // It does not wait for its leader for ever: others get its vote.
            let elapsed = &mut self.raw.raft.election_elapsed;
            *elapsed = elapsed.saturating_add(1);
        } else {
            self.raw.tick();
        }
        self.tick_reads();
        self.tick_rejoin();
        self.catch_up.tick();
        self.after_event();
    }

    /// Shortens the wait for an election to two ticks and what was drawn for this member, as etcd does
    /// once a member that starts has reached others. A member that follows somebody goes on waiting.
    pub fn hasten_election(&mut self) {
        if self.raw.raft.state != StateRole::Leader && self.raw.raft.leader_id == 0 {
            let elapsed = &mut self.raw.raft.election_elapsed;
            *elapsed = elapsed.saturating_add(self.settings.election_ticks.saturating_sub(2));
        }
    }

    /// Proposes commands as one batch; returns the index of the first and their term.
    ///
    /// # Errors
    /// If nothing was appended; all of the batch may be proposed again (rule 9.17).
    ///
    /// # Panics
    /// Without a command.
    pub fn propose(&mut self, commands: Vec<Bytes>) -> Result<(u64, u64), Error> {
        assert!(!commands.is_empty(), "a batch has a proposal");
        if self.raw.raft.state != StateRole::Leader {
            return Err(Error::NoLeader);
        }
        let first = self.raw.raft.raft_log.last_index() + 1;
        let entries: Vec<eraftpb::Entry> = commands
            .into_iter()
            .map(|data| eraftpb::Entry { data, ..Default::default() })
            .collect();
        let mut message = eraftpb::Message { from: self.settings.id, ..Default::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(entries.into());
        match self.raw.raft.step(message) {
            Ok(()) => {
                self.announced = self.raw.raft.raft_log.committed;
                Ok((first, self.raw.raft.term))
            }
            Err(raft::Error::ProposalDropped) => Err(Error::ProposalDropped),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether standing for election has to wait: raft needs the log that a snapshot replaced, or
    /// would lead at once with a log that is not synced, or others can and this member stalls, or it
    /// has started and others may have more than it.
    fn must_not_stand(&self) -> bool {
        let is_alone = self.conf_state.is_alone(self.settings.id);
        let would_fail = if is_alone { self.has_unsynced() } else { self.is_unfit() };
        !self.is_leader() && (self.installing.is_some() || would_fail)
    }

    /// Whether others can lead and this member should not.
    fn is_unfit(&self) -> bool {
        self.is_stalled || self.is_rejoining() || self.is_behind_at_start()
    }

    /// Confirms that the batch of this number and all before it are in the WAL, synced if they had
    /// to be.
    ///
    /// # Panics
    /// If there is no such batch, or a later one is confirmed already.
    pub fn persisted(&mut self, number: u64) {
        let (handed_out, confirmed) = &mut self.batches;
        assert!(number <= *handed_out, "only a batch that was handed out is confirmed");
        assert!(number > *confirmed, "a batch is confirmed once, and in order");
        *confirmed = number;
        while self.unsynced.pop_front_if(|unsynced| *unsynced <= number).is_some() {}
        self.raw.on_persist_ready(number);
        if mutants::is_active(Mutant::CommitAlone) && self.raw.raft.state == StateRole::Leader {
            let own = self.raw.raft.raft_log.persisted;
            self.raw.raft.raft_log.commit_to(own);
        }
        self.take_held_handover();
        self.after_event();
    }

    /// Confirms that everything up to `index` is applied.
    ///
    /// # Panics
    /// If it was not handed out as committed, the index falls, or it would pass over a change of
    /// the configuration.
    pub fn applied(&mut self, index: u64) {
        assert!(index <= self.committed, "only what was handed out is applied");
        let is_next = |change: &PendingChange| change.index <= index;
        assert!(!self.pending_changes.front().is_some_and(is_next), "a change is a barrier");
        assert!(index >= self.raw.raft.raft_log.applied, "the applied index never falls");
        self.installing = self.installing.filter(|snapshot| *snapshot > index);
        self.raw.advance_apply_to(index);
        self.raw.mut_store().note_applied(index, &self.conf_state);
        let keep_entries = self.settings.catch_up_entries;
        self.raw.mut_store().release(index, keep_entries, CATCH_UP_BYTES);
        self.take_held_handover();
        self.after_event();
    }

    /// Hands out the next work; `None` if there is none.
    pub fn actions(&mut self) -> Option<Actions> {
        self.begin_round();
        self.announce_commit();
        let fetches = self.take_fetches();
        let has_work = self.reads.has_work() || !self.rejoin.outbox.is_empty();
        if !self.raw.has_ready() && !has_work && fetches.is_empty() {
            return None;
        }
        let mut ready = self.raw.ready();
        let snapshot = self.begin_install(ready.snapshot());
        let raft_entries = ready.take_entries();
        self.raw.mut_store().append(&raft_entries);
        if mutants::is_active(Mutant::ChangeAtAppend) {
            self.change_at_append(&raft_entries);
        }
        for state in ready.take_read_states() {
            self.end_round(&state.request_ctx, state.index);
        }
        let from_raft_all =
            |messages: Vec<_>| messages.into_iter().map(message_from_raft).collect::<Vec<_>>();
        let mut messages = from_raft_all(ready.take_messages());
        let mut messages_after_sync = from_raft_all(ready.take_persisted_messages());
        messages.extend(messages_after_sync.extract_if(.., |message| message.promises_nothing()));
        messages.append(&mut self.reads.outbox);
        messages.append(&mut self.rejoin.outbox);
        messages.retain(|message| !self.is_held_back(message));
        messages_after_sync.retain(|message| !self.is_held_back(message));
        let actions = Actions {
            number: ready.number(),
            entries: raft_entries.into_iter().map(from_raft).collect(),
            hard_state: ready.hs().map(|state| HardState {
                term: state.term,
                vote: state.vote,
                commit: state.commit,
            }),
            must_sync: ready.must_sync(),
            snapshot: snapshot.map(Box::new),
            messages,
            messages_after_sync,
            committed: ready.take_committed_entries().into_iter().map(from_raft).collect(),
            reads: self.reads.take_released(),
            fetches,
        };
        self.raw.advance_append_async(ready);
        assert!(actions.number > self.batches.0, "each batch has a number of its own");
        self.batches.0 = actions.number;
        if !actions.entries.is_empty() || actions.snapshot.is_some() {
            self.unsynced.push_back(actions.number);
        }
        for entry in &actions.committed {
            assert_eq!(entry.index, self.committed + 1, "each committed entry is handed out once");
            self.committed = entry.index;
            self.pending_changes.extend(PendingChange::of(entry));
        }
        Some(actions)
    }

    /// Puts the log to where a snapshot stands, if there is one to install.
    fn begin_install(&mut self, snapshot: &eraftpb::Snapshot) -> Option<SnapshotMeta> {
        if snapshot.is_empty() {
            return None;
        }
        let meta = meta_from_raft(snapshot.get_metadata());
        assert!(meta.last.index >= self.committed, "a snapshot takes nothing back");
        self.raw.mut_store().reset(meta.last);
        self.committed = meta.last.index;
        self.pending_changes.clear();
        self.conf_state = meta.conf_state.clone();
        self.installing = Some(meta.last.index);
        Some(meta)
    }

    /// Role, term and indexes as they are now.
    #[must_use]
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        Status {
            role: match raft.state {
                StateRole::Leader => Role::Leader,
                StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
                StateRole::Follower => Role::Follower,
            },
            leader: raft.leader_id,
            term: raft.term,
            commit: raft.raft_log.committed,
            last_index: raft.raft_log.last_index(),
            transferee: raft.lead_transferee.unwrap_or(raft::INVALID_ID),
            is_alone: self.conf_state.is_alone(self.settings.id),
        }
    }

    fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    fn after_event(&mut self) {
        let raft = &self.raw.raft;
        let (term, role, leader) = (raft.term, raft.state, raft.leader_id);
        assert!(term >= self.last_term, "a member's term never falls");
        let log = &self.raw.raft.raft_log;
        assert!(log.committed <= log.last_index(), "what is committed is in the log");
        let is_new_term = term != self.last_term;
        if (term, role) != (self.last_term, self.last_role) {
            (self.last_term, self.last_role) = (term, role);
            self.draw_election_timeout();
        }
        if is_new_term || self.last_leader != leader {
            self.last_leader = leader;
            self.announced = 0;
            self.follow_reads();
        }
    }

    /// Draws an election timeout from our generator, not raft's, so that a simulation repeats (rule
    /// 9.18).
    fn draw_election_timeout(&mut self) {
        let ticks = self.settings.election_ticks;
        let extra = self.random.next_u64() % (ticks as u64);
        let extra = usize::try_from(extra).expect("below a usize");
        self.raw.raft.set_randomized_election_timeout(ticks + extra);
    }
}

#[cfg(test)]
mod tests;
