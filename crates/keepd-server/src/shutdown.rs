//! The end of streamed answers from outside: by their client's deadline, or by the end of the server.
//!
//! The stream of lease keep-alives and the watch on the health service stay open for as long as
//! their client wants; without this they would hold up a stop for as long as it waits. Watch streams
//! are ended by their hub. Clients go on elsewhere after UNAVAILABLE.

use std::future::Future;
use std::pin::Pin;

use keepd_api::Error as Api;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use crate::errors;

/// Completes with the status with which a stream is ended.
pub(crate) type End = Pin<Box<dyn Future<Output = Status> + Send>>;

/// Ends a stream at its client's deadline, if it has one, and when `stop` turns true, if it is given.
pub(crate) fn end(deadline: Option<Instant>, stop: Option<watch::Receiver<bool>>) -> Option<End> {
    match (deadline, stop) {
        (None, None) => None,
        (Some(deadline), None) => Some(Box::pin(at_deadline(deadline))),
        (None, Some(stop)) => Some(Box::pin(stopped(stop))),
        (Some(deadline), Some(stop)) => Some(Box::pin(async move {
            tokio::select! {
                status = at_deadline(deadline) => status,
                status = stopped(stop) => status,
            }
        })),
    }
}

async fn at_deadline(deadline: Instant) -> Status {
    sleep_until(deadline).await;
    errors::deadline_exceeded()
}

async fn stopped(mut stop: watch::Receiver<bool>) -> Status {
    // A server that is gone has stopped too.
    let _ = stop.wait_for(|stop| *stop).await;
    Api::Stopped.into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use tonic::Code;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_with_the_server_or_at_its_deadline() {
        assert!(end(None, None).is_none());
        let stop = watch::Sender::new(false);
        let later = Instant::now() + Duration::from_secs(1);
        let mut ends = [
            end(Some(later), None).unwrap(),
            end(Some(later), Some(stop.subscribe())).unwrap(),
            end(None, Some(stop.subscribe())).unwrap(),
        ];
        assert!(ends.iter_mut().all(|end| end.now_or_never().is_none()), "nothing ends them yet");
        tokio::time::sleep(Duration::from_secs(2)).await;
        let codes = ends.each_mut().map(|end| end.now_or_never().map(|status| status.code()));
        assert_eq!(codes, [Some(Code::DeadlineExceeded), Some(Code::DeadlineExceeded), None]);
        stop.send_replace(true);
        let status = ends[2].as_mut().await;
        assert_eq!(status.message(), "etcdserver: server stopped");
        let both = end(Some(Instant::now() + Duration::from_secs(1)), Some(stop.subscribe()));
        assert_eq!(both.unwrap().await.code(), Code::Unavailable);
    }
}
