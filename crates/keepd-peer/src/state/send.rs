//! Sends a state.

use std::sync::Arc;

use bytes::Bytes;
use keepd_node::{STATE_CHUNK_BYTES_MAX, StateSource};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{CHUNKS_MAX, FINISH_MAX, STALL_MAX};
use crate::counters::{StateWay, count};
use crate::dial::Connection;
use crate::frames::{FrameReader, QueuedBody, ReadError};
use crate::handshake::{self, Failed};
use crate::peer::Peer;
use crate::protocol::{self, Kind, Purpose, STATE};
use crate::shared::Shared;

/// A source that is told of its end exactly once, whatever happens.
pub(crate) struct Source(Option<Box<dyn StateSource>>);

impl Source {
    pub(crate) fn new(source: Box<dyn StateSource>) -> Self {
        Self(Some(source))
    }

    fn next_chunk(&mut self) -> Result<Option<Bytes>, String> {
        let chunk = self.0.as_mut().expect("it has not ended").next_chunk()?;
        assert!(
            chunk.as_ref().is_none_or(|chunk| chunk.len() <= STATE_CHUNK_BYTES_MAX),
            "a source makes chunks within their bound"
        );
        Ok(chunk)
    }

    fn tell(&mut self, result: Result<(), String>) {
        if let Some(source) = self.0.take() {
            source.ended(result);
        }
    }

    /// Tells it on a thread that may block.
    pub(crate) async fn end(mut self, result: Result<(), String>) {
        let telling = tokio::task::spawn_blocking(move || self.tell(result));
        // A panic there is its own affair; without a runtime it is told by being dropped.
        let _ended = telling.await;
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.tell(Err("the state was given up: this member stops".to_owned()));
    }
}

/// A source that is read one chunk at a time, on a thread that may block and that waits for the disk
/// alone, never for the network.
struct Reading {
    /// `None` while it is read, or after a panic.
    source: Option<Source>,
    under_way: Option<JoinHandle<(Source, NextChunk)>>,
}

type NextChunk = Result<Option<Bytes>, String>;

impl Reading {
    /// The next chunk. A call that is dropped is gone on with by the next one.
    async fn next(&mut self) -> NextChunk {
        if let Some(mut source) = self.source.take() {
            self.under_way = Some(tokio::task::spawn_blocking(move || {
                let next = source.next_chunk();
                (source, next)
            }));
        }
        let failed = || "reading the state failed".to_owned();
        let read = self.under_way.as_mut().ok_or_else(failed)?.await;
        self.under_way = None;
        let (source, next) = read.map_err(|_panic| failed())?;
        self.source = Some(source);
        next
    }

    /// Gives the source back, once nobody reads it; `None` after a panic.
    async fn end(self) -> Option<Source> {
        match self.under_way {
            Some(reading) => reading.await.ok().map(|(source, _)| source),
            None => self.source,
        }
    }
}

/// Sends a state to a peer, and tells its source how that went.
pub(crate) async fn send(shared: &Arc<Shared>, peer: &Arc<Peer>, head: Bytes, source: Source) {
    let under_way = peer.counters.state_begins(StateWay::Out);
    let opened = tokio::select! {
        opened = open(shared, peer) => opened,
        () = shared.stop.cancelled() => Err(protocol::STOPPING.to_owned()),
    };
    let (source, result) = match opened {
        Ok(stream) => transfer(shared, peer, stream, head, source).await,
        Err(reason) => (Some(source), Err(reason)),
    };
    match &result {
        Ok(()) => {
            count(&peer.counters.states_sent);
            under_way.arrived();
            tracing::info!(peer = %peer.id, "sent a state to a peer");
        }
        Err(reason) => {
            count(&peer.counters.state_send_failures);
            tracing::warn!(peer = %peer.id, reason, "could not send a state to a peer");
        }
    }
    drop(under_way);
    if let Some(source) = source {
        source.end(result).await;
    }
}

/// A stream that a state may be sent in.
struct Stream {
    frames: mpsc::Sender<Bytes>,
    answers: FrameReader,
    _connection: Connection,
}

async fn open(shared: &Shared, peer: &Peer) -> Result<Stream, String> {
    let receiver = shared.receiver().ok_or("this member is not there")?;
    let mut reasons = Vec::new();
    for url in peer.urls() {
        let opening = open_url(shared, receiver.as_ref(), peer, &url);
        match opening.await {
            Ok(stream) => return Ok(stream),
            Err(reason) => reasons.push(reason),
        }
    }
    Err(reasons.join("; "))
}

