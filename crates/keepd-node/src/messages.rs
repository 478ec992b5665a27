//! The arrows between the member's threads, as types.
//!
//! Each part of the member reacts to one enum, which it takes out of its mailbox. Nothing here knows
//! a part, so that whoever sends imports only this file and not the receiver.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use keepd_crypto::{DataKeyId, KeyringError};
use keepd_machine::command::{Compare, Op};
use keepd_machine::{Command, Origin, Outcome};
use keepd_mvcc::{Digest, HashKv, StagedState, View};
use keepd_raft::{
    Actions, ConfChange, ConfState, Fetch, Fetched, Message, Progress, SnapshotEnd, SnapshotMeta,
    Verdict,
};
use keepd_types::{HardState, KeyRange, LeaseId, MemberId, RangeEnd, Term};
use keepd_watch::{Batch, Sink, StreamId, WatchId, WatchSpec};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::admission::Permit;
use crate::error::Error;
use crate::mailbox::Mailbox;
use crate::shared::incoming::IncomingPlace;

/// BOUND: keys or leases told at once; who wants all asks again, so that applying goes on between.
pub(crate) const PIECE_MAX: usize = 5_000;
/// BOUND: bytes of requests that streams may have under way to the hub; more wait for their turn.
pub(crate) const HUB_REQUEST_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// BOUND: operations and comparisons of a transaction that counts as brief.
const BRIEF_OPS: usize = 8;
/// BOUND: bytes of a command that counts as brief.
const BRIEF_BYTES: usize = 16 * 1024;

/// The task that waits for a command's outcome.
pub(crate) type Waiter = oneshot::Sender<Result<Completion, Error>>;
/// The task that waits to read.
pub(crate) type Reader = oneshot::Sender<Result<(), Error>>;

/// An applied command: what came out, and the view that shows it.
#[derive(Clone, Debug)]
pub struct Completion {
    /// The answer of the state machine.
    pub outcome: Outcome,
    /// A view that holds every record the outcome names.
    pub view: Arc<View>,
}

/// The answer to a keep-alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease has its full time again.
    Renewed {
        /// The granted time to live.
        ttl: i64,
    },
    /// There is no such lease, or it is ending.
    Gone,
    /// This member does not keep the deadlines.
    NotPrimary,
}

/// The answer of a member that was asked for the hash of its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerHash {
    /// The hash, and the member's current revision.
    Hashed {
        /// The hash.
        hash: HashKv,
        /// The revision.
        revision: i64,
    },
    /// The history up to the revision that was asked for is compacted.
    Compacted,
    /// The member has not come so far.
    Future,
    /// It cannot tell: a file is damaged, or it computes another hash.
    Failed,
}

/// A lease's time and keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseTimeToLive {
    /// Seconds granted.
    pub granted_ttl: i64,
    /// Whole seconds left.
    pub remaining_ttl: i64,
    /// Attached keys, if asked for.
    pub keys: Vec<Bytes>,
}

/// Events of the Raft part.
#[derive(Debug)]
pub(crate) enum RaftEvent {
    /// A command, and the task that waits for it.
    Propose(Proposal),
    /// A linearizable read.
    Read(Reader),
    /// The WAL has the batch of this number.
    Persisted(u64),
    /// Everything up to this index is applied.
    Applied(u64),
    /// A message of another member, and its bytes among those that wait.
    Peer(Message, PeerBytes),
    /// Commands of a follower.
    Forward(MemberId, Forward, PeerBytes),
    /// Commands of this member that the leader did not take.
    Refused(Vec<u64>),
    /// Entries of the log that were asked for.
    Fetched(Fetch, Fetched),
    /// The log on the disk is let go up to this index.
    LogReleased(u64),
    /// Messages to a member were lost.
    Lost(MemberId),
    /// Sending the state to a member has ended.
    StateSent(MemberId, SnapshotEnd),
    /// A state of another member is staged, with the message that it came with.
    State(Box<ReceivedState>),
    /// The state machine has judged the change of the configuration at this index, and everything
    /// before it is published.
    Judged {
        /// The index.
        index: u64,
        /// Whether the change counts.
        verdict: Verdict,
    },
    /// Hand leadership to another member, or to the one that is farthest; answered with the member
    /// that is to take over.
    Transfer(Option<MemberId>, oneshot::Sender<Result<MemberId, Error>>),
    /// Tell how far the members are.
    Progress(Reply<Vec<Progress>>),
    /// This member was removed from the cluster.
    Removed,
    /// Shut down in order.
    Stop,
}

