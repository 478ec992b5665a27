//! Serves one lane of messages of a peer, in order; a member that is full holds the lane up.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keepd_node::{Lane, NotReceived};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::counters::count;
use crate::frames::ReadError;
use crate::opened::Opened;
use crate::peer::Peer;
use crate::protocol::{self, HEAD_BYTES, Kind};

/// The pause before a message that had no room is given again.
const FULL_PAUSE: Duration = Duration::from_millis(2);

/// The end of a stream.
enum End {
    /// The peer is told the reason.
    Told(String),
    /// The peer said something wrong: both logs have it.
    Malformed(String),
    /// The peer has gone.
    Gone(String),
}

/// Serves a lane to its end; the frame to answer with, if there is one.
pub(crate) async fn serve(opened: &mut Opened, peer: &Arc<Peer>, lane: Lane) -> Option<Bytes> {
    let network = opened.shared.stop.clone();
    let (stop, serving) = peer.serve(lane, &network).await;
    let end = tokio::select! {
        end = read(opened, peer) => end,
        () = stop.cancelled() => End::Told(ended(&network).to_owned()),
    };
    // ORDER: nothing more of this stream is received, so the next one may be.
    drop(serving);
    let remote = &opened.remote;
    match end {
        End::Told(reason) => {
            tracing::debug!(peer = %peer.id, %remote, ?lane, reason, "ended a stream of a peer");
            Some(protocol::text_frame(Kind::Ended, &reason))
        }
        End::Malformed(reason) => {
            count(&peer.counters.received_failures);
            tracing::warn!(peer = %peer.id, %remote, ?lane, reason, "ended a stream of a peer, which sent what no member sends; do all members run releases that fit together?");
            Some(protocol::text_frame(Kind::Ended, &reason))
        }
        End::Gone(reason) => {
            count(&peer.counters.received_failures);
            tracing::debug!(peer = %peer.id, %remote, ?lane, reason, "a stream of a peer ended");
            None
        }
    }
}

fn ended(network: &CancellationToken) -> &'static str {
    if network.is_cancelled() {
        protocol::STOPPING
    } else {
        "the peer has dialed again, or is no peer any more"
    }
}

async fn read(opened: &mut Opened, peer: &Peer) -> End {
    let silence_max = opened.shared.options.silence_max();
    loop {
        let frame = match timeout(silence_max, opened.reader.next()).await {
            Ok(Ok(Some(frame))) => frame,
            Ok(Ok(None)) => return End::Gone("it was closed".to_owned()),
            Ok(Err(error)) => return broken(&error),
            Err(_elapsed) => return End::Told(format!("nothing came for {silence_max:?}")),
        };
        let (kind, payload) = frame;
        peer.heard(HEAD_BYTES + payload.len());
        let end = match kind {
            Kind::Message => deliver(opened, peer, payload).await,
            Kind::Ping => pong(opened, &payload),
            Kind::Refused => {
                let refusal = protocol::refusal(&payload);
                opened.receiver.refused_by(peer.id, &refusal);
                let reason = format!("the peer refuses this member: {refusal}");
                if opened.shared.is_new_refusal(peer.id, &reason) {
                    tracing::warn!(peer = %peer.id, reason, "refused by a peer that has dialed");
                }
                Some(End::Told("refusal received".to_owned()))
            }
            other => Some(End::Malformed(format!("{other:?} came among messages"))),
        };
        if let Some(end) = end {
            return end;
        }
    }
}

fn broken(error: &ReadError) -> End {
    if error.is_malformed() {
        End::Malformed(error.to_string())
    } else {
        End::Gone(error.to_string())
    }
}

fn pong(opened: &Opened, payload: &Bytes) -> Option<End> {
    let Some(number) = protocol::number(payload) else {
        return Some(End::Malformed("a ping has no number".to_owned()));
    };
    // A peer that does not read its answers does not get them.
    let _full = opened.answers.try_send(protocol::number_frame(Kind::Pong, number));
    None
}

/// Gives a message to the member until it takes it.
async fn deliver(opened: &Opened, peer: &Peer, message: Bytes) -> Option<End> {
    loop {
        match opened.receiver.receive(peer.id, message.clone()) {
            Ok(()) => return None,
            // BOUND: as long as the member says so; the lane's window fills and the peer waits.
            Err(NotReceived::Full) => tokio::time::sleep(FULL_PAUSE).await,
            Err(stopped @ NotReceived::Stopped) => return Some(End::Told(stopped.to_string())),
            Err(NotReceived::Malformed(reason)) => return Some(End::Malformed(reason)),
        }
    }
}
