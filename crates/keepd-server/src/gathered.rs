//! Bytes that a connection sends, gathered so that all that are due go out with one write.
//!
//! The HTTP/2 library hands over each frame of 256 bytes or more by itself and flushes before the next
//! one: a system call for each answer, and a record with TLS. Here they wait until the connection has
//! had its turn ([`Outlet::send`]), or until they are many.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// BOUND: bytes of a connection that wait for the end of its turn, or for a client that does not read:
/// then the library has to wait too. Longer writes are not copied.
const WAITING_BYTES_MAX: usize = 32 * 1024;
/// The first size of the buffer.
const BUFFER_BYTES: usize = 4096;

/// The connection as the library has it.
#[derive(Debug)]
pub(crate) struct Gathered<S>(Arc<Mutex<Gathering<S>>>);

/// The task's end of it, which lets go of the bytes when a turn is over.
#[derive(Debug)]
pub(crate) struct Outlet<S>(Arc<Mutex<Gathering<S>>>);

#[derive(Debug)]
struct Gathering<S> {
    stream: S,
    waiting: BytesMut,
    /// Whether the stream was not flushed since something was written.
    is_dirty: bool,
    /// The error of a write at the end of a turn; the library hears of it at its next call.
    failure: Option<ErrorKind>,
}

/// A connection that gathers what it sends.
pub(crate) fn gathered<S>(stream: S) -> (Gathered<S>, Outlet<S>) {
    let waiting = BytesMut::new();
    let gathering = Gathering { stream, waiting, is_dirty: false, failure: None };
    let gathering = Arc::new(Mutex::new(gathering));
    (Gathered(Arc::clone(&gathering)), Outlet(gathering))
}

impl<S: AsyncWrite + Unpin> Outlet<S> {
    /// Sends what has been gathered. What the client has no room for yet goes on with the next turn,
    /// for which the task is woken.
    pub(crate) fn send(&self, task: &mut Context<'_>) {
        let mut gathering = self.0.lock();
        if gathering.failure.is_some() {
            return;
        }
        if let Poll::Ready(Err(error)) = gathering.poll_send(task) {
            gathering.failure = Some(error.kind());
            gathering.waiting = BytesMut::new();
            task.waker().wake_by_ref();
        }
    }
}

impl<S: AsyncWrite + Unpin> Gathering<S> {
    fn check(&self) -> io::Result<()> {
        self.failure.map_or(Ok(()), |kind| Err(kind.into()))
    }

