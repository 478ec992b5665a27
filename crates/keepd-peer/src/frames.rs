//! Reads frames out of a body, and bodies made of frames that a task queues.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use crate::protocol::{HEAD_BYTES, Kind};

/// A message of this length or less is copied out of the buffer, which would stay in memory as long
/// as the message otherwise.
const COPIED_BYTES_MAX: usize = 4096;
/// BOUND: bytes that are allocated before they have come.
const AHEAD_BYTES_MAX: usize = 1024 * 1024;

/// The body of a request or an answer.
pub type FrameBody = UnsyncBoxBody<Bytes, Infallible>;

/// The bytes of a frame, as a body that ends behind it.
pub(crate) fn one_frame(frame: Bytes) -> FrameBody {
    Full::new(frame).boxed_unsync()
}

/// The reason why no frame came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The connection broke.
    #[error("{}", chain(.0))]
    Broken(#[from] hyper::Error),
    /// It ended within a frame.
    #[error("it ended within a frame")]
    Cut,
    /// There is no such frame.
    #[error("frame of kind {0} is not known")]
    Unknown(u8),
    /// Too long a frame.
    #[error("frame of {bytes} bytes is over the bound of its kind, {max}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The bound.
        max: usize,
    },
}

impl ReadError {
    /// Whether the other side said what no member says.
    pub(crate) const fn is_malformed(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::TooLong { .. })
    }
}

/// An error with its causes, which hyper leaves out.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text
}

/// Reads frames.
pub(crate) struct FrameReader {
    body: Incoming,
    buffer: BytesMut,
}

impl FrameReader {
    pub(crate) fn new(body: Incoming) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// The next frame, `None` behind the last. A call that is given up loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Option<(Kind, Bytes)>, ReadError> {
        loop {
            if let Some(frame) = self.split()? {
                return Ok(Some(frame));
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(ReadError::Cut),
            }
        }
    }

    /// The frame at the front of the buffer, if it is whole.
    fn split(&mut self) -> Result<Option<(Kind, Bytes)>, ReadError> {
        let Some(head) = self.buffer.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let [kind, len @ ..] = *head;
        let kind = Kind::of(kind).ok_or(ReadError::Unknown(kind))?;
        let (bytes, max) = (u32::from_be_bytes(len) as usize, kind.bytes_max());
        if bytes > max {
            return Err(ReadError::TooLong { bytes, max });
        }
        let missing = (HEAD_BYTES + bytes).saturating_sub(self.buffer.len());
        if missing > 0 {
            self.buffer.reserve(missing.min(AHEAD_BYTES_MAX));
            return Ok(None);
        }
        self.buffer.advance(HEAD_BYTES);
        if bytes > COPIED_BYTES_MAX {
            return Ok(Some((kind, self.buffer.split_to(bytes).freeze())));
        }
        let payload = Bytes::copy_from_slice(&self.buffer[..bytes]);
        self.buffer.advance(bytes);
        Ok(Some((kind, payload)))
    }
}

/// A body of the frames that are queued in a channel.
pub(crate) struct QueuedBody(mpsc::Receiver<Bytes>);

impl QueuedBody {
    /// A channel of so many frames, and the body.
    pub(crate) fn channel(frames_max: usize) -> (mpsc::Sender<Bytes>, FrameBody) {
        let (sender, receiver) = mpsc::channel(frames_max);
        (sender, Self(receiver).boxed_unsync())
    }
}

impl Body for QueuedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        let bytes = ready!(self.0.poll_recv(task));
        Poll::Ready(bytes.map(|bytes| Ok(http_body::Frame::data(bytes))))
    }
}
