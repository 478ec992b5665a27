//! Between a member and the network: what it sends, what it receives.
//!
//! Messages are opaque here. The network, real (`keepd-peer`) or simulated, keeps the order of each
//! lane of a peer, answers for the sender, and may lose messages: then it says so. It never blocks the
//! member, and the member never blocks it: who has no room says so and is asked again.

use std::fmt;

use bytes::Bytes;
use keepd_types::{ClusterId, MemberId};

/// BOUND: bytes of one message between members: the largest command, and 1 MiB for what is around it.
pub const PEER_MESSAGE_BYTES_MAX: usize = keepd_types::limits::COMMAND_BYTES_MAX + 1024 * 1024;
/// BOUND: bytes of one chunk of a state.
pub const STATE_CHUNK_BYTES_MAX: usize = keepd_mvcc::STATE_CHUNK_BYTES_MAX;

/// The queue in which a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Heartbeats, votes and other small messages: they overtake what waits in the log's lane.
    Control,
    /// Entries of the log and commands for the leader, in order.
    Log,
}

/// Another member and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// The member.
    pub id: MemberId,
    /// URLs at which its peers reach it.
    pub urls: Vec<String>,
}

/// The first words of a connection, from both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The sender's cluster.
    pub cluster: ClusterId,
    /// The sender.
    pub member: MemberId,
    /// Its release, for people.
    pub version: String,
    /// The newest format of messages and records that it reads.
    pub feature_level: u32,
    /// URLs at which its peers reach it, as far as it knows: a member that joins cannot know every
    /// other one.
    pub urls: Vec<String>,
    /// Check values of the encryption keys that it can read with, opaque to the network.
    pub keys: Vec<Bytes>,
}

/// A refusal to talk, with the reason and the remedy for both sides' logs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// The reason.
    pub reason: String,
    /// Whether the refused member was removed from the cluster: it stops then.
    pub is_removed: bool,
}

/// The way to the other members.
pub trait Transport: Send + Sync + fmt::Debug {
    /// Queues a message; `false` if it is dropped, because its queue is full or nobody is there.
    fn send(&self, to: MemberId, lane: Lane, message: Bytes) -> bool;

    /// The other members from now on: new ones are dialed, those that left are hung up on.
    fn set_peers(&self, peers: Vec<PeerAddress>);

    /// Sends a state: its head, then its chunks, each of which is asked for when there is room. The
    /// receiver's answer, or the failure, goes to [`StateSource::ended`]. `Err` gives back a source
    /// that is not sent, because as many as may be are under way.
    ///
    /// # Errors
    /// The source itself.
    fn send_state(
        &self,
        to: MemberId,
        head: Bytes,
        source: Box<dyn StateSource>,
    ) -> Result<(), Box<dyn StateSource>>;

    /// Whether messages of a peer have come in and gone out lately.
    fn is_active(&self, peer: MemberId) -> bool;
}

/// A state on its way out. Its calls may read from the disk.
pub trait StateSource: Send {
    /// The next chunk, `None` behind the last.
    ///
    /// # Errors
    /// The reason why it cannot go on.
    fn next_chunk(&mut self) -> Result<Option<Bytes>, String>;

    /// The receiver has all of it, or does not.
    fn ended(self: Box<Self>, result: Result<(), String>);
}

/// A state on its way in. Its calls write to the disk. Dropped before its end, it leaves nothing.
pub trait StateSink: Send {
    /// Takes the next chunk.
    ///
    /// # Errors
    /// The reason why the state is refused.
    fn chunk(&mut self, chunk: Bytes) -> Result<(), String>;

    /// There are no more: the state is checked, made durable and handed to the member.
    ///
    /// # Errors
    /// The reason why the state is refused.
    fn finish(self: Box<Self>) -> Result<(), String>;
}

/// The reason why a message was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReceived {
    /// There is no room now: the network waits a moment and gives it again, and reads nothing else of
    /// this lane meanwhile.
    #[error("this member has more to do than it may take on")]
    Full,
    /// The member has ended.
    #[error("this member has stopped")]
    Stopped,
    /// No member sends such a message: the connection ends.
    #[error("{0}")]
    Malformed(String),
}

/// The member, as the network sees it.
pub trait Receiver: Send + Sync + fmt::Debug {
    /// This member's first words.
    fn hello(&self) -> Hello;

    /// Judges what another one said first, whoever dialed.
    ///
    /// # Errors
    /// The reason why this member does not talk to it.
    fn meet(&self, hello: &Hello) -> Result<(), Refusal>;

    /// Takes a message of a peer.
    ///
    /// # Errors
    /// The reason why it was not taken.
    fn receive(&self, from: MemberId, message: Bytes) -> Result<(), NotReceived>;

    /// Begins to take a state of a peer.
    ///
    /// # Errors
    /// The reason why it is not wanted.
    fn begin_state(&self, from: MemberId, head: Bytes) -> Result<Box<dyn StateSink>, String>;

    /// Messages to a peer were lost.
    fn lost(&self, to: MemberId);

    /// A peer refused to talk to this member.
    fn refused_by(&self, peer: MemberId, refusal: &Refusal);

    /// The membership, for one that wants to join: opaque bytes that the joining member reads.
    fn membership(&self) -> Bytes;
}
