//! The queue between a client and the task that makes a streamed answer for it.
//!
//! That task pins a view of the store, and with it the space of records that died since. Both are
//! bounded (rule 9.20): the queue by its length, the view by the time for which a client may read
//! nothing at all. A client that reads slowly is waited for.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{FutureExt, Stream, StreamExt};
use tokio::sync::mpsc;
use tonic::Status;

/// Time for which a client may read nothing while there is something to read; the same as for a
/// watcher.
pub(crate) const STALL_MAX: Duration = Duration::from_secs(300);

/// The error of a send whose client has gone or was given up.
#[derive(Debug)]
pub(crate) struct ClientGone;

/// The maker's end.
#[derive(Debug)]
pub(crate) struct Sender<T> {
    sender: mpsc::Sender<Result<T, Status>>,
    stalled: Arc<AtomicBool>,
    stall_max: Duration,
}

/// The client's end.
#[derive(Debug)]
pub(crate) struct Receiver<T> {
    receiver: mpsc::Receiver<Result<T, Status>>,
    stalled: Arc<AtomicBool>,
}

/// A queue of at most `ahead` answers.
pub(crate) fn channel<T>(ahead: usize) -> (Sender<T>, Receiver<T>) {
    channel_with_timeout(ahead, STALL_MAX)
}

fn channel_with_timeout<T>(ahead: usize, stall_max: Duration) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = mpsc::channel(ahead);
    let stalled = Arc::new(AtomicBool::new(false));
    let answers = Sender { sender, stalled: Arc::clone(&stalled), stall_max };
    (answers, Receiver { receiver, stalled })
}

/// BOUND: answers, and about their bytes, that a detached stream hands over at once. One such batch is
/// made while the client reads another.
const BATCH_ANSWERS_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 64 * 1024;

/// Runs a stream in a task of its own, at most one batch ahead of the client: opening the values of a
/// thousand events must not hold up the other calls of the connection. All answers that are there at
/// once are handed over at once, since waking the connection costs more than most of them. Behind an error
/// nothing is asked for.
pub(crate) fn detached<S, T>(mut stream: S, bytes_of: fn(&T) -> usize) -> Detached<T>
where
    S: Stream<Item = Result<T, Status>> + Unpin + Send + 'static,
    T: Send + 'static,
{
    let (sender, batches) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let answer = tokio::select! {
                answer = stream.next() => answer,
                () = sender.closed() => return,
            };
            let Some(answer) = answer else { return };
            let batch = batch(answer, &mut stream, bytes_of);
            let is_over = batch.back().is_some_and(Result::is_err);
            if sender.send(batch).await.is_err() || is_over {
                return;
            }
        }
    });
    Detached { batches, batch: VecDeque::new() }
}

/// Answers that were ready together.
type Batch<T> = VecDeque<Result<T, Status>>;

/// An answer, and those behind it that are ready, up to an error.
fn batch<S, T>(first: S::Item, stream: &mut S, bytes_of: fn(&T) -> usize) -> Batch<T>
where
    S: Stream<Item = Result<T, Status>> + Unpin,
{
    let mut bytes = 0;
    let mut batch = VecDeque::new();
    let mut next = Some(first);
    while let Some(answer) = next.take() {
        let is_last = answer.as_ref().map_or(true, |answer| {
            bytes += bytes_of(answer);
            bytes >= BATCH_BYTES_MAX
        });
        batch.push_back(answer);
        if !is_last && batch.len() < BATCH_ANSWERS_MAX {
            // The stream is asked again with the task's own waker.
            next = stream.next().now_or_never().flatten();
        }
    }
    batch
}

/// The client's end of a stream that runs in a task of its own.
#[derive(Debug)]
pub(crate) struct Detached<T> {
    batches: mpsc::Receiver<Batch<T>>,
    batch: Batch<T>,
}

impl<T: Unpin> Stream for Detached<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(answer) = self.batch.pop_front() {
                return Poll::Ready(Some(answer));
            }
            match ready!(self.batches.poll_recv(task)) {
                Some(batch) => self.batch = batch,
                None => return Poll::Ready(None),
            }
        }
    }
}