async fn open_url(
    shared: &Shared,
    receiver: &dyn keepd_node::Receiver,
    peer: &Peer,
    url: &str,
) -> Result<Stream, String> {
    let mut connection = shared.dialer.connect(url).await.map_err(|error| error.to_string())?;
    let (frames, body) = QueuedBody::channel(CHUNKS_MAX);
    let greeting = handshake::own_greeting(receiver.hello(), peer.id, Purpose::State).frame();
    // There is space for it: the channel is new.
    let _queued = frames.try_send(greeting);
    let answers = connection.call(STATE, body).await;
    let mut answers = answers.map_err(|error| error.to_string())?;
    let limit = shared.dialer.timeout;
    match handshake::answered(&mut answers, receiver, peer.id, limit).await {
        Ok(_hello) => Ok(Stream { frames, answers, _connection: connection }),
        Err(Failed::Broken(reason)) => Err(format!("{url}: {reason}")),
        Err(Failed::Refusing(refusal)) => {
            let _told = frames.try_send(protocol::refused_frame(&refusal));
            Err(format!("{url}: this member refuses the peer: {refusal}"))
        }
        Err(Failed::RefusedBy(refusal)) => {
            receiver.refused_by(peer.id, &refusal);
            Err(format!("{url}: the peer refuses this member: {refusal}"))
        }
    }
}

/// Sends head, chunks and end, and waits for the answer; gives the source back.
async fn transfer(
    shared: &Shared,
    peer: &Peer,
    mut stream: Stream,
    head: Bytes,
    source: Source,
) -> (Option<Source>, Result<(), String>) {
    let mut reading = Reading { source: Some(source), under_way: None };
    let result = {
        let Stream { frames, answers, .. } = &mut stream;
        tokio::select! {
            // An answer before the end is a refusal.
            biased;
            () = shared.stop.cancelled() => Err(protocol::STOPPING.to_owned()),
            answer = answers.next() => Err(match judge(answer) {
                Ok(()) => "the peer took the state before its end".to_owned(),
                Err(reason) => reason,
            }),
            sent = pump(shared, peer, frames, head, &mut reading) => sent,
        }
    };
    let result = match result {
        Ok(()) => match timeout(FINISH_MAX, stream.answers.next()).await {
            Ok(answer) => judge(answer),
            Err(_elapsed) => Err(format!("the peer did not answer within {FINISH_MAX:?}")),
        },
        Err(reason) => Err(reason),
    };
    (reading.end().await, result)
}

async fn pump(
    shared: &Shared,
    peer: &Peer,
    frames: &mpsc::Sender<Bytes>,
    head: Bytes,
    reading: &mut Reading,
) -> Result<(), String> {
    let mut total: u64 = 0;
    put(peer, frames, protocol::frame(Kind::StateHead, &head)).await?;
    while let Some(chunk) = reading.next().await? {
        shared.pace.wait(chunk.len()).await;
        total += chunk.len() as u64;
        put(peer, frames, protocol::frame(Kind::StateChunk, &chunk)).await?;
    }
    put(peer, frames, protocol::number_frame(Kind::StateEnd, total)).await
}

async fn put(peer: &Peer, frames: &mpsc::Sender<Bytes>, frame: Bytes) -> Result<(), String> {
    let bytes = frame.len() as u64;
    match timeout(STALL_MAX, frames.send(frame)).await {
        Ok(Ok(())) => {
            peer.counters.sent_bytes.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
            Ok(())
        }
        // Why is in the answer; if there is none, the connection is gone.
        Ok(Err(_closed)) => std::future::pending().await,
        Err(_elapsed) => Err(format!("the peer took nothing for {STALL_MAX:?}")),
    }
}

fn judge(answer: Result<Option<(Kind, Bytes)>, ReadError>) -> Result<(), String> {
    match answer {
        Ok(Some((Kind::StateTaken, _))) => Ok(()),
        Ok(Some((Kind::StateRefused, payload))) => {
            Err(format!("the peer refuses the state: {}", protocol::text(&payload)))
        }
        Ok(Some((Kind::Ended, payload))) => {
            Err(format!("the peer ended it: {}", protocol::text(&payload)))
        }
        Ok(Some((kind, _))) => Err(format!("the peer answered with {kind:?}")),
        Ok(None) => Err("the peer closed the stream without an answer".to_owned()),
        Err(error) => Err(format!("the connection broke: {error}")),
    }
}
