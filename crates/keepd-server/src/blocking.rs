//! Work that may wait for the disk or keep a processor for long: it runs on tokio's blocking threads,
//! so that the requests of other connections go on.

use std::sync::Arc;

use futures_util::TryFutureExt as _;
use futures_util::future::MapErr;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use crate::errors;

/// Records that a request reads where it runs; more are read on a blocking thread.
pub(crate) const INLINE_RECORDS_MAX: usize = 32;

/// Runs work on a blocking thread. Work that has not begun when the future is dropped is not done.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    let working = AbortOnDropHandle::new(tokio::task::spawn_blocking(work));
    working.await.map_err(errors::task)
}

/// The result of a read that runs.
pub(crate) type Running<T> = MapErr<AbortOnDropHandle<T>, fn(JoinError) -> Status>;

/// Reads of one kind, of which only some run at once.
#[derive(Debug)]
pub(crate) struct Limiter(Arc<Semaphore>);

impl Limiter {
    /// Lets `reads_max` of them run at once.
    pub(crate) fn new(reads_max: usize) -> Self {
        Self(Arc::new(Semaphore::new(reads_max)))
    }

    /// Begins a read on a blocking thread once there is a permit for it.
    pub(crate) async fn start<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Running<T> {
        let permit = Arc::clone(&self.0).acquire_owned().await;
        begin(permit.expect("the semaphore is never closed"), read)
    }

    /// Runs a read on a blocking thread once there is a permit for it.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        self.start(read).await.await
    }

    /// Runs a read on a blocking thread if there is a permit for it now.
    pub(crate) async fn try_run<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Option<Result<T, Status>> {
        let permit = Arc::clone(&self.0).try_acquire_owned().ok()?;
        Some(begin(permit, read).await)
    }
}

/// Keeps the permit until the read has ended, also when nobody waits for it any more.
fn begin<T: Send + 'static>(
    permit: OwnedSemaphorePermit,
    read: impl FnOnce() -> T + Send + 'static,
) -> Running<T> {
    let working = AbortOnDropHandle::new(tokio::task::spawn_blocking(move || {
        let _permit = permit;
        read()
    }));
    let map: fn(JoinError) -> Status = errors::task;
    working.map_err(map)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_read_waits_for_a_permit_or_is_refused() {
        let reads = Limiter::new(1);
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let first = reads.start(move || ended.recv().is_ok()).await;
        assert!(reads.try_run(|| 7).await.is_none());
        let mut second = Box::pin(reads.run(|| 8));
        assert!(second.as_mut().now_or_never().is_none());
        end.send(()).unwrap();
        assert!(first.await.unwrap());
        assert_eq!(second.await.unwrap(), 8);
    }
}