/// A state of another member that lies on the disk, whole and durable.
#[derive(Debug)]
pub(crate) struct ReceivedState {
    /// Raft's message that it came with.
    pub(crate) message: Message,
    /// Its place in the log, and the configuration then.
    pub(crate) meta: SnapshotMeta,
    pub(crate) staged: StagedState,
    /// Nothing else is staged until it is given back.
    pub(crate) place: IncomingPlace,
}

/// Commands on their way to the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forward {
    /// The term in which they are sent.
    pub(crate) term: u64,
    /// The start of the proposing member.
    pub(crate) boot: u64,
    /// Counts its messages of this kind: none is taken twice.
    pub(crate) number: u64,
    /// The commands in their envelopes.
    pub(crate) commands: Vec<ForwardedCommand>,
}

/// A command on its way to the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ForwardedCommand {
    /// Its bytes in the log.
    pub(crate) encoded: Bytes,
    /// Whether it changes the configuration.
    pub(crate) is_conf_change: bool,
}

impl ForwardedCommand {
    /// The proposal that it is; `None` if it is none.
    pub(crate) fn origin(&self) -> Option<Origin> {
        if self.is_conf_change {
            Origin::peek(&ConfChange::decode(&self.encoded).ok()?.context)
        } else {
            Origin::peek(&self.encoded)
        }
    }
}

/// The way back of an answer: to a task of this member, or to another member.
pub(crate) enum Reply<T> {
    Task(oneshot::Sender<T>),
    Peer(Box<dyn FnOnce(T) + Send>),
}

impl<T> Reply<T> {
    /// Sends the answer, which gets lost if nobody waits for it any more.
    pub(crate) fn send(self, answer: T) {
        match self {
            Self::Task(waiter) => {
                // The task may have given up.
                let _ = waiter.send(answer);
            }
            Self::Peer(send) => send(answer),
        }
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Task(_) => "Task",
            Self::Peer(_) => "Peer",
        })
    }
}

/// Bytes of peers' messages that wait for the Raft part, until dropped.
#[derive(Debug)]
pub(crate) struct PeerBytes {
    pub(crate) waiting: Arc<AtomicUsize>,
    pub(crate) bytes: usize,
}

impl Drop for PeerBytes {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A command on its way into the log.
#[derive(Debug)]
pub(crate) struct Proposal {
    /// Its number among the proposals of this start; `None` for those of other members.
    pub(crate) sequence: Option<u64>,
    /// The command in its envelope, and around that the change of the configuration if it is one.
    pub(crate) encoded: Bytes,
    /// Whether it changes the configuration.
    pub(crate) is_conf_change: bool,
    /// It overtakes what it is to refuse.
    pub(crate) is_urgent: bool,
    /// Applying it takes less time than waking a thread.
    pub(crate) is_brief: bool,
    /// `None` for the node's own commands: whoever decided one decides it again if it gets lost.
    pub(crate) waiter: Option<Waiter>,
    /// The time at which it was taken.
    pub(crate) taken: Duration,
    /// Its part of the budget, kept until it is applied, also if its client goes away.
    pub(crate) permit: Permit,
}

impl Proposal {
    /// A command whose encoding is ready. The command itself is not kept: what is applied is what is
    /// in the log, on this member as on every other.
    pub(crate) fn new(
        (origin, command): (Origin, &Command),
        encoded: Bytes,
        waiter: Option<Waiter>,
        taken: Duration,
        permit: Permit,
    ) -> Self {
        let is_urgent = matches!(command, Command::AlarmActivate(_));
        let is_brief = encoded.len() <= BRIEF_BYTES && is_brief(command);
        Self {
            sequence: Some(origin.sequence),
            encoded,
            is_conf_change: false,
            is_urgent,
            is_brief,
            waiter,
            taken,
            permit,
        }
    }

