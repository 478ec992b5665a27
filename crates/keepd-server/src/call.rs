//! gRPC's framing of answers for the hot methods: pieces of encoded bytes go out.
//!
//! tonic's own would copy an answer into one buffer before it is sent, which for a list is most of
//! what remains to be done. Here the pieces go to HTTP/2 as they are. Whoever compresses a request
//! gets a compressed answer, as from grpc-go.

use std::collections::VecDeque;
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::Stream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response};
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;

use crate::codec::Payload;
use crate::errors;
use crate::message::{Encoding, PREFIX_BYTES};
use crate::metrics::Counted;
use crate::unread::{Large, Turn, Unread};

/// Answers up to this size are sent as one piece, with one frame.
const JOINED_BYTES_MAX: usize = 16 * 1024;

/// Refuses what no client of gRPC takes, in grpc-go's words.
pub(crate) fn sendable(payload: Payload) -> Result<Payload, Status> {
    let (bytes, bytes_max) = (payload.len(), i32::MAX as usize);
    if bytes > bytes_max {
        return Err(Status::resource_exhausted(format!(
            "grpc: trying to send message larger than max ({bytes} vs. {bytes_max})"
        )));
    }
    Ok(payload)
}

/// Compresses an answer to a compressed request, a large one where that holds nobody up.
pub(crate) async fn compressed(payload: Payload, encoding: Encoding) -> Result<Payload, Status> {
    match encoding {
        Encoding::Identity => Ok(payload),
        Encoding::Gzip if payload.len() <= JOINED_BYTES_MAX => Ok(gzip(&payload)),
        Encoding::Gzip => {
            tokio::task::spawn_blocking(move || gzip(&payload)).await.map_err(errors::task)
        }
    }
}

fn gzip(payload: &Payload) -> Payload {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let written = payload.pieces.iter().try_for_each(|piece| encoder.write_all(piece));
    written.and_then(|()| encoder.finish()).expect("a vector takes everything").into()
}

/// Answers a unary call; what is compressed is so in `encoding`.
pub(crate) fn answer(
    result: Result<Payload, Status>,
    encoding: Encoding,
    unread: &Arc<Unread>,
    turn: Option<Turn>,
) -> Response<Body> {
    match result {
        Ok(payload) => {
            let (mut frames, trailers) = (VecDeque::new(), trailers(&Status::ok("")));
            frame(payload, encoding, &mut frames);
            if frames.len() > 1 {
                return respond(Large::new(frames, trailers, unread, turn), encoding);
            }
            respond(Whole { frames, trailers: Some(trailers) }, encoding)
        }
        Err(status) => status.into_http(),
    }
}

/// Answers a call with a stream of messages; `counted` ends with it.
pub(crate) fn answer_stream<S>(
    result: Result<S, Status>,
    encoding: Encoding,
    counted: Counted,
) -> Response<Body>
where
    S: Stream<Item = Result<Payload, Status>> + Unpin + Send + 'static,
{
    match result {
        Ok(messages) => {
            let (counted, frames) = (Some(counted), VecDeque::new());
            respond(Streamed { messages, encoding, counted, frames }, encoding)
        }
        Err(status) => {
            counted.finish(status.code());
            status.into_http()
        }
    }
}

fn respond<B>(body: B, encoding: Encoding) -> Response<Body>
where
    B: http_body::Body<Data = Bytes, Error = Status> + Send + 'static,
{
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if encoding == Encoding::Gzip {
        headers.insert("grpc-encoding", HeaderValue::from_static("gzip"));
    }
    response
}

/// Puts a message behind its prefix.
fn frame(payload: Payload, encoding: Encoding, frames: &mut VecDeque<Bytes>) {
    let length = payload.len();
    let joined = if length <= JOINED_BYTES_MAX { length } else { 0 };
    let mut first = BytesMut::with_capacity(PREFIX_BYTES + joined);
    first.put_u8(u8::from(encoding == Encoding::Gzip));
    first.put_u32(u32::try_from(length).expect("an answer is `sendable`, a chunk far smaller"));
    if joined > 0 {
        payload.pieces.iter().for_each(|piece| first.put_slice(piece));
        frames.push_back(first.freeze());
    } else {
        frames.push_back(first.freeze());
        frames.extend(payload.pieces.into_iter().filter(|piece| !piece.is_empty()));
    }
}

/// The end of an answer.
pub(crate) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(3);
    if status.add_header(&mut trailers).is_err() {
        // Only a text that cannot be a header gets here.
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from(status.code() as i32));
    }
    trailers
}

/// The small answer to a unary call.
struct Whole {
    frames: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
}

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(frame) = self.frames.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.trailers.is_none()
    }
}

/// The answer to a call for a stream.
struct Streamed<S> {
    messages: S,
    encoding: Encoding,
    /// `None` once the stream has ended.
    counted: Option<Counted>,
    frames: VecDeque<Bytes>,
}

