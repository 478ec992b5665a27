//! What the node's threads publish for everyone: progress, alarms, space, the reason to stop.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use keepd_crypto::Encryption;
use keepd_env::{Env, IoError};
use keepd_machine::command::{ALARM_NOSPACE, Alarm};
use keepd_machine::layout::Identity;
use keepd_machine::{Command, Envelope, Origin};
use keepd_mvcc::{Applied, HashKv, Views};
use keepd_types::Term;
use keepd_wal::Wal;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::ballast::{Asks, Ballast};
use crate::encryption::state::EncryptionState;
use crate::growth::Growth;
use crate::leadership::Leadership;
use crate::mailbox::Mailbox;
use crate::messages::{ApplyEvent, HUB_REQUEST_BYTES_MAX, HubEvent, Proposal, RaftEvent, WalEvent};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::room::Room;
use crate::unapplied::Unapplied;

/// Bytes of client requests that may wait for the Raft thread.
const PROPOSE_QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// Lease and wait requests that may wait for the apply thread.
const APPLY_QUEUE_WEIGHT: usize = 100_000;
/// Bytes of applied changes that may wait for the watch hub before it must catch up from the store.
const HUB_QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// Hashes of past compactions kept for comparison between members, as many as etcd keeps.
const COMPACTION_HASHES_MAX: usize = 10;

/// Why the member stopped by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HaltReason(pub String);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) options: Options,
    pub(crate) identity: Identity,
    /// Tells the proposals of this start from those of others; see [`Origin`].
    boot: u64,
    /// Proposals of this start.
    proposals: AtomicU64,
    pub(crate) views: Views,
    pub(crate) raft: Arc<Mailbox<RaftEvent>>,
    /// What large requests on their way through the log take up.
    pub(crate) room: Room,
    pub(crate) wal: Arc<Mailbox<WalEvent>>,
    pub(crate) apply: Arc<Mailbox<ApplyEvent>>,
    /// The log owes a confirmation, after which the Raft part reacts to what is queued.
    pub(crate) is_syncing: AtomicBool,
    /// The newest batch had several proposals: the next one has likely too.
    pub(crate) commits_in_groups: AtomicBool,
    /// What is committed and not published.
    pub(crate) unapplied: Unapplied,
    pub(crate) hub: Arc<Mailbox<HubEvent>>,
    /// Bytes that requests to the hub may have under way.
    pub(crate) hub_requests: Arc<Semaphore>,
    /// Raft's current term.
    pub(crate) term: AtomicU64,
    /// The known leader, 0 if none.
    pub(crate) leader: AtomicU64,
    pub(crate) commit_index: AtomicU64,
    pub(crate) applied_index: AtomicU64,
    /// Times the leader changed, as this member saw it.
    pub(crate) leader_changes: AtomicU64,
    /// In which term this member leads, if it does.
    pub(crate) leadership: Leadership,
    pub(crate) alarms: ArcSwap<Vec<Alarm>>,
    /// Bytes of live records.
    pub(crate) live_bytes: AtomicI64,
    /// Bytes of the store's files.
    pub(crate) disk_bytes: AtomicI64,
    /// The hub missed applied changes because its queue was full, and must catch up.
    pub(crate) hub_missed: AtomicBool,
    pub(crate) metrics: Metrics,
    pub(crate) encryption: Arc<Encryption>,
    pub(crate) ballast: Ballast,
    pub(crate) growth: Growth,
    /// What the log's files take.
    pub(crate) log_bytes: AtomicU64,
    /// What is durable in the store, once the last flush of an orderly stop is.
    pub(crate) flushed: Mutex<Option<Applied>>,
    /// The log of a member that stops, until nothing of it is needed any more.
    pub(crate) stopped_log: Mutex<Option<Wal>>,
    pub(crate) encryption_state: EncryptionState,
    /// The hashes of the newest compactions, ascending by revision.
    compaction_hashes: Mutex<Vec<HashKv>>,
    halted: watch::Sender<Option<HaltReason>>,
    /// Set once; the first reason is the one that counts.
    halt_lock: Mutex<()>,
}

