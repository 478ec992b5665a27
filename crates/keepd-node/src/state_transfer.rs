//! States between members: out of a view of this one, and into its place.
//!
//! The leader sends a state to a member that lacks more than the log holds. The receiver stages it on
//! its disk while it goes on in its own; only when all of it is there and durable does its Raft part
//! learn of it. The bytes are documented in docs/formats/state-stream.md.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use keepd_machine::membership::ConfState;
use keepd_machine::tables;
use keepd_mvcc::{StateReader, StateWriter, View};
use keepd_raft::{Body, LogPosition, Message, SnapshotEnd, SnapshotMeta};
use keepd_types::MemberId;

use crate::conf_state;
use crate::handle::Handle;
use crate::messages::{RaftEvent, ReceivedState};
use crate::peer_message::PeerMessage;
use crate::shared::Shared;
use crate::shared::incoming::IncomingPlace;
use crate::transport::{StateSink, StateSource};

/// Sends the newest state in answer to Raft's message; `false` if it cannot be sent now.
pub(crate) fn send(shared: &Arc<Shared>, message: Message) -> bool {
    let to = MemberId(message.to);
    let view = shared.views.load();
    let Some(meta) = meta_of(&view) else {
        // A malformed table ends the member's start, and nothing malformed is ever written into it.
        return false;
    };
    let at_least = match &message.body {
        Body::Snapshot(asked) => asked.last.index,
        _ => 0,
    };
    assert!(meta.last.index >= at_least, "what Raft knows to be applied is published");
    tracing::info!(peer = %to, index = meta.last.index, "sending the state to a member that lags");
    let head = PeerMessage::Raft(Message { body: Body::Snapshot(meta), ..message }).encode();
    let reader = StateReader::new(view);
    let source = Box::new(OutgoingState { shared: Arc::clone(shared), to, reader });
    shared.network.send_state(to, head, source)
}

/// Index and configuration of a view.
fn meta_of(view: &View) -> Option<SnapshotMeta> {
    let applied = view.applied();
    let state = ConfState::stored(view.meta(tables::CONF_STATE)).ok().flatten()?;
    Some(SnapshotMeta {
        last: LogPosition { term: applied.term, index: applied.index },
        conf_state: conf_state::of_core(state),
    })
}

/// A state on its way to another member. It pins its view for as long as the network takes.
#[derive(Debug)]
struct OutgoingState {
    shared: Arc<Shared>,
    to: MemberId,
    reader: StateReader,
}

impl StateSource for OutgoingState {
    fn next_chunk(&mut self) -> Result<Option<Bytes>, String> {
        if self.shared.is_halted() {
            return Err("the member has stopped".to_owned());
        }
        self.reader.next_chunk().map_err(|error| {
            tracing::error!(peer = %self.to, %error, "the state cannot be read to be sent");
            error.to_string()
        })
    }

    fn ended(self: Box<Self>, result: Result<(), String>) {
        let end = if result.is_ok() { SnapshotEnd::Finished } else { SnapshotEnd::Failed };
        self.shared.mailboxes.raft.push(RaftEvent::StateSent(self.to, end));
    }
}

/// Begins to take the state that another member announces.
pub(crate) fn begin(
    handle: &Handle,
    from: MemberId,
    head: Bytes,
) -> Result<Box<dyn StateSink>, String> {
    let shared = &handle.shared;
    let message = match PeerMessage::decode(head) {
        Ok(PeerMessage::Raft(message)) if message.from == from.0 => message,
        Ok(_) => return Err("the head of the state is another message".to_owned()),
        Err(error) => return Err(error.to_string()),
    };
    let Body::Snapshot(meta) = &message.body else {
        return Err("the head of the state is another message".to_owned());
    };
    let (meta, own) = (meta.clone(), shared.identity.member);
    if message.to != own.0 {
        return Err(format!("the state is for member {}, this is {own}", MemberId(message.to)));
    }
    let term = shared.progress.term.load(Ordering::Acquire);
    let commit = shared.progress.commit_index.load(Ordering::Acquire);
    if message.term < term || meta.last.index <= commit {
        return Err("this member has as much already, or another leader".to_owned());
    }
    let place = shared.incoming.take();
    let place = place.ok_or("another state is on its way in; try again later")?;
    let readable = shared.encryption.readable();
    let writer = shared.installer.begin(readable).map_err(|error| error.to_string())?;
    tracing::info!(peer = %from, index = meta.last.index, "receiving the state from the leader");
    Ok(Box::new(IncomingState { handle: handle.clone(), message, meta, writer, place }))
}

/// A state on its way in. Dropped, it removes what it staged.
#[derive(Debug)]
struct IncomingState {
    handle: Handle,
    message: Message,
    meta: SnapshotMeta,
    // ORDER: dropped before the place, which lets another state be staged.
    writer: StateWriter,
    place: IncomingPlace,
}

impl StateSink for IncomingState {
    fn chunk(&mut self, chunk: Bytes) -> Result<(), String> {
        if self.handle.shared.is_halted() {
            return Err("this member has stopped".to_owned());
        }
        self.writer.push(&chunk).map_err(|error| {
            tracing::warn!(%error, "the state of the leader is refused");
            error.to_string()
        })
    }

    fn finish(self: Box<Self>) -> Result<(), String> {
        let Self { handle, message, meta, writer, place } = *self;
        let staged = writer.finish().map_err(|error| {
            tracing::warn!(%error, "the state of the leader is refused");
            error.to_string()
        })?;
        let applied = staged.head.applied;
        if (applied.index, applied.term) != (meta.last.index, meta.last.term) {
            return Err("the state is not the one that was announced".to_owned());
        }
        let received = ReceivedState { message, meta, staged, place };
        let told = handle.tell(RaftEvent::State(Box::new(received)));
        told.map_err(|_stopped| "this member has stopped".to_owned())
    }
}