impl<S> http_body::Body for Streamed<S>
where
    S: Stream<Item = Result<Payload, Status>> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        loop {
            if let Some(frame) = this.frames.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(frame))));
            }
            if this.counted.is_none() {
                return Poll::Ready(None);
            }
            let status = match ready!(Pin::new(&mut this.messages).poll_next(task)) {
                Some(Ok(payload)) => {
                    let payload = match this.encoding {
                        Encoding::Identity => payload,
                        Encoding::Gzip => gzip(&payload),
                    };
                    frame(payload, this.encoding, &mut this.frames);
                    continue;
                }
                Some(Err(status)) => status,
                None => Status::ok(""),
            };
            if let Some(counted) = this.counted.take() {
                counted.finish(status.code());
            }
            return Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.counted.is_none()
    }
}

/// Counts a call that tonic answers when its answer ends.
pub(crate) fn count(response: Response<Body>, counted: Counted) -> Response<Body> {
    if let Some(code) = response.headers().get(Status::GRPC_STATUS) {
        counted.finish(tonic::Code::from_bytes(code.as_bytes()));
        return response;
    }
    response.map(|body| Body::new(CountedBody { body, counted: Some(counted) }))
}

struct CountedBody {
    body: Body,
    counted: Option<Counted>,
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(task));
        let trailers = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.trailers_ref());
        if let Some(code) = trailers.and_then(|trailers| trailers.get(Status::GRPC_STATUS))
            && let Some(counted) = self.counted.take()
        {
            counted.finish(tonic::Code::from_bytes(code.as_bytes()));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::atomic::Ordering;

    use futures_util::stream;
    use http_body_util::BodyExt;
    use tonic::Code;

    use super::*;
    use crate::metrics::RpcMetrics;

    fn answered(payload: Payload, encoding: Encoding) -> Response<Body> {
        answer(Ok(payload), encoding, &Arc::default(), None)
    }

    /// Data frames, and the status in the trailers.
    async fn read(response: Response<Body>) -> (Vec<Bytes>, Code) {
        let (mut body, mut data) = (response.into_body(), Vec::new());
        while let Some(frame) = body.frame().await {
            match frame.unwrap().into_data() {
                Ok(bytes) => data.push(bytes),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap();
                    let status = Status::from_header_map(&trailers).unwrap();
                    return (data, status.code());
                }
            }
        }
        panic!("no trailers");
    }

    #[tokio::test]
    async fn small_answers_are_one_frame_and_large_ones_are_not_copied() {
        let small = Payload { pieces: vec!["ab".into(), "c".into()] };
        let (data, code) = read(answered(small, Encoding::Identity)).await;
        assert_eq!((data, code), (vec![Bytes::from_static(b"\0\0\0\0\x03abc")], Code::Ok));

        let large = Bytes::from(vec![7; JOINED_BYTES_MAX + 1]);
        let payload = Payload { pieces: vec![large.clone()] };
        let (data, _) = read(answered(payload, Encoding::Identity)).await;
        assert_eq!(data[0].as_ref(), [0, 0, 0, 0x40, 1]);
        assert_eq!(data[1].as_ptr(), large.as_ptr(), "nothing is copied");
    }

    #[tokio::test]
    async fn a_compressed_answer_is_the_same_one() {
        for length in [0, 10, JOINED_BYTES_MAX * 10] {
            let plain = Bytes::from(vec![7; length]);
            let payload =
                Payload { pieces: vec![plain.slice(..length / 2), plain.slice(length / 2..)] };
            let payload = compressed(payload, Encoding::Gzip).await.unwrap();
            let response = answered(payload, Encoding::Gzip);
            assert_eq!(response.headers()["grpc-encoding"], "gzip");
            let (data, _) = read(response).await;
            let framed = data.concat();
            assert_eq!(framed[0], 1);
            let mut inflated = Vec::new();
            let compressed = &framed[PREFIX_BYTES..];
            flate2::read::GzDecoder::new(compressed).read_to_end(&mut inflated).unwrap();
            assert_eq!(inflated, plain);
        }
    }

    #[tokio::test]
    async fn a_stream_counts_when_it_ends() {
        let metrics = RpcMetrics::default();
        let method = metrics.method("/etcdserverpb.KV/RangeStream").unwrap();
        let handled = |code: Code| method.handled[code as usize].load(Ordering::Relaxed);
        let messages = || vec![Ok(Payload::default()), Err(Status::aborted("given up"))];

        let call = Counted::start(Arc::clone(&method));
        let response = answer_stream(Ok(stream::iter(messages())), Encoding::Identity, call);
        assert_eq!(handled(Code::Aborted), 0);
        let (data, code) = read(response).await;
        assert_eq!((data, code), (vec![Bytes::from_static(&[0; 5])], Code::Aborted));
        assert_eq!(handled(Code::Aborted), 1);

        let call = Counted::start(Arc::clone(&method));
        drop(answer_stream(Ok(stream::iter(messages())), Encoding::Identity, call));
        assert_eq!(handled(Code::Cancelled), 1, "its client went away");
    }
}
