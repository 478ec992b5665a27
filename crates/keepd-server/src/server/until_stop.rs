//! Answers that never end by themselves, ended when the server stops.
//!
//! The stream of lease keep-alives and the watch on the health service stay open for as long as
//! their client wants; without this they would hold up a stop for as long as it is patient. Watch
//! streams are ended by their hub. Clients go on elsewhere after UNAVAILABLE.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::Frame;
use keepd_api::Error as Api;
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;

use crate::call;

/// The methods that answer so.
const METHODS: [&str; 2] = ["/etcdserverpb.Lease/LeaseKeepAlive", "/grpc.health.v1.Health/Watch"];

/// Whether the answers to a path never end by themselves.
pub(super) fn is_endless(path: &str) -> bool {
    METHODS.contains(&path)
}

/// The same answer, which also ends when `stop` turns true.
pub(super) fn end_with(
    response: Response<Body>,
    mut stop: watch::Receiver<bool>,
) -> Response<Body> {
    let stopping = Box::pin(async move {
        // A server that is gone has stopped too.
        let _ = stop.wait_for(|stop| *stop).await;
    });
    response.map(|body| Body::new(UntilStop { body: Some(body), stopping }))
}

struct UntilStop {
    /// `None` once the server has stopped.
    body: Option<Body>,
    stopping: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl http_body::Body for UntilStop {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(body) = this.body.as_mut().filter(|body| !body.is_end_stream()) else {
            return Poll::Ready(None);
        };
        if this.stopping.as_mut().poll(task).is_pending() {
            return Pin::new(body).poll_frame(task);
        }
        this.body = None;
        Poll::Ready(Some(Ok(Frame::trailers(call::trailers(&Api::Stopped.into())))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;

    use super::*;

    /// A body that has nothing to say yet.
    struct Silent;

    impl http_body::Body for Silent {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            self: Pin<&mut Self>,
            _task: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_silent_answer_ends_with_the_server() {
        let stop = watch::Sender::new(false);
        let answer = end_with(Response::new(Body::new(Silent)), stop.subscribe());
        let mut body = answer.into_body();
        let waited = tokio::time::timeout(Duration::from_millis(20), body.frame()).await;
        assert!(waited.is_err(), "nothing ends it before");
        stop.send_replace(true);
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        let status = Status::from_header_map(&trailers).unwrap();
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert_eq!(status.message(), "etcdserver: server stopped");
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn an_answer_that_ends_by_itself_is_left_alone() {
        let stop = watch::Sender::new(false);
        let whole = Body::new(http_body_util::Full::new(Bytes::from_static(b"x")));
        let body = end_with(Response::new(whole), stop.subscribe()).into_body();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "x");
    }
}