impl Shared {
    pub(crate) fn new(
        env: Env,
        options: Options,
        identity: Identity,
        views: Views,
        encryption: Arc<Encryption>,
        ballast: Ballast,
    ) -> Arc<Self> {
        let boot = env.random.next_u64();
        Arc::new(Self {
            boot,
            proposals: AtomicU64::new(0),
            env,
            options,
            identity,
            views,
            raft: Arc::new(Mailbox::new(PROPOSE_QUEUE_BYTES)),
            room: Room::default(),
            wal: Arc::new(Mailbox::new(usize::MAX)),
            apply: Arc::new(Mailbox::new(APPLY_QUEUE_WEIGHT)),
            is_syncing: AtomicBool::new(false),
            commits_in_groups: AtomicBool::new(false),
            unapplied: Unapplied::default(),
            hub: Arc::new(Mailbox::new(HUB_QUEUE_BYTES)),
            hub_requests: Arc::new(Semaphore::new(HUB_REQUEST_BYTES_MAX as usize)),
            term: AtomicU64::new(0),
            leader: AtomicU64::new(0),
            commit_index: AtomicU64::new(0),
            applied_index: AtomicU64::new(0),
            leader_changes: AtomicU64::new(0),
            leadership: Leadership::default(),
            alarms: ArcSwap::default(),
            live_bytes: AtomicI64::new(0),
            disk_bytes: AtomicI64::new(0),
            hub_missed: AtomicBool::new(false),
            metrics: Metrics::default(),
            encryption,
            ballast,
            growth: Growth::default(),
            log_bytes: AtomicU64::new(0),
            flushed: Mutex::new(None),
            stopped_log: Mutex::new(None),
            encryption_state: EncryptionState::default(),
            compaction_hashes: Mutex::new(Vec::new()),
            halted: watch::Sender::new(None),
            halt_lock: Mutex::new(()),
        })
    }

    /// Stops the member: nothing is acknowledged from here on.
    pub(crate) fn halt(&self, reason: impl fmt::Display) {
        let _once = self.halt_lock.lock();
        if self.halted.borrow().is_some() {
            return;
        }
        let reason = reason.to_string();
        tracing::error!(error = %reason, "stopping: this member can no longer keep its promises");
        self.halted.send_replace(Some(HaltReason(reason)));
        self.leadership.end();
        self.close();
    }

    /// An origin that no other proposal has.
    pub(crate) fn next_origin(&self) -> Origin {
        let sequence = self.proposals.fetch_add(1, Ordering::Relaxed);
        Origin { member: self.identity.member, boot: self.boot, sequence }
    }

    /// Whether a proposal is one of this start.
    pub(crate) fn is_own(&self, origin: Origin) -> bool {
        origin.member == self.identity.member && origin.boot == self.boot
    }

    /// Proposes a command of the node's own, for which nobody waits; `decided_in` is the term that
    /// this member led in when it decided it.
    pub(crate) fn propose_own(&self, command: Command, decided_in: Option<Term>, now: Duration) {
        let origin = self.next_origin();
        let envelope = Envelope { origin: Some(origin), decided_in, command };
        let command = (origin, &envelope.command);
        let proposal = Proposal::new(command, envelope.encode(), None, now, None);
        self.raft.push(RaftEvent::Propose(proposal));
    }

    /// Serves a call that found no space or no descriptor, on the thread of that call; whether to make
    /// it again.
    pub(crate) fn make_room(&self, error: &IoError, asks: Asks) -> bool {
        let is_made = error.is_out_of_space() && self.throw_off_ballast(error, asks);
        is_made || (self.ballast.wait(error) && !self.is_halted())
    }

    /// Gives up space of the ballast and refuses whatever grows; whether there was some.
    pub(crate) fn throw_off_ballast(&self, reason: &dyn fmt::Display, asks: Asks) -> bool {
        let was_short = self.ballast.is_short();
        let thrown_off = self.ballast.throw_off(reason, asks);
        if !was_short {
            let alarm = Command::AlarmActivate(self.nospace());
            self.propose_own(alarm, None, self.env.clock.monotonic());
        }
        thrown_off
    }

    /// This member's NOSPACE alarm.
    pub(crate) fn nospace(&self) -> Alarm {
        Alarm { member: self.identity.member, kind: ALARM_NOSPACE }
    }

    pub(crate) fn close(&self) {
        self.raft.close();
        self.room.close();
        self.wal.close();
        self.apply.close();
        self.hub.close();
    }

    pub(crate) fn remember_hash(&self, hash: HashKv) {
        if hash.revision == 0 {
            // etcd keeps it and then answers every HashKV(0) with it.
            return;
        }
        let mut hashes = self.compaction_hashes.lock();
        hashes.push(hash);
        hashes.sort_unstable_by_key(|hash| hash.revision);
        if hashes.len() > COMPACTION_HASHES_MAX {
            hashes.remove(0);
        }
    }

    pub(crate) fn compaction_hash(&self, revision: i64) -> Option<HashKv> {
        self.compaction_hashes.lock().iter().find(|hash| hash.revision == revision).copied()
    }

    pub(crate) fn is_halted(&self) -> bool {
        self.halted.borrow().is_some()
    }

    pub(crate) fn halted(&self) -> watch::Receiver<Option<HaltReason>> {
        self.halted.subscribe()
    }
}