    /// A change of the configuration that a client asked for.
    pub(crate) const fn conf_change(
        sequence: u64,
        encoded: Bytes,
        waiter: Waiter,
        taken: Duration,
    ) -> Self {
        Self {
            sequence: Some(sequence),
            encoded,
            is_conf_change: true,
            is_urgent: false,
            is_brief: false,
            waiter: Some(waiter),
            taken,
            permit: None,
        }
    }

    /// A command of another member.
    pub(crate) const fn of_peer(encoded: Bytes, is_conf_change: bool, taken: Duration) -> Self {
        Self {
            sequence: None,
            encoded,
            is_conf_change,
            is_urgent: false,
            is_brief: false,
            waiter: None,
            taken,
            permit: None,
        }
    }
}

/// Events of the WAL part.
#[derive(Debug)]
pub(crate) enum WalEvent {
    /// Append, sync, confirm.
    Append(Actions),
    /// Commit the member to a state and begin the log anew after it.
    Install(StagedState),
    /// A hard state that may be written with the next batch.
    DeferHardState(HardState),
    /// The store is durable up to here: segments before it may go.
    Release {
        /// The index.
        index: u64,
        /// Its term.
        term: u64,
        /// Space is short: the file that is written is to end, so that it can go too.
        is_short: bool,
    },
    /// Encrypt what comes next with the active data key, and count the files by theirs.
    Reencrypt,
    /// Write the deferred hard state and end.
    Stop,
}

/// Events of the apply part.
#[derive(Debug)]
pub(crate) enum ApplyEvent {
    /// Entries to apply, in order.
    Committed(Vec<Committed>),
    /// Reads to release once the index is applied.
    WaitApplied {
        /// The index.
        index: u64,
        /// The tasks that wait.
        readers: Vec<Reader>,
    },
    /// The term in which this member leads; `None` if it no longer does.
    Leading(Option<Term>),
    /// The configuration that counts from the change at this index on.
    Configured {
        /// The index.
        index: u64,
        /// The configuration.
        conf_state: ConfState,
    },
    /// Go on in the state that the member is committed to, the log already does.
    Install(Box<ReceivedState>),
    /// Renew a lease.
    Renew(LeaseId, Reply<Renewal>),
    /// Tell a lease's time.
    TimeToLive {
        /// The lease.
        id: LeaseId,
        /// Its keys are wanted, those behind this one.
        keys_after: Option<Bytes>,
        /// The task that asks.
        reply: Reply<Option<LeaseTimeToLive>>,
    },
    /// List leases behind this one with the times of their ends.
    Leases {
        /// The last one that is known.
        after: Option<LeaseId>,
        /// The task that asks.
        reply: oneshot::Sender<Vec<(Duration, LeaseId)>>,
    },
    /// Tell the hash of the keys at a revision.
    HashKv(i64, Reply<PeerHash>),
    /// The digest that a member noted at a comparison.
    Digest(MemberId, Digest),
    /// A background job has ended.
    Background(Box<Done>),
    /// Reclaim what can be reclaimed; answered when a full round is done.
    Reclaim(oneshot::Sender<()>),
    /// Answered when nothing of past compactions is left to do.
    Settle(oneshot::Sender<()>),
    /// Apply what came before, make it durable and end.
    Stop,
}

/// A committed entry and, if it was proposed here, its part of the budget.
#[derive(Debug)]
pub(crate) struct Committed {
    pub(crate) entry: keepd_raft::Entry,
    /// Somebody waits for its outcome, see [`crate::shared::unapplied`].
    pub(crate) is_awaited: bool,
    /// See [`Proposal::is_brief`].
    pub(crate) is_brief: bool,
    pub(crate) _permit: Permit,
}

/// Whether a command touches a few keys that it names.
fn is_brief(command: &Command) -> bool {
    match command {
        Command::Put(_) | Command::LeaseGrant { .. } => true,
        Command::DeleteRange(delete) => delete.range.end == RangeEnd::Point,
        Command::Txn(txn) => {
            let is_point = |range: &KeyRange| range.end == RangeEnd::Point;
            let mut ops = txn.success.iter().chain(&txn.failure);
            txn.compares.len() + txn.success.len() + txn.failure.len() <= BRIEF_OPS
                && txn.compares.iter().all(|compare| match compare {
                    Compare::Number { range, .. } | Compare::Resolved { range, .. } => {
                        is_point(range)
                    }
                })
                && ops.all(|op| match op {
                    Op::Put(_) => true,
                    Op::Range(range) => is_point(&range.range),
                    Op::DeleteRange(delete) => is_point(&delete.range),
                    Op::Txn(_) => false,
                })
        }
        _ => false,
    }
}

/// Events of the hub part.
pub(crate) enum HubEvent {
    /// Applied changes.
    Publish(Batch),
    /// The end of a stream.
    Close(StreamId),
    /// A request of a client, and its place among the requests under way.
    Request(Request, OwnedSemaphorePermit),
}

/// A request of a client to the hub.
pub(crate) enum Request {
    /// A new stream.
    Open { sink: Box<dyn Sink>, progress_interval: Duration, reply: oneshot::Sender<Opened> },
    /// A new watcher.
    Create(StreamId, Box<WatchSpec>),
    /// The end of a watcher.
    Cancel(StreamId, WatchId),
    /// A stream asks how far all its watchers are.
    Progress(StreamId),
}

impl fmt::Debug for HubEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publish(_) => "Publish",
            Self::Close(_) => "Close",
            Self::Request(Request::Open { .. }, _) => "Open",
            Self::Request(Request::Create(..), _) => "Create",
            Self::Request(Request::Cancel(..), _) => "Cancel",
            Self::Request(Request::Progress(_), _) => "Progress",
        })
    }
}

