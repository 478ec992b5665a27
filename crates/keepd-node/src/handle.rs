//! The way into a running member, for the tasks that serve clients. Cheap to clone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use keepd_env::Env;
use keepd_env::mutants::{self, Mutant};
use keepd_machine::command::Alarm;
use keepd_machine::{ClusterFacts, Command, MembershipChange, Outcome};
use keepd_member::Identity;
use keepd_mvcc::{Damages, HashKv, View};
use keepd_raft::{ConfChange, Step, Transition};
use keepd_types::{LeaseId, MemberId, limits};
use tokio::sync::{oneshot, watch};

use crate::driver::Driver;
use crate::error::Error;
use crate::hub_handle::HubHandle;
use crate::mailbox::Refused;
use crate::messages::{
    ApplyEvent, Completion, LeaseTimeToLive, PIECE_MAX, Proposal, RaftEvent, Renewal, Reply,
};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::peer_message::{PeerMessage, PeerRequest, PeerResponse};
use crate::shared::unapplied::Stall;
use crate::shared::{HaltReason, Shared};
use crate::threads::raft::RaftThread;
use crate::transport::Lane;

/// Queued bytes that a read counts as.
const READ_WEIGHT: usize = 64;
/// Pause between two attempts to renew a lease, as in etcd.
const RENEW_PAUSE: Duration = Duration::from_millis(50);
/// Proposals from this size on go into the log also while a batch is being synced: many of them
/// would fill the queue.
const LARGE_BYTES: usize = 64 * 1024;

/// Progress of the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The known leader, 0 if none.
    pub leader: u64,
    /// Raft's term.
    pub term: u64,
    /// The commit index.
    pub commit_index: u64,
    /// The applied index.
    pub applied_index: u64,
    /// Leader changes seen.
    pub leader_changes: u64,
}

/// Bytes in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Live records.
    pub live_bytes: i64,
    /// The store's files.
    pub disk_bytes: i64,
    /// The limit on live bytes.
    pub quota_bytes: Option<i64>,
    /// The file system has no space to spare.
    pub is_disk_full: bool,
    /// Free bytes of the file system beside the ballast; `None` if it does not say.
    pub available_bytes: Option<u64>,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Counts a proposal as pending until dropped, also when its client goes away.
struct Pending<'a>(&'a AtomicU64);

impl<'a> Pending<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A running member.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) raft: Arc<Driver<RaftThread>>,
}

