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
use hyper::body::{Body as _, Incoming};
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
pub(crate) async fn receive<R: Message + Default>(
    request: Request<Incoming>,
    bytes_max: usize,
) -> Result<R, Status> {
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

fn interrupted(_gone: hyper::Error) -> Status {
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
pub(crate) fn answer_stream<S>(messages: S, counted: Counted) -> Response<Body>
where
    S: Stream<Item = Result<Payload, Status>> + Unpin + Send + 'static,
{
    respond(Streamed { messages, counted: Some(counted), frames: VecDeque::new() })
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
    // BOUND: an answer is made of records in memory; 4 GiB of them are refused by every client.
    first.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    if joined > 0 {
        payload.pieces.iter().for_each(|piece| first.put_slice(piece));
        frames.push_back(first.freeze());
    } else {
        frames.push_back(first.freeze());
        frames.extend(payload.pieces.into_iter().filter(|piece| !piece.is_empty()));
    }
}

fn trailers(status: &Status) -> HeaderMap {
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
