//! gRPC's framing for the hot methods: one message in, pieces of encoded bytes out.
//!
//! tonic's own would copy an answer into one buffer before it is sent, which for a list is most of
//! what remains to be done. Here the pieces go to HTTP/2 as they are. Compression is not offered,
//! as in etcd.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::Stream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use prost::Message;
use tonic::Status;
use tonic::body::Body;

use crate::codec::Payload;
use crate::metrics::Counted;

/// Before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
/// Answers up to this size are sent as one piece, with one frame.
const JOINED_BYTES_MAX: usize = 16 * 1024;

/// Receives the message of a call that has one.
pub(crate) async fn receive<R, B>(request: Request<B>, bytes_max: usize) -> Result<R, Status>
where
    R: Message + Default,
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let encoding = request.headers().get("grpc-encoding").filter(|it| *it != "identity");
    if let Some(encoding) = encoding {
        let encoding = encoding.to_str().unwrap_or_default();
        let text = format!("grpc: Decompressor is not installed for grpc-encoding \"{encoding}\"");
        return Err(Status::unimplemented(text));
    }
    let mut body = request.into_body();
    let mut received = BytesMut::new();
    let mut expected = None;
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
        let Ok(data) = frame.map_err(interrupted)?.into_data() else { continue };
        if expected.is_none() && received.is_empty() && data.len() > PREFIX_BYTES {
            // Nearly always this is all, and a buffer of its size is enough.
            received.reserve(data.len());
        }
        received.put_slice(&data);
        if expected.is_none() && received.len() >= PREFIX_BYTES {
            let length = message_len(&received, bytes_max)?;
            received.reserve((PREFIX_BYTES + length).saturating_sub(received.len()));
            expected = Some(PREFIX_BYTES + length);
        }
        if expected.is_some_and(|expected| received.len() > expected) {
            return Err(Status::internal("keepd: more than one message in a call that takes one"));
        }
    }
    if expected != Some(received.len()) {
        return Err(Status::internal("keepd: the call ended before its message was complete"));
    }
    R::decode(received.split_off(PREFIX_BYTES).freeze()).map_err(|error| {
        Status::internal(format!("grpc: failed to unmarshal the received message: {error}"))
    })
}

fn interrupted<E>(_gone: E) -> Status {
    Status::cancelled("context canceled")
}

/// The length of the message behind a prefix.
fn message_len(prefix: &[u8], bytes_max: usize) -> Result<usize, Status> {
    let &[flag, a, b, c, d, ..] = prefix else {
        return Err(Status::internal("keepd: a message without its length"));
    };
    if flag != 0 {
        let text = "grpc: compressed flag set with identity or empty encoding";
        return Err(Status::internal(text));
    }
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > bytes_max {
        return Err(Status::resource_exhausted(format!(
            "grpc: received message larger than max ({length} vs. {bytes_max})"
        )));
    }
    Ok(length)
}

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

/// Answers a unary call.
pub(crate) fn answer(result: Result<Payload, Status>) -> Response<Body> {
    match result {
        Ok(payload) => {
            let mut frames = VecDeque::new();
            frame(payload, &mut frames);
            respond(Whole { frames, trailers: Some(trailers(&Status::ok(""))) })
        }
        Err(status) => status.into_http(),
    }
}

/// Answers a call with a stream of messages; `counted` ends with it.
pub(crate) fn answer_stream<S>(result: Result<S, Status>, counted: Counted) -> Response<Body>
where
    S: Stream<Item = Result<Payload, Status>> + Unpin + Send + 'static,
{
    match result {
        Ok(messages) => {
            respond(Streamed { messages, counted: Some(counted), frames: VecDeque::new() })
        }
        Err(status) => {
            counted.finish(status.code());
            status.into_http()
        }
    }
}

