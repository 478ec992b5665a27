//! Receives a state.

use std::sync::Arc;

use bytes::Bytes;
use keepd_node::Receiver;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{CHUNKS_MAX, STALL_MAX};
use crate::counters::count;
use crate::frames::FrameReader;
use crate::peer::Peer;
use crate::protocol::{self, Kind};
use crate::shared::Shared;

/// Work for the thread that writes.
enum Piece {
    Chunk(Bytes),
    End,
}

/// Receives a state behind its greeting; the frame to answer with.
pub(crate) async fn receive(
    shared: &Shared,
    receiver: Arc<dyn Receiver>,
    peer: &Peer,
    reader: &mut FrameReader,
) -> Bytes {
    let result = match shared.state_receives.try_acquire() {
        Ok(_permit) => tokio::select! {
            result = take(receiver, peer, reader) => result,
            () = shared.stop.cancelled() => Err("this member stops".to_owned()),
        },
        Err(_busy) => Err("another state is being received; try again later".to_owned()),
    };
    match result {
        Ok(()) => {
            count(&peer.counters.states_received);
            tracing::info!(peer = %peer.id, "received a state from a peer");
            protocol::frame(Kind::StateTaken, &[])
        }
        Err(reason) => {
            count(&peer.counters.state_receive_failures);
            tracing::warn!(peer = %peer.id, reason, "refused a state from a peer");
            protocol::text_frame(Kind::StateRefused, &reason)
        }
    }
}

async fn take(
    receiver: Arc<dyn Receiver>,
    peer: &Peer,
    reader: &mut FrameReader,
) -> Result<(), String> {
    let head = match next(peer, reader).await? {
        (Kind::StateHead, head) => head,
        (kind, _) => return Err(format!("{kind:?} came instead of the head of a state")),
    };
    let (pieces, pieces_read) = mpsc::channel(CHUNKS_MAX);
    let from = peer.id;
    let mut writing =
        tokio::task::spawn_blocking(move || write(receiver.as_ref(), from, head, pieces_read));
    let forwarded = tokio::select! {
        biased;
        written = &mut writing => return joined(written),
        forwarded = forward(peer, reader, &pieces) => forwarded,
    };
    // ORDER: without the channel the thread ends, and the sink with it.
    drop(pieces);
    let written = joined(writing.await);
    forwarded.and(written)
}

fn joined(written: Result<Result<(), String>, tokio::task::JoinError>) -> Result<(), String> {
    written.unwrap_or_else(|_panic| Err("writing the state failed".to_owned()))
}

/// Hands the chunks on until the end of the state.
async fn forward(
    peer: &Peer,
    reader: &mut FrameReader,
    pieces: &mpsc::Sender<Piece>,
) -> Result<(), String> {
    let mut total: u64 = 0;
    loop {
        let piece = match next(peer, reader).await? {
            (Kind::StateChunk, chunk) => {
                total += chunk.len() as u64;
                Piece::Chunk(chunk)
            }
            (Kind::StateEnd, payload) if protocol::number(&payload) == Some(total) => Piece::End,
            (Kind::StateEnd, _) => {
                return Err(format!("the state has {total} bytes, not its total"));
            }
            (kind, _) => return Err(format!("{kind:?} came within a state")),
        };
        let is_end = matches!(piece, Piece::End);
        if pieces.send(piece).await.is_err() || is_end {
            // Either the thread has all of it, or it has ended and says why.
            return Ok(());
        }
    }
}

async fn next(peer: &Peer, reader: &mut FrameReader) -> Result<(Kind, Bytes), String> {
    match timeout(STALL_MAX, reader.next()).await {
        Ok(Ok(Some((kind, payload)))) => {
            peer.heard_state(payload.len());
            Ok((kind, payload))
        }
        Ok(Ok(None)) => Err("the state ended early".to_owned()),
        Ok(Err(error)) => Err(format!("the state broke off: {error}")),
        Err(_elapsed) => Err(format!("nothing more of the state came for {STALL_MAX:?}")),
    }
}

/// Runs on a thread that may block.
fn write(
    receiver: &dyn Receiver,
    from: keepd_types::MemberId,
    head: Bytes,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<(), String> {
    let mut sink = receiver.begin_state(from, head)?;
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Chunk(chunk)) => sink.chunk(chunk)?,
            Some(Piece::End) => return sink.finish(),
            None => return Err("the state ended early".to_owned()),
        }
    }
}
