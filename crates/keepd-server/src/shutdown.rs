//! Answers that are ended from outside: by their client's deadline, or by the end of the server.
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
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

use crate::grpc;

/// The same answer, which also ends when `stop` turns true.
pub(crate) fn end_on_shutdown(
    response: Response<Body>,
    mut stop: watch::Receiver<bool>,
) -> Response<Body> {
    end(response, async move {
        // A server that is gone has stopped too.
        let _ = stop.wait_for(|stop| *stop).await;
        Api::Stopped.into()
    })
}

/// The same answer, which also ends at its client's deadline.
pub(crate) fn end_at_deadline(response: Response<Body>, deadline: Instant) -> Response<Body> {
    end(response, async move {
        tokio::time::sleep_until(deadline).await;
        grpc::deadline_exceeded()
    })
}

fn end(
    response: Response<Body>,
    end: impl Future<Output = Status> + Send + 'static,
) -> Response<Body> {
    if http_body::Body::is_end_stream(response.body()) {
        return response;
    }
    response.map(|body| Body::new(Until { body: Some(body), end: Box::pin(end) }))
}

struct Until {
    /// `None` once it was ended.
    body: Option<Body>,
    end: Pin<Box<dyn Future<Output = Status> + Send>>,
}

impl http_body::Body for Until {
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
        let Poll::Ready(status) = this.end.as_mut().poll(task) else {
            return Pin::new(body).poll_frame(task);
        };
        this.body = None;
        Poll::Ready(Some(Ok(Frame::trailers(grpc::trailers(&status)))))
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
        let answer = end_on_shutdown(Response::new(Body::new(Silent)), stop.subscribe());
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
    async fn a_silent_answer_ends_at_its_deadline() {
        let at = Instant::now() + Duration::from_millis(10);
        let mut body = end_at_deadline(Response::new(Body::new(Silent)), at).into_body();
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        let status = Status::from_header_map(&trailers).unwrap();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        assert_eq!(status.message(), "context deadline exceeded");
    }

    #[tokio::test]
    async fn an_answer_that_ends_by_itself_is_left_alone() {
        let stop = watch::Sender::new(false);
        let whole = Body::new(http_body_util::Full::new(Bytes::from_static(b"x")));
        let body = end_on_shutdown(Response::new(whole), stop.subscribe()).into_body();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "x");
    }
}
