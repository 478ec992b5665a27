//! A connection's bytes, counted.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that a connection reads before others have a turn: among them the readers of its streams. The
/// HTTP/2 library ends a connection on which some thousand small messages lie unread.
const TURN_BYTES: usize = 32 * 1024;

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}
pub(super) type BoxedStream = Box<dyn Stream>;

/// Counts the bytes of a connection.
pub(super) struct MeteredStream {
    stream: BoxedStream,
    bytes: Arc<TrafficBytes>,
    /// Bytes read in this turn.
    turn: usize,
}

/// Bytes that clients sent and were sent, as they go over the wire.
#[derive(Debug, Default)]
pub struct TrafficBytes {
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
}

impl AsyncRead for MeteredStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.turn >= TURN_BYTES {
            self.turn = 0;
            task.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(task, buffer);
        let read = buffer.filled().len() - before;
        self.turn = if result.is_pending() { 0 } else { self.turn + read };
        self.bytes.received.fetch_add(read as u64, Ordering::Relaxed);
        result
    }
}

impl AsyncWrite for MeteredStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(task, bytes);
        self.count_sent(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(task, slices);
        self.count_sent(result)
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

impl MeteredStream {
    pub(super) const fn new(stream: BoxedStream, bytes: Arc<TrafficBytes>) -> Self {
        Self { stream, bytes, turn: 0 }
    }

    fn count_sent(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(sent)) = &result {
            self.bytes.sent.fetch_add(*sent as u64, Ordering::Relaxed);
        }
        result
    }
}