/// A stream that is closed again unless its opener takes it: the opener's task may end at any time.
pub(crate) struct Opened {
    pub(crate) stream: Option<StreamId>,
    pub(crate) hub: Arc<Mailbox<HubEvent>>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.hub.push(HubEvent::Close(stream));
        }
    }
}

/// Work that would take too long on the apply part.
#[derive(Debug)]
pub(crate) enum Job {
    /// A job of the store's.
    Store(keepd_mvcc::Job),
    /// Counts the values that are sealed.
    CountSealed(Arc<View>),
    /// Brings the ballast back.
    RestoreBallast,
    /// Hashes the keys at a revision for another member.
    HashKv(i64, Reply<PeerHash>),
    /// Removes what a state replaced, or a staged state that is not wanted, and gives its place back.
    DiscardState(IncomingPlace),
    /// Forgets data keys that no file lies under.
    RetireKeys {
        /// The data key that was active when the files were counted.
        active: DataKeyId,
        /// The data keys that files are encrypted with.
        in_use: BTreeSet<DataKeyId>,
    },
}

/// A finished job.
#[derive(Debug)]
pub(crate) enum Done {
    /// The end of a job of the store's.
    Store {
        done: keepd_mvcc::Done,
        took: Duration,
    },
    /// None if a part of the store cannot be read, or the member stops.
    CountSealed(Option<u64>),
    RestoreBallast,
    HashKv,
    DiscardState,
    RetireKeys(Result<bool, KeyringError>),
}