impl Handle {
    /// Proposes a command and waits until it is durable on a quorum and applied here.
    ///
    /// # Errors
    /// See [`Error`]; after `TimedOut`, `LeaderChanged` and `Stopped` the command may have been
    /// applied.
    pub async fn propose(&self, command: Command) -> Result<Completion, Error> {
        let shared = &self.shared;
        let commit = shared.progress.commit_index.load(Ordering::Acquire);
        let applied = shared.progress.applied_index.load(Ordering::Acquire);
        if commit.saturating_sub(applied) > limits::APPLY_BACKLOG_MAX {
            return Err(Error::TooManyRequests);
        }
        // The time of a request begins here, before it waits for its part of the budget.
        let taken = shared.env.clock.monotonic();
        let permit =
            shared.budget.take(command.size_hint(), shared.options.request_timeout()).await?;
        let (origin, envelope) = shared.envelope(command, None)?;
        let encoded = envelope.encode();
        let overhead = envelope.header_len() + envelope.command.seal_overhead();
        if encoded.len() - overhead > shared.options.request_bytes_max
            || encoded.len() > limits::COMMAND_BYTES_MAX
        {
            return Err(Error::TooLarge);
        }
        let (waiter, outcome) = oneshot::channel();
        let bytes = encoded.len();
        let weight = bytes + 256;
        let command = (origin, &envelope.command);
        let proposal = Proposal::new(command, encoded, Some(waiter), taken, permit);
        drop(envelope);
        self.tell_raft(RaftEvent::Propose(proposal), weight).await?;
        let pending = Pending::new(&shared.metrics.proposals_pending);
        let under_way = shared.space.growth.count(bytes);
        // The Raft thread keeps the time: a timer for each request costs more than the request.
        let result = outcome.await.unwrap_or(Err(Error::Stopped));
        drop((pending, under_way));
        if result.is_err() {
            shared.metrics.proposals_failed.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// Waits until every write acknowledged before this call is in the view it returns.
    ///
    /// # Errors
    /// `NoLeader`, `TimedOut` or `Stopped`.
    pub async fn linearizable_view(&self) -> Result<Arc<View>, Error> {
        if self.shared.progress.leadership.serves_reads_locally()
            || mutants::is_active(Mutant::StaleRead)
        {
            return Ok(self.view());
        }
        let metrics = &self.shared.metrics;
        self.read_index().await.inspect_err(|error| match error {
            Error::TimedOut | Error::NoLeader => count(&metrics.slow_read_indexes),
            _ => count(&metrics.read_indexes_failed),
        })?;
        Ok(self.view())
    }

    async fn read_index(&self) -> Result<(), Error> {
        let (reader, released) = oneshot::channel();
        self.tell_raft(RaftEvent::Read(reader), READ_WEIGHT).await?;
        self.within_request_timeout(released).await?
    }

    /// Gives the Raft part something to do and has it react here: it never blocks, and waking its
    /// thread costs more. While a batch is being synced it would only queue a proposal: the WAL thread
    /// has it react after the sync.
    async fn tell_raft(&self, event: RaftEvent, weight: usize) -> Result<(), Error> {
        let waits_for_sync = matches!(event, RaftEvent::Propose(_)) && weight < LARGE_BYTES;
        self.shared.mailboxes.raft.try_push_quietly(event, weight).map_err(
            |refused| match refused {
                Refused::Full => Error::TooManyRequests,
                Refused::Closed => Error::Stopped,
            },
        )?;
        // ORDER: after queueing. Once the flag is cleared the WAL thread looks into the mailbox again.
        if !(waits_for_sync && self.shared.progress.is_syncing.load(Ordering::SeqCst)) {
            if self.shared.progress.commits_in_groups.load(Ordering::Relaxed) {
                // Requests that came with this one go into the same batch.
                tokio::task::yield_now().await;
            }
            self.raft.react();
        }
        Ok(())
    }

    async fn within_request_timeout<T>(&self, reply: oneshot::Receiver<T>) -> Result<T, Error> {
        let timeout = self.shared.options.request_timeout();
        match tokio::time::timeout(timeout, reply).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_dropped)) => Err(Error::Stopped),
            Err(_elapsed) if self.shared.progress.leader.load(Ordering::Acquire) == 0 => {
                Err(Error::NoLeader)
            }
            Err(_elapsed) => Err(Error::TimedOut),
        }
    }

    async fn ask<T>(
        &self,
        event: impl FnOnce(oneshot::Sender<T>) -> ApplyEvent,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        match self.shared.mailboxes.apply.try_push(event(reply), 1) {
            Ok(()) => self.within_request_timeout(answer).await,
            Err(Refused::Full) => Err(Error::TooManyRequests),
            Err(Refused::Closed) => Err(Error::Stopped),
        }
    }

    /// Asks the leader; `None` if there is none, or this member is it.
    pub(crate) async fn ask_leader(
        &self,
        request: PeerRequest,
    ) -> Result<Option<PeerResponse>, Error> {
        let shared = &self.shared;
        let leader = shared.progress.leader.load(Ordering::Acquire);
        if leader == 0 || leader == shared.identity.member.0 {
            return Ok(None);
        }
        self.ask_member(MemberId(leader), request).await
    }

    /// Asks another member; `None` if the question could not be sent.
    pub(crate) async fn ask_member(
        &self,
        member: MemberId,
        request: PeerRequest,
    ) -> Result<Option<PeerResponse>, Error> {
        let shared = &self.shared;
        let mut asked = shared.network.ask(shared.boot()).ok_or(Error::TooManyRequests)?;
        let request = PeerMessage::Request(asked.name, request);
        if !shared.network.send(member, Lane::Control, &request) {
            return Ok(None);
        }
        let timeout = shared.options.request_timeout();
        match tokio::time::timeout(timeout, &mut asked.answer).await {
            Ok(Ok(response)) => Ok(Some(response)),
            Ok(Err(_dropped)) => Err(Error::Stopped),
            Err(_elapsed) => Err(Error::TimedOut),
        }
    }

    /// Changes the membership, and waits until the change is committed and applied here.
    ///
    /// # Errors
    /// As [`Self::propose`]; whether the change was refused is in the outcome.
    pub async fn change_membership(&self, change: MembershipChange) -> Result<Completion, Error> {
        let shared = &self.shared;
        let step = match &change {
            MembershipChange::Add { id, is_learner: true, .. } => Step::AddLearner(id.0),
            MembershipChange::Add { id, .. } => Step::AddVoter(id.0),
            MembershipChange::Promote { id } => Step::Promote(id.0),
            MembershipChange::Remove { id } => Step::Remove(id.0),
            MembershipChange::UpdatePeerUrls { id, .. } => Step::Update(id.0),
        };
        let view = self.linearizable_view().await?;
        if let Err(refusal) = change.check(&view) {
            // Raft would refuse to append it: that it changes nothing is known already.
            let outcome = Outcome { revision: view.revision(), result: Err(refusal) };
            return Ok(Completion { outcome, view });
        }
        let (origin, envelope) = shared.envelope(Command::ChangeMembership(change), None)?;
        let context = envelope.encode();
        let change = ConfChange { transition: Transition::Auto, steps: vec![step], context };
        let (waiter, outcome) = oneshot::channel();
        let taken = shared.env.clock.monotonic();
        let encoded = change.encode();
        let weight = encoded.len() + 256;
        let proposal = Proposal::conf_change(origin.sequence, encoded, waiter, taken);
        self.tell_raft(RaftEvent::Propose(proposal), weight).await?;
        outcome.await.unwrap_or(Err(Error::Stopped))
    }

    /// Has the Raft part begin to hand leadership over, to this voter or to the one that it finds best.
    pub(crate) async fn begin_transfer(&self, to: Option<MemberId>) -> Result<MemberId, Error> {
        let (reply, heir) = oneshot::channel();
        self.tell_raft(RaftEvent::Transfer(to, reply), READ_WEIGHT).await?;
        self.within_request_timeout(heir).await?
    }

    /// Progress of the members, as the leader knows it; empty on every other member.
    ///
    /// # Errors
    /// `TooManyRequests`, `TimedOut` or `Stopped`.
    pub async fn progress(&self) -> Result<Vec<keepd_raft::Progress>, Error> {
        let (reply, progress) = oneshot::channel();
        self.tell_raft(RaftEvent::Progress(Reply::Task(reply)), READ_WEIGHT).await?;
        self.within_request_timeout(progress).await
    }

    /// Gives a lease its full time again, and says so only if whoever did it still leads: a member that
    /// was paused may take itself for the leader, while another one has let the lease end.
    ///
    /// # Errors
    /// `NoLeader`, `TooManyRequests`, `TimedOut` or `Stopped`.
    pub async fn renew_lease(&self, id: LeaseId) -> Result<Renewal, Error> {
        let (shared, clock) = (&self.shared, &self.shared.env.clock);
        let end = clock.monotonic() + shared.options.request_timeout();
        loop {
            let leader = || {
                let progress = &shared.progress;
                let term = progress.term.load(Ordering::Acquire);
                (term, progress.leader.load(Ordering::Acquire))
            };
            let asked = leader();
            let renewal = self.renew_once(id).await?;
            if renewal != Renewal::NotPrimary {
                self.linearizable_view().await?;
                if leader() == asked {
                    return Ok(renewal);
                }
            }
            if clock.monotonic() >= end {
                let (_, leader) = leader();
                return Err(if leader == 0 { Error::NoLeader } else { Error::TimedOut });
            }
            tokio::time::sleep(RENEW_PAUSE).await;
        }
    }

    async fn renew_once(&self, id: LeaseId) -> Result<Renewal, Error> {
        let own = self.ask(|reply| ApplyEvent::Renew(id, Reply::Task(reply))).await?;
        if own != Renewal::NotPrimary {
            return Ok(own);
        }
        match self.ask_leader(PeerRequest::Renew(id)).await? {
            Some(PeerResponse::Renewal(renewal)) => Ok(renewal),
            _ => Ok(Renewal::NotPrimary),
        }
    }

    /// A lease's time and, if wanted, keys; `None` for a missing lease. Many keys come in pieces, as
    /// they are when each is asked for.
    ///
    /// # Errors
    /// `TooManyRequests`, `TimedOut` or `Stopped`.
    pub async fn lease_time_to_live(
        &self,
        id: LeaseId,
        keys: bool,
    ) -> Result<Option<LeaseTimeToLive>, Error> {
        let ask = async |keys_after: Option<Bytes>| {
            let leader = self.shared.progress.leader.load(Ordering::Acquire);
            if leader != 0 && leader != self.shared.identity.member.0 {
                // Only the leader knows the deadlines.
                let request = PeerRequest::TimeToLive(id, keys_after);
                return match self.ask_leader(request).await? {
                    Some(PeerResponse::TimeToLive(found)) => Ok(found),
                    _ => Err(Error::TimedOut),
                };
            }
            self.ask(|reply| {
                let reply = Reply::Task(reply);
                ApplyEvent::TimeToLive { id, keys_after, reply }
            })
            .await
        };
        let Some(mut found) = ask(keys.then(Bytes::new)).await? else { return Ok(None) };
        let mut piece = found.keys.len();
        while piece == PIECE_MAX {
            // The lease may have ended since.
            let Some(more) = ask(found.keys.last().cloned()).await? else { break };
            piece = more.keys.len();
            found.keys.extend(more.keys);
        }
        Ok(Some(found))
    }

    /// All leases, the one that ends first in front.
    ///
    /// # Errors
    /// `TooManyRequests`, `TimedOut` or `Stopped`.
    pub async fn leases(&self) -> Result<Vec<LeaseId>, Error> {
        let mut leases: Vec<(Duration, LeaseId)> = Vec::new();
        loop {
            let after = leases.last().map(|(_, id)| *id);
            let piece = self.ask(|reply| ApplyEvent::Leases { after, reply }).await?;
            let is_last = piece.len() < PIECE_MAX;
            leases.extend(piece);
            if is_last {
                break;
            }
        }
        let sort = move || {
            leases.sort_unstable();
            leases.into_iter().map(|(_, id)| id).collect()
        };
        tokio::task::spawn_blocking(sort).await.map_err(|_panicked| Error::Stopped)
    }

    /// Has store and log give back the space of what is dead now; waits until that is done, and gives
    /// it up when the future is dropped.
    ///
    /// # Errors
    /// `TooManyRequests` or `Stopped`.
    pub async fn reclaim(&self) -> Result<(), Error> {
        let (reply, done) = oneshot::channel();
        match self.shared.mailboxes.apply.try_push(ApplyEvent::Reclaim(reply), 1) {
            // It takes as long as there is to be copied.
            Ok(()) => done.await.map_err(|_dropped| Error::Stopped),
            Err(Refused::Full) => Err(Error::TooManyRequests),
            Err(Refused::Closed) => Err(Error::Stopped),
        }
    }

    /// Waits until nothing of past compactions is left to do.
    ///
    /// # Errors
    /// `TooManyRequests`, `TimedOut` or `Stopped`.
    pub async fn settle_compactions(&self) -> Result<(), Error> {
        self.ask(ApplyEvent::Settle).await
    }

    /// The newest published view.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.shared.views.load()
    }

    /// The watch hub.
    #[must_use]
    pub fn hub(&self) -> HubHandle {
        HubHandle::new(
            Arc::clone(&self.shared.mailboxes.hub),
            Arc::clone(&self.shared.mailboxes.hub_requests),
        )
    }

    /// Raised alarms.
    #[must_use]
    pub fn alarms(&self) -> Arc<Vec<Alarm>> {
        self.shared.alarms.load_full()
    }

    /// Progress of the member.
    #[must_use]
    pub fn status(&self) -> Status {
        let shared = &self.shared;
        Status {
            leader: shared.progress.leader.load(Ordering::Acquire),
            term: self.term(),
            commit_index: shared.progress.commit_index.load(Ordering::Acquire),
            applied_index: shared.progress.applied_index.load(Ordering::Acquire),
            leader_changes: shared.progress.leader_changes.load(Ordering::Relaxed),
        }
    }

    /// Whether every member of the cluster reads what this feature level brought, so that it may be
    /// proposed.
    #[must_use]
    pub fn may_write(&self, level: u32) -> bool {
        self.shared.may_write(level)
    }

    /// The cluster version, the downgrade and the feature level, as of the applied index.
    #[must_use]
    pub fn cluster_facts(&self) -> Arc<ClusterFacts> {
        self.shared.facts.load_full()
    }

    /// Whether this member serves no client, because its data is not to be believed.
    #[must_use]
    pub fn serves_nothing(&self) -> bool {
        self.shared.corruption.serves_nothing()
    }

    /// Whether this member leads, and has what earlier leaders committed.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.shared.progress.leadership.term().is_some()
    }

    /// Raft's term.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.shared.progress.term.load(Ordering::Acquire)
    }

    /// Bytes in use.
    #[must_use]
    pub fn space(&self) -> Space {
        Space {
            live_bytes: self.shared.space.live_bytes.load(Ordering::Relaxed),
            disk_bytes: self.shared.space.disk_bytes.load(Ordering::Relaxed),
            quota_bytes: self.shared.options.quota_bytes,
            is_disk_full: self.shared.space.ballast.is_short(),
            available_bytes: self.shared.space.ballast.available_bytes(),
        }
    }

    /// The reason why writes are not answered, if that has gone on for longer than an election timeout.
    #[must_use]
    pub fn stall(&self) -> Option<String> {
        let now = self.shared.env.clock.monotonic();
        let stall =
            self.shared.progress.unapplied.stall(now, self.shared.options.election_timeout)?;
        Some(match stall {
            Stall::Apply(age) => format!(
                "the oldest committed entry has waited for {:.1} s to be applied",
                age.as_secs_f64()
            ),
            Stall::Log(age) => {
                format!("a write to the log has not become durable for {:.1} s", age.as_secs_f64())
            }
        })
    }

    /// The damage that was met in the store's files.
    #[must_use]
    pub fn damages(&self) -> Damages {
        self.shared.views.damages()
    }

    /// Whether a request of this cost fits into the quota and onto the disk; a `true` takes its place
    /// there.
    #[must_use]
    pub fn admits(&self, cost: i64) -> bool {
        if !self.shared.admits(u64::try_from(cost).unwrap_or(0)) {
            return false;
        }
        let live = self.shared.space.live_bytes.load(Ordering::Relaxed);
        let quota = self.shared.options.quota_bytes;
        cost == 0 || quota.is_none_or(|quota| live.saturating_add(cost) < quota)
    }

    /// The hash that a past compaction to this revision left.
    #[must_use]
    pub fn compaction_hash(&self, revision: i64) -> Option<HashKv> {
        self.shared.compaction_hash(revision)
    }

    /// The hashes that the newest compactions left, ascending by revision.
    #[must_use]
    pub fn compaction_hashes(&self) -> Vec<HashKv> {
        self.shared.compaction_hashes()
    }

    /// The ids of this member and its cluster.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.shared.identity
    }

    /// The settings of the member.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// Clock, randomness and disk.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.shared.env
    }

    /// The counters of the parts.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Turns `Some` when the member stops by itself.
    #[must_use]
    pub fn halted(&self) -> watch::Receiver<Option<HaltReason>> {
        self.shared.halted()
    }
}