fn respond<B>(body: B) -> Response<Body>
where
    B: http_body::Body<Data = Bytes, Error = Status> + Send + 'static,
{
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// Puts a message behind its prefix.
fn frame(payload: Payload, frames: &mut VecDeque<Bytes>) {
    let length = payload.len();
    let joined = if length <= JOINED_BYTES_MAX { length } else { 0 };
    let mut first = BytesMut::with_capacity(PREFIX_BYTES + joined);
    first.put_u8(0);
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

/// The answer to a unary call.
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
                    frame(payload, &mut this.frames);
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
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use futures_util::stream;
    use http_body_util::{Full, StreamBody};
    use keepd_api::etcdserverpb::PutRequest;
    use tonic::Code;

    use super::*;
    use crate::metrics::RpcMetrics;

    const BYTES_MAX: usize = 1000;

    fn put() -> PutRequest {
        PutRequest { key: "key".into(), value: "value".into(), ..PutRequest::default() }
    }

    fn encoded(message: &PutRequest) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.put_u32(u32::try_from(message.encoded_len()).unwrap());
        message.encode(&mut bytes).unwrap();
        bytes
    }

    async fn receive_bytes(bytes: &[u8]) -> Result<PutRequest, Status> {
        let body = Full::new(Bytes::copy_from_slice(bytes));
        receive(Request::new(body), BYTES_MAX).await
    }

    #[tokio::test]
    async fn a_message_may_come_in_any_pieces() {
        let bytes = encoded(&put());
        assert_eq!(receive_bytes(&bytes).await.unwrap(), put());
        for cut in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            let pieces = [head, tail].map(|it| Frame::data(Bytes::copy_from_slice(it)));
            let body = StreamBody::new(stream::iter(pieces.map(Ok::<_, Infallible>)));
            let received: PutRequest = receive(Request::new(body), BYTES_MAX).await.unwrap();
            assert_eq!(received, put(), "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn what_is_not_one_message_is_refused() {
        let whole = encoded(&put());
        let long = PutRequest { value: vec![0; BYTES_MAX].into(), ..put() };
        let garbage = [0, 0, 0, 0, 1, 0xff];
        let cases = [
            (whole[..whole.len() - 1].to_vec(), Code::Internal),
            (whole[..3].to_vec(), Code::Internal),
            (Vec::new(), Code::Internal),
            ([whole.clone(), whole.clone()].concat(), Code::Internal),
            ([&[1], &whole[1..]].concat(), Code::Internal),
            (garbage.to_vec(), Code::Internal),
            (encoded(&long), Code::ResourceExhausted),
            // Its length alone is enough to refuse it.
            (encoded(&long)[..5].to_vec(), Code::ResourceExhausted),
        ];
        for (number, (bytes, code)) in cases.into_iter().enumerate() {
            let status = receive_bytes(&bytes).await.unwrap_err();
            assert_eq!(status.code(), code, "case {number}: {status}");
        }
        let body = Full::new(Bytes::from(whole));
        let request = Request::builder().header("grpc-encoding", "gzip").body(body).unwrap();
        let status = receive::<PutRequest, _>(request, BYTES_MAX).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
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
        let (data, code) = read(answer(Ok(small))).await;
        assert_eq!((data, code), (vec![Bytes::from_static(b"\0\0\0\0\x03abc")], Code::Ok));

        let large = Bytes::from(vec![7; JOINED_BYTES_MAX + 1]);
        let payload = Payload { pieces: vec![large.clone()] };
        let (data, _) = read(answer(Ok(payload))).await;
        assert_eq!(data[0].as_ref(), [0, 0, 0, 0x40, 1]);
        assert_eq!(data[1].as_ptr(), large.as_ptr());
    }

    #[tokio::test]
    async fn a_stream_counts_when_it_ends() {
        let metrics = RpcMetrics::default();
        let method = metrics.method("/etcdserverpb.KV/RangeStream").unwrap();
        let handled = |code: Code| method.handled[code as usize].load(Ordering::Relaxed);
        let messages = || vec![Ok(Payload::default()), Err(Status::aborted("given up"))];

        let call = Counted::start(Arc::clone(&method));
        let response = answer_stream(Ok(stream::iter(messages())), call);
        assert_eq!(handled(Code::Aborted), 0);
        let (data, code) = read(response).await;
        assert_eq!((data, code), (vec![Bytes::from_static(&[0; 5])], Code::Aborted));
        assert_eq!(handled(Code::Aborted), 1);

        let call = Counted::start(Arc::clone(&method));
        drop(answer_stream(Ok(stream::iter(messages())), call));
        assert_eq!(handled(Code::Cancelled), 1, "its client went away");
    }
}
