//! The end of streamed answers from outside: by their client's deadline, by the end of the server, or
//! because the leader is lost to a client that wants one.
//!
//! The stream of lease keep-alives and the watch on the health service stay open for as long as
//! their client wants; without this they would hold up a stop for as long as it waits. Watch streams
//! are ended by their hub. Clients go on elsewhere after UNAVAILABLE.

use std::future::{Future, pending};
use std::pin::Pin;

use keepd_api::Error as Api;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use crate::errors;
use crate::leader_watch::LeaderLoss;

/// Completes with the status with which a stream is ended.
pub(crate) type End = Pin<Box<dyn Future<Output = Status> + Send>>;

/// Ends a stream at its client's deadline, if it has one, when `stop` turns true, if it is given, and
/// with the loss of the leader, if its client wants one.
pub(crate) fn end(
    deadline: Option<Instant>,
    stop: Option<watch::Receiver<bool>>,
    leader: Option<LeaderLoss>,
) -> Option<End> {
    if deadline.is_none() && stop.is_none() && leader.is_none() {
        return None;
    }
    Some(Box::pin(async move {
        tokio::select! {
            status = at_deadline(deadline) => status,
            status = stopped(stop) => status,
            status = leader_lost(leader) => status,
        }
    }))
}

async fn at_deadline(deadline: Option<Instant>) -> Status {
    let Some(deadline) = deadline else { return pending().await };
    sleep_until(deadline).await;
    errors::deadline_exceeded()
}

async fn stopped(stop: Option<watch::Receiver<bool>>) -> Status {
    let Some(mut stop) = stop else { return pending().await };
    // A server that is gone has stopped too.
    let _ = stop.wait_for(|stop| *stop).await;
    Api::Stopped.into()
}

async fn leader_lost(leader: Option<LeaderLoss>) -> Status {
    let Some(leader) = leader else { return pending().await };
    leader.happens().await;
    Api::NoLeader.into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use tonic::Code;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_with_the_server_or_at_its_deadline() {
        assert!(end(None, None, None).is_none());
        let stop = watch::Sender::new(false);
        let later = Instant::now() + Duration::from_secs(1);
        let mut ends = [
            end(Some(later), None, None).unwrap(),
            end(Some(later), Some(stop.subscribe()), None).unwrap(),
            end(None, Some(stop.subscribe()), None).unwrap(),
        ];
        assert!(ends.iter_mut().all(|end| end.now_or_never().is_none()), "nothing ends them yet");
        tokio::time::sleep(Duration::from_secs(2)).await;
        let codes = ends.each_mut().map(|end| end.now_or_never().map(|status| status.code()));
        assert_eq!(codes, [Some(Code::DeadlineExceeded), Some(Code::DeadlineExceeded), None]);
        stop.send_replace(true);
        let status = ends[2].as_mut().await;
        assert_eq!(status.message(), "etcdserver: server stopped");
        let soon = Instant::now() + Duration::from_secs(1);
        let both = end(Some(soon), Some(stop.subscribe()), None);
        assert_eq!(both.unwrap().await.code(), Code::Unavailable);
    }
}
