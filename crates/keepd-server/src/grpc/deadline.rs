//! The deadline of a call, `grpc-timeout`: nothing of a call goes on after it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use tokio::time::{Instant, sleep_until};
use tonic::Status;

use crate::errors;

/// Works on a call until its deadline. The clock is read each time before the work goes on, so that a
/// request which waited in a queue until then is not proposed afterwards; one that is in the log
/// already may still be committed, as in etcd.
///
/// The work stays pinned in the caller's future: passed by value it would be in this future twice, and
/// each call would pay for the copy.
pub(crate) async fn in_time<T>(
    deadline: Option<Instant>,
    mut work: Pin<&mut impl Future<Output = Result<T, Status>>>,
) -> Result<T, Status> {
    let Some(deadline) = deadline else { return work.await };
    let mut over = pin!(sleep_until(deadline));
    poll_fn(|task| {
        if Instant::now() >= deadline {
            return Poll::Ready(Err(errors::deadline_exceeded()));
        }
        match work.as_mut().poll(task) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => over.as_mut().poll(task).map(|()| Err(errors::deadline_exceeded())),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;
    use tonic::Code;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_waited_until_the_deadline_does_not_go_on_after_it() {
        let deadline = Instant::now() + Duration::from_millis(10);
        for late in [false, true] {
            let (permit, permitted) = oneshot::channel();
            let mut is_proposed = false;
            let result = {
                let mut work = pin!(async {
                    permitted.await.expect("it is sent below");
                    is_proposed = true;
                    Ok(())
                });
                let mut call = pin!(in_time(Some(deadline), work.as_mut()));
                assert!(call.as_mut().now_or_never().is_none());
                if late {
                    tokio::time::advance(Duration::from_millis(10)).await;
                }
                permit.send(()).expect("the work waits for it");
                call.await
            };
            assert_eq!(is_proposed, !late);
            let code = result.err().map(|status| status.code());
            assert_eq!(code, late.then_some(Code::DeadlineExceeded));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_waits_for_ever_ends_at_the_deadline() {
        let deadline = Instant::now() + Duration::from_millis(10);
        let mut work = pin!(std::future::pending::<Result<(), Status>>());
        let status = in_time(Some(deadline), work.as_mut()).await.unwrap_err();
        assert_eq!(status.message(), "context deadline exceeded");
    }
}