    /// Writes what waits.
    fn poll_empty(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(task, &self.waiting))?;
            if written == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(written);
        }
        // An idle connection keeps no buffer.
        self.waiting = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_dirty {
            ready!(self.poll_empty(task))?;
            ready!(Pin::new(&mut self.stream).poll_flush(task))?;
            self.is_dirty = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_gather(
        &mut self,
        task: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let len: usize = slices.iter().map(|slice| slice.len()).sum();
        self.is_dirty = true;
        if self.waiting.len() + len > WAITING_BYTES_MAX {
            ready!(self.poll_empty(task))?;
        }
        if len > WAITING_BYTES_MAX {
            return Pin::new(&mut self.stream).poll_write_vectored(task, slices);
        }
        if self.waiting.capacity() == 0 {
            self.waiting.reserve(len.max(BUFFER_BYTES));
        }
        for slice in slices {
            self.waiting.extend_from_slice(slice);
        }
        Poll::Ready(Ok(len))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut gathering = self.0.lock();
        gathering.check()?;
        Pin::new(&mut gathering.stream).poll_read(task, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_gather(task, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_gather(task, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Leaves it to the end of the turn.
    fn poll_flush(self: Pin<&mut Self>, _task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.lock().check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathering = self.0.lock();
        gathering.check()?;
        ready!(gathering.poll_send(task))?;
        Pin::new(&mut gathering.stream).poll_shutdown(task)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// Takes `room` bytes, and counts calls.
    #[derive(Debug, Default)]
    struct Socket {
        written: Vec<u8>,
        room: usize,
        calls: usize,
        failure: Option<ErrorKind>,
        is_shut: bool,
    }

    impl AsyncWrite for Socket {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _task: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.calls += 1;
            if let Some(kind) = self.failure {
                return Poll::Ready(Err(kind.into()));
            }
            let taken = bytes.len().min(self.room);
            self.room -= taken;
            self.written.extend_from_slice(&bytes[..taken]);
            if taken == 0 { Poll::Pending } else { Poll::Ready(Ok(taken)) }
        }

        fn poll_flush(self: Pin<&mut Self>, _task: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            _task: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            self.is_shut = true;
            Poll::Ready(Ok(()))
        }
    }

    fn write(gathered: &mut Gathered<Socket>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(gathered).poll_write(&mut Context::from_waker(Waker::noop()), bytes)
    }

    fn shut(gathered: &mut Gathered<Socket>) -> Poll<io::Result<()>> {
        Pin::new(gathered).poll_shutdown(&mut Context::from_waker(Waker::noop()))
    }

    fn send(outlet: &Outlet<Socket>) {
        outlet.send(&mut Context::from_waker(Waker::noop()));
    }

    #[test]
    fn answers_of_a_turn_go_out_with_one_write() {
        let (mut gathered, outlet) = gathered(Socket { room: 100_000, ..Socket::default() });
        for _ in 0..20 {
            assert!(write(&mut gathered, &[1; 400]).is_ready());
        }
        assert_eq!(outlet.0.lock().stream.calls, 0);
        send(&outlet);
        send(&outlet);
        let gathering = outlet.0.lock();
        assert_eq!((gathering.stream.calls, gathering.stream.written.len()), (1, 8000));
        assert_eq!(gathering.waiting.capacity(), 0, "an idle connection keeps no buffer");
    }

    #[test]
    fn a_client_that_does_not_read_holds_up_the_library() {
        let (mut gathered, outlet) = gathered(Socket::default());
        let mut taken = 0;
        while write(&mut gathered, &[1; 1000]).is_ready() {
            taken += 1000;
            send(&outlet);
        }
        assert!((WAITING_BYTES_MAX - 1000..=WAITING_BYTES_MAX).contains(&taken), "{taken}");
        assert!(shut(&mut gathered).is_pending(), "what waits goes first");
        outlet.0.lock().stream.room = usize::MAX;
        send(&outlet);
        assert_eq!(outlet.0.lock().stream.written.len(), taken);
        assert!(shut(&mut gathered).is_ready());
        assert!(outlet.0.lock().stream.is_shut);
    }

    #[test]
    fn a_failure_at_the_end_of_a_turn_reaches_the_library() {
        let failure = Some(ErrorKind::BrokenPipe);
        let (mut gathered, outlet) = gathered(Socket { failure, ..Socket::default() });
        assert!(write(&mut gathered, b"lost").is_ready());
        send(&outlet);
        send(&outlet);
        assert_eq!(outlet.0.lock().stream.calls, 1);
        let Poll::Ready(Err(error)) = write(&mut gathered, b"more") else { panic!("it failed") };
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn it_reads_and_writes_as_its_stream_does() {
        let (client, server) = duplex(64);
        let (mut gathered, outlet) = gathered(server);
        let (mut reading, mut writing) = tokio::io::split(client);
        writing.write_all(b"question").await.unwrap();
        let mut question = [0; 8];
        gathered.read_exact(&mut question).await.unwrap();
        gathered.write_all(&[7; 1000]).await.unwrap();
        gathered.flush().await.unwrap();
        let sending = std::future::poll_fn(|task| {
            outlet.send(task);
            if outlet.0.lock().is_dirty { Poll::Pending } else { Poll::Ready(()) }
        });
        let mut answer = [0; 1000];
        let (read, ()) = tokio::join!(reading.read_exact(&mut answer), sending);
        read.unwrap();
        assert_eq!((&question, answer), (b"question", [7; 1000]));
    }

    proptest! {
        #[test]
        fn bytes_arrive_in_order_whatever_their_sizes(
            lens in prop::collection::vec((0..3 * WAITING_BYTES_MAX, 0..50_000_usize), 1..20),
        ) {
            let (mut gathered, outlet) = gathered(Socket::default());
            let mut expected = Vec::new();
            for (round, (len, room)) in lens.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..=250).cycle().skip(round).take(len).collect();
                let mut left = &bytes[..];
                while !left.is_empty() {
                    match write(&mut gathered, left) {
                        Poll::Ready(taken) => left = &left[taken.unwrap()..],
                        Poll::Pending => outlet.0.lock().stream.room += room + 1,
                    }
                }
                expected.extend_from_slice(&bytes);
                send(&outlet);
            }
            outlet.0.lock().stream.room = usize::MAX;
            prop_assert!(shut(&mut gathered).is_ready());
            prop_assert!(outlet.0.lock().stream.written == expected);
        }
    }
}
