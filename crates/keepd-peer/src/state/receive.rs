//! Receives a state.

use std::sync::Arc;

use bytes::Bytes;
use keepd_node::{Receiver, StateSink};
use tokio::time::timeout;

use super::STALL_MAX;
use crate::counters::{StateWay, count};
use crate::frames::FrameReader;
use crate::peer::Peer;
use crate::protocol::{self, Kind};
use crate::shared::Shared;

/// Receives a state behind its greeting; the frame to answer with.
pub(crate) async fn receive(
    shared: &Shared,
    receiver: Arc<dyn Receiver>,
    peer: &Peer,
    reader: &mut FrameReader,
) -> Bytes {
    let under_way = peer.counters.state_begins(StateWay::In);
    let result = match shared.state_receives.try_acquire() {
        Ok(_permit) => tokio::select! {
            result = take(receiver, peer, reader) => result,
            () = shared.stop.cancelled() => Err(protocol::STOPPING.to_owned()),
        },
        Err(_busy) => Err("another state is being received; try again later".to_owned()),
    };
    match result {
        Ok(()) => {
            count(&peer.counters.states_received);
            under_way.arrived();
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
    let from = peer.id;
    let mut sink = Some(on_disk(move || receiver.begin_state(from, head)).await?);
    let taken = chunks(peer, reader, &mut sink).await;
    if let Some(sink) = sink {
        // ORDER: what came of it is gone before the answer, so that the next state finds its place.
        on_disk(move || {
            drop(sink);
            Ok(())
        })
        .await?;
    }
    taken
}

/// Takes the chunks, and the end of the state.
async fn chunks(
    peer: &Peer,
    reader: &mut FrameReader,
    sink: &mut Option<Box<dyn StateSink>>,
) -> Result<(), String> {
    let mut total: u64 = 0;
    loop {
        match next(peer, reader).await? {
            (Kind::StateChunk, chunk) => {
                total += chunk.len() as u64;
                let mut writing = sink.take().expect("it has not ended");
                *sink = Some(on_disk(move || writing.chunk(chunk).map(|()| writing)).await?);
            }
            (Kind::StateEnd, payload) if protocol::number(&payload) == Some(total) => {
                let whole = sink.take().expect("it has not ended");
                return on_disk(move || whole.finish()).await;
            }
            (Kind::StateEnd, _) => {
                return Err(format!("the state has {total} bytes, not its total"));
            }
            (kind, _) => return Err(format!("{kind:?} came within a state")),
        }
    }
}

/// Runs on a thread that may block, and that waits for the disk alone, never for the network.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_panic| Err("writing the state failed".to_owned()))
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
