//! Gives up connections that do not even say which protocol they speak.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::connection_slots::Slot;
use super::metered_stream::BoxedStream;

/// How long a new connection may take to say what it speaks, and how many bytes that are at most.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const PREFACE_BYTES: usize = 24;

/// A connection that ends with an error if its first bytes do not come in time.
pub(super) struct PrefaceTimeout {
    stream: BoxedStream,
    slot: Arc<Slot>,
    /// Bytes that may be missing still.
    unread: usize,
    /// Runs until they have come, or something was answered.
    silence: Option<Pin<Box<Sleep>>>,
}

impl PrefaceTimeout {
    pub(super) fn new(stream: BoxedStream, slot: Arc<Slot>) -> Self {
        let silence = Some(Box::pin(tokio::time::sleep(SILENCE_MAX)));
        Self { stream, slot, unread: PREFACE_BYTES, silence }
    }

    fn speaks(&mut self) {
        if self.silence.take().is_some() {
            self.slot.settled();
        }
    }
}

impl AsyncRead for PrefaceTimeout {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(task, buffer);
        if self.silence.is_none() {
            return result;
        }
        self.unread = self.unread.saturating_sub(buffer.filled().len() - before);
        if self.unread == 0 {
            self.speaks();
        } else if result.is_pending()
            && let Some(silence) = &mut self.silence
            && silence.as_mut().poll(task).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        result
    }
}

impl AsyncWrite for PrefaceTimeout {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.speaks();
        Pin::new(&mut self.stream).poll_write(task, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.speaks();
        Pin::new(&mut self.stream).poll_write_vectored(task, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(task)
    }
}