impl<T> Sender<T> {
    /// Waits until the queue has room.
    pub(crate) async fn reserve(&self) -> Result<mpsc::Permit<'_, Result<T, Status>>, ClientGone> {
        match tokio::time::timeout(self.stall_max, self.sender.reserve()).await {
            Ok(room) => room.map_err(|_closed| ClientGone),
            Err(_elapsed) => {
                tracing::warn!("gave up a streamed answer: its client read nothing for too long");
                self.stalled.store(true, Ordering::Release);
                Err(ClientGone)
            }
        }
    }

    /// Queues an answer once there is room.
    pub(crate) async fn send(&self, answer: Result<T, Status>) -> Result<(), ClientGone> {
        self.reserve().await?.send(answer);
        Ok(())
    }
}

impl<T> Stream for Receiver<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let answer = ready!(self.receiver.poll_recv(task));
        if answer.is_none() && self.stalled.swap(false, Ordering::AcqRel) {
            // The answers that were queued must not look like all of them.
            let text = "keepd: the answer was not read for too long and was given up";
            return Poll::Ready(Some(Err(Status::aborted(text))));
        }
        Poll::Ready(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AHEAD: usize = 2;

    /// Sends `count` numbers for as long as somebody wants them, with something pinned.
    async fn make(answers: Sender<u32>, count: u32, _pinned: Arc<()>) {
        for number in 0..count {
            if answers.send(Ok(number)).await.is_err() {
                return;
            }
        }
    }

    /// Rule 9.20.
    #[tokio::test]
    async fn a_client_that_reads_nothing_pins_nothing_for_long_and_is_told() {
        let (answers, mut reading) = channel_with_timeout(AHEAD, Duration::from_millis(50));
        let pinned = Arc::new(());
        let maker = tokio::spawn(make(answers, 10, Arc::clone(&pinned)));
        maker.await.unwrap();
        assert_eq!(Arc::strong_count(&pinned), 1, "the maker has let go");
        assert_eq!(reading.next().await.unwrap().unwrap(), 0);
        assert_eq!(reading.next().await.unwrap().unwrap(), 1);
        let given_up = reading.next().await.unwrap().unwrap_err();
        assert_eq!(given_up.code(), tonic::Code::Aborted);
        assert!(reading.next().await.is_none());
    }

    #[tokio::test]
    async fn a_slow_client_gets_everything() {
        let (answers, mut reading) = channel_with_timeout(AHEAD, Duration::from_secs(5));
        let maker = tokio::spawn(make(answers, 10, Arc::new(())));
        for number in 0..10 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            assert_eq!(reading.next().await.unwrap().unwrap(), number);
        }
        assert!(reading.next().await.is_none());
        maker.await.unwrap();
    }

    #[tokio::test]
    async fn a_detached_stream_is_whole_and_ends_with_its_client() {
        let count = BATCH_ANSWERS_MAX * 2 + 10;
        let numbers = futures_util::stream::iter((0..count).map(Ok));
        let answers: Vec<_> = detached(numbers, |_| 1).map(Result::unwrap).collect().await;
        assert_eq!(answers, (0..count).collect::<Vec<_>>());
        let pinned = Arc::new(());
        let held = Arc::clone(&pinned);
        let silent = futures_util::stream::pending().inspect(move |_| drop(held.clone()));
        drop(detached(silent, |()| 0));
        while Arc::strong_count(&pinned) > 1 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_batch_is_bounded_in_bytes() {
        let half = || Ok(BATCH_BYTES_MAX / 2);
        let mut stream = futures_util::stream::iter((0..9).map(|_| half()));
        assert_eq!(batch(half(), &mut stream, |bytes| *bytes).len(), 2);
        assert_eq!(stream.count().await, 8);
    }

    /// The stream of a watch tells its end again for as long as it is asked.
    #[tokio::test]
    async fn behind_an_error_nothing_is_asked_for() {
        let ended = futures_util::stream::repeat_with(|| Err::<(), _>(Status::aborted("ended")));
        let answers: Vec<_> = detached(ended, |()| 0).collect().await;
        assert_eq!(answers.len(), 1);
    }

    #[tokio::test]
    async fn a_client_that_leaves_ends_the_work() {
        let (answers, reading) = channel(AHEAD);
        drop(reading);
        make(answers, u32::MAX, Arc::new(())).await;
    }
}
