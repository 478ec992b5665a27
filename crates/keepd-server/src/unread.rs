//! Bounds on answers that were made and are not read.
//!
//! A client may ask for much and read nothing. Small answers are bounded by the number of streams.
//! Large ones are counted for each connection until their last byte is sent: while too much is unread
//! the connection's further reads wait; few lists are made at once; and an answer of which nothing is
//! read for as long as a stream may stall is dropped, with its memory (rule 9.20).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use crate::response_stream::STALL_MAX;

/// The status of an answer that was given up.
const UNREAD: &str = "keepd: the answer was not read for too long and was given up";
/// BOUND: bytes of one connection's large answers; the answer that exceeds it is the last.
const UNREAD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// BOUND: lists of one connection that are being made or read.
const LISTS_MAX: usize = 8;

/// The unread answers of one connection.
#[derive(Debug)]
pub(crate) struct Unread {
    bytes: AtomicUsize,
    /// Notified when there is room again.
    freed: Notify,
    lists: Arc<Semaphore>,
}

impl Default for Unread {
    fn default() -> Self {
        let lists = Arc::new(Semaphore::new(LISTS_MAX));
        Self { bytes: AtomicUsize::new(0), freed: Notify::new(), lists }
    }
}

/// The permit of a list, kept until its answer is read.
pub(crate) type ListPermit = OwnedSemaphorePermit;

impl Unread {
    /// Waits until another answer may be made.
    pub(crate) async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            if self.bytes.load(Ordering::Acquire) < UNREAD_BYTES_MAX {
                return;
            }
            freed.await;
        }
    }

    /// Waits for the permit to make a list.
    pub(crate) async fn list(&self) -> ListPermit {
        Arc::clone(&self.lists).acquire_owned().await.expect("nobody closes it")
    }

    /// The same bytes, counted for as long as anybody holds them.
    fn counted(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        self.bytes.fetch_add(bytes.len(), Ordering::AcqRel);
        Bytes::from_owner(Counted { bytes, unread: Arc::clone(self) })
    }
}

/// Bytes that are not counted any more once they are dropped.
struct Counted {
    bytes: Bytes,
    unread: Arc<Unread>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let before = self.unread.bytes.fetch_sub(self.bytes.len(), Ordering::AcqRel);
        if before >= UNREAD_BYTES_MAX {
            self.unread.freed.notify_waiters();
        }
    }
}

/// The frames that are left; `None` once the answer was given up.
type Left = Arc<Mutex<Option<VecDeque<Bytes>>>>;

/// A large answer.
pub(crate) struct Large {
    left: Left,
    trailers: Option<HeaderMap>,
    _permit: Option<ListPermit>,
    _watch: AbortOnDropHandle<()>,
}

impl Large {
    pub(crate) fn new(
        frames: VecDeque<Bytes>,
        trailers: HeaderMap,
        unread: &Arc<Unread>,
        permit: Option<ListPermit>,
    ) -> Self {
        Self::patient(frames, trailers, unread, permit, STALL_MAX)
    }

    fn patient(
        frames: VecDeque<Bytes>,
        trailers: HeaderMap,
        unread: &Arc<Unread>,
        permit: Option<ListPermit>,
        stall_max: Duration,
    ) -> Self {
        let frames = frames.into_iter().map(|frame| unread.counted(frame)).collect();
        let left = Arc::new(Mutex::new(Some(frames)));
        let watch = tokio::spawn(watch(Arc::clone(&left), stall_max));
        let watch = AbortOnDropHandle::new(watch);
        Self { left, trailers: Some(trailers), _permit: permit, _watch: watch }
    }
}

/// Drops an answer of which nothing is read.
async fn watch(left: Left, stall_max: Duration) {
    let count = |left: &Left| left.lock().as_ref().map_or(0, VecDeque::len);
    let mut before = count(&left);
    loop {
        tokio::time::sleep(stall_max).await;
        let now = count(&left);
        if now == before && now > 0 {
            tracing::warn!("gave up an answer: its client read nothing for too long");
            *left.lock() = None;
            return;
        }
        before = now;
    }
}

impl http_body::Body for Large {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let next = match &mut *self.left.lock() {
            Some(frames) => frames.pop_front(),
            None => return Poll::Ready(Some(Err(Status::aborted(UNREAD)))),
        };
        let frame = match next {
            Some(frame) => Some(Frame::data(frame)),
            None => self.trailers.take().map(Frame::trailers),
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.trailers.is_none()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn frames(count: usize, bytes: usize) -> VecDeque<Bytes> {
        (0..count).map(|_| Bytes::from(vec![7; bytes])).collect()
    }

    /// Rule 9.20.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_reads_is_let_go_and_one_read_slowly_is_not() {
        let unread = Arc::default();
        let mut slow = Large::new(frames(5, 10), HeaderMap::new(), &unread, None);
        let mut silent = Large::new(frames(5, 1000), HeaderMap::new(), &unread, None);
        silent.frame().await.unwrap().unwrap();
        for left in (0..5).rev() {
            tokio::time::sleep(STALL_MAX * 2 / 3).await;
            assert!(slow.frame().await.unwrap().unwrap().is_data());
            assert_eq!(unread.bytes.load(Ordering::Relaxed) % 1000, left * 10);
        }
        assert!(slow.frame().await.unwrap().unwrap().is_trailers());
        assert_eq!(unread.bytes.load(Ordering::Relaxed), 0);
        assert!(silent.frame().await.unwrap().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn while_too_much_is_unread_nothing_more_is_made() {
        let unread = Arc::<Unread>::default();
        unread.room().await;
        let answer = frames(65, 1 << 20);
        let mut answer = Large::new(answer, HeaderMap::new(), &unread, None);
        let second = Duration::from_secs(1);
        assert!(tokio::time::timeout(second, unread.room()).await.is_err());
        // What the library has taken and not sent yet counts too.
        let sending = [answer.frame().await.unwrap(), answer.frame().await.unwrap()];
        assert!(tokio::time::timeout(second, unread.room()).await.is_err());
        let (waiting, sent) = (unread.room(), async move { drop(sending) });
        tokio::join!(waiting, sent);
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_waits_until_an_earlier_one_is_read() {
        let unread = Arc::<Unread>::default();
        let mut answers = Vec::new();
        for _ in 0..LISTS_MAX {
            let permit = Some(unread.list().await);
            answers.push(Large::new(frames(1, 1), HeaderMap::new(), &unread, permit));
        }
        let second = Duration::from_secs(1);
        assert!(tokio::time::timeout(second, unread.list()).await.is_err());
        answers.pop();
        drop(unread.list().await);
    }
}
