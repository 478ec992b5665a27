//! Receives the messages of a request: gRPC's framing and compression.
//!
//! Memory grows with the bytes that came, whatever length was announced, and a message that is not
//! whole is counted (`unfinished`).

use std::future::poll_fn;
use std::io::{self, Read};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::bufread::MultiGzDecoder;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prost::Message;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use crate::unfinished::{Held, REQUEST_BYTES, ROOM_TIMEOUT, Share, full};

/// Go's error for a text field that is no text.
const NO_TEXT: &str = "string field contains invalid UTF-8";
/// Go's error for all other bytes that are no message.
const NO_MESSAGE: &str = "proto: cannot parse invalid wire-format data";
/// The length of a message's prefix: whether it is compressed, and its length.
pub(crate) const PREFIX_BYTES: usize = 5;

/// Messages of which more than this has come are large: they are counted in steps of `AHEAD_BYTES`.
const LARGE_BYTES: usize = 16 * 1024;
const AHEAD_BYTES: usize = 64 * 1024;

/// BOUND: time and bytes for which the end of a request is waited for once its message has come.
const END_WAIT: Duration = Duration::from_secs(1);
const END_BYTES_MAX: usize = 64 * 1024;

/// The number of messages that go each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Unary,
    ServerStream,
    Bidi,
}

impl Kind {
    /// The name in metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ServerStream => "server_stream",
            Self::Bidi => "bidi_stream",
        }
    }
}

/// The compression of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
}

impl Encoding {
    /// The encoding of a request. Answers use the same one, as grpc-go's do.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Status> {
        let Some(encoding) = headers.get("grpc-encoding") else { return Ok(Self::Identity) };
        match encoding.as_bytes() {
            b"" | b"identity" => Ok(Self::Identity),
            b"gzip" => Ok(Self::Gzip),
            other => Err(Status::unimplemented(format!(
                "grpc: Decompressor is not installed for grpc-encoding \"{}\"",
                String::from_utf8_lossy(other)
            ))),
        }
    }
}

/// The messages of one request.
#[derive(Debug)]
pub(crate) struct Messages<B> {
    body: B,
    kind: Kind,
    encoding: Encoding,
    bytes_max: usize,
    /// Bytes that came and do not make a whole message yet.
    received: BytesMut,
    held: Held,
    /// The time until which it may wait for room while it is read on.
    wait_until: Option<Instant>,
}

/// The next frame of a body.
type NextFrame<B> = Option<Result<Frame<Bytes>, <B as http_body::Body>::Error>>;

impl<B> Messages<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    pub(crate) fn new(
        body: B,
        kind: Kind,
        encoding: Encoding,
        bytes_max: usize,
        share: Arc<Share>,
    ) -> Self {
        let (received, held) = (BytesMut::new(), Held::new(share));
        Self { body, kind, encoding, bytes_max, received, held, wait_until: None }
    }

    /// The message of a call that takes one. Anything that follows it is ignored, as in grpc-go.
    pub(crate) async fn one<R: Message + Default>(mut self) -> Result<R, Status> {
        decode(self.required().await?, self.kind)
    }

    /// The next message, decompressed; `None` after the last.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.take()? {
                self.held.release();
                self.wait_until = None;
                return Ok(Some(message));
            }
            if self.received.len() > LARGE_BYTES {
                self.count().await?;
            }
            match self.frame().await? {
                Some(data) if self.received.is_empty() => self.received = BytesMut::from(&data[..]),
                Some(data) => self.received.put_slice(&data),
                None if self.received.len() < PREFIX_BYTES => return Ok(None),
                None if self.kind == Kind::Unary => {
                    return Err(Status::unknown("unexpected EOF"));
                }
                None => return Err(Status::internal("unexpected EOF")),
            }
        }
    }

    async fn required(&mut self) -> Result<Bytes, Status> {
        let message = self.next().await?;
        message.ok_or_else(|| match self.kind {
            Kind::Unary => Status::unknown("EOF"),
            Kind::ServerStream | Kind::Bidi => Status::internal(
                "cardinality violation: received no request message from non-client-streaming RPC",
            ),
        })
    }

    /// Counts the bytes of an unfinished message, and the request itself.
    async fn count(&mut self) -> Result<(), Status> {
        let more = self.uncounted();
        if more == 0 {
            return Ok(());
        }
        // A large message is counted ahead, so that it waits less often.
        let ahead = if self.received.len() > LARGE_BYTES { AHEAD_BYTES } else { 0 };
        self.held.add(more + ahead).await
    }

    /// Bytes that are not counted yet.
    fn uncounted(&self) -> usize {
        (REQUEST_BYTES + self.received.len()).saturating_sub(self.held.bytes())
    }

    /// Waits for the next bytes of a request that is small so far, and meanwhile for room to count it,
    /// so that small requests come through whatever others hold. `None` once it is counted.
    async fn frame_of_small(&mut self) -> Result<Option<NextFrame<B>>, Status> {
        let more = self.uncounted();
        if more == 0 || self.held.try_add(more) {
            return Ok(None);
        }
        let share = Arc::clone(self.held.share());
        let _place = share.wait_small()?;
        let until = *self.wait_until.get_or_insert_with(|| Instant::now() + ROOM_TIMEOUT);
        tokio::select! {
            biased;
            frame = self.body.frame() => Ok(Some(frame)),
            counted = timeout_at(until, self.held.wait(more)) => {
                counted.unwrap_or_else(|_elapsed| Err(full())).map(|()| None)
            }
        }
    }

    /// The next bytes; `None` at the end.
    async fn frame(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            // Most requests are here already, and nothing is counted for them.
            let ready = poll_fn(|task| Poll::Ready(Pin::new(&mut self.body).poll_frame(task)));
            let frame = match ready.await {
                Poll::Ready(frame) => frame,
                Poll::Pending if self.kind == Kind::Bidi && self.received.is_empty() => {
                    self.body.frame().await
                }
                Poll::Pending if self.received.len() <= LARGE_BYTES && self.uncounted() > 0 => {
                    match self.frame_of_small().await? {
                        Some(frame) => frame,
                        None => continue,
                    }
                }
                Poll::Pending => {
                    self.count().await?;
                    let share = Arc::clone(self.held.share());
                    tokio::select! {
                        biased;
                        frame = self.body.frame() => frame,
                        evicted = share.evicted() => return Err(evicted),
                    }
                }
            };
            let Some(frame) = frame else { return Ok(None) };
            // Trailers of a request have no meaning in gRPC.
            if let Ok(data) = frame.map_err(interrupted)?.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// Takes a message out of the received bytes, if it is whole.
    fn take(&mut self) -> Result<Option<Bytes>, Status> {
        let &[flag, a, b, c, d, ..] = &self.received[..] else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > self.bytes_max {
            return Err(Status::resource_exhausted(format!(
                "grpc: received message larger than max ({length} vs. {})",
                self.bytes_max
            )));
        }
        if self.received.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        self.received.advance(PREFIX_BYTES);
        let message = self.received.split_to(length).freeze();
        match flag {
            0 => Ok(Some(message)),
            1 if self.encoding == Encoding::Gzip => inflate(&message, self.bytes_max).map(Some),
            1 => {
                let text = "grpc: compressed flag set with identity or empty encoding";
                Err(Status::internal(text))
            }
            other => {
                let text = format!("grpc: received unexpected payload format {other}");
                Err(Status::internal(text))
            }
        }
    }
}

/// The messages of a call that may send many.
#[derive(Debug)]
pub(crate) struct Requests<R> {
    messages: Messages<Incoming>,
    request: PhantomData<fn() -> R>,
}

impl<R: Message + Default> Requests<R> {
    pub(crate) const fn new(messages: Messages<Incoming>) -> Self {
        Self { messages, request: PhantomData }
    }

    /// The next message; `None` when the client sends no more. After an error nothing can be read.
    pub(crate) async fn next(&mut self) -> Result<Option<R>, Status> {
        let message = self.messages.next().await?;
        message.map(|message| decode(message, Kind::Bidi)).transpose()
    }
}

/// Waits for the end of a request that is to be answered; what comes before it is ignored.
///
/// Some clients send the end in a frame of its own. The stream of a request that is answered before it
/// has ended is reset, and the library ends a connection on which many frames come for streams that it
/// has reset and forgotten.
pub(crate) async fn wait_for_end<B>(body: &mut B)
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    if body.is_end_stream() {
        return;
    }
    let until = Instant::now() + END_WAIT;
    let mut ignored = 0;
    while ignored <= END_BYTES_MAX
        && let Ok(Some(Ok(frame))) = timeout_at(until, body.frame()).await
    {
        ignored += frame.data_ref().map_or(0, Bytes::len);
    }
}

/// Decodes a message; a malformed one is refused in grpc-go's words.
fn decode<R: Message + Default>(message: Bytes, kind: Kind) -> Result<R, Status> {
    R::decode(message).map_err(|error| {
        // prost tells kinds of errors apart in its text only.
        let reason = if error.to_string().contains("UTF-8") { NO_TEXT } else { NO_MESSAGE };
        let step = match kind {
            Kind::Unary => "error unmarshalling request",
            Kind::ServerStream | Kind::Bidi => "failed to unmarshal the received message",
        };
        Status::internal(format!("grpc: {step}: {reason}"))
    })
}

fn interrupted<E>(_gone: E) -> Status {
    Status::cancelled("context canceled")
}

/// Inflates a message; one that grows beyond `bytes_max` is refused without being inflated further.
fn inflate(compressed: &[u8], bytes_max: usize) -> Result<Bytes, Status> {
    let mut message = Vec::new();
    let mut reader = MultiGzDecoder::new(compressed);
    let read = reader.by_ref().take(bytes_max as u64 + 1).read_to_end(&mut message);
    if let Err(error) = read {
        let step = if reader.header().is_some() {
            "grpc: failed to read decompressed data"
        } else {
            "grpc: failed to decompress the message"
        };
        let reason = if error.kind() != io::ErrorKind::UnexpectedEof {
            format!("gzip: {error}")
        } else if compressed.is_empty() {
            "EOF".to_owned()
        } else {
            "unexpected EOF".to_owned()
        };
        return Err(Status::internal(format!("{step}: {reason}")));
    }
    if message.len() > bytes_max {
        return Err(Status::resource_exhausted(format!(
            "grpc: received message after decompression larger than max {bytes_max}"
        )));
    }
    Ok(message.into())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use futures_util::stream;
    use http_body_util::{Full, StreamBody};
    use keepd_api::etcdserverpb::PutRequest;
    use keepd_api::health::HealthCheckRequest;
    use tonic::Code;

    use super::*;
    use crate::peer::Peer;
    use crate::unfinished::Unfinished;

    const BYTES_MAX: usize = 1000;

    fn put() -> PutRequest {
        PutRequest { key: "key".into(), value: "value".into(), ..PutRequest::default() }
    }

    fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
        let mut bytes = vec![flag];
        bytes.put_u32(u32::try_from(message.len()).unwrap());
        bytes.extend_from_slice(message);
        bytes
    }

    fn encoded(message: &PutRequest) -> Vec<u8> {
        framed(0, &message.encode_to_vec())
    }

    fn zipped(message: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(message).unwrap();
        encoder.finish().unwrap()
    }

    fn messages<B>(body: B, kind: Kind) -> Messages<B>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let share = Unfinished::new(BYTES_MAX).share(Peer::default());
        Messages::new(body, kind, Encoding::Gzip, BYTES_MAX, share)
    }

    async fn receive(bytes: &[u8]) -> Result<PutRequest, Status> {
        messages(Full::new(Bytes::copy_from_slice(bytes)), Kind::Unary).one().await
    }

    #[tokio::test]
    async fn a_message_may_come_in_any_pieces() {
        let bytes = encoded(&put());
        assert_eq!(receive(&bytes).await.unwrap(), put());
        for cut in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            let pieces = [head, tail].map(|it| Frame::data(Bytes::copy_from_slice(it)));
            let body = StreamBody::new(stream::iter(pieces.map(Ok::<_, Infallible>)));
            let received: PutRequest = messages(body, Kind::Unary).one().await.unwrap();
            assert_eq!(received, put(), "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused_and_what_follows_one_ignored() {
        let whole = encoded(&put());
        assert_eq!(receive(&[whole.clone(), whole.clone()].concat()).await.unwrap(), put());
        assert_eq!(receive(&[&whole[..], b"more"].concat()).await.unwrap(), put());
        let long = PutRequest { value: vec![0; BYTES_MAX].into(), ..put() };
        for (bytes, code) in [
            (whole[..whole.len() - 1].to_vec(), Code::Unknown),
            (whole[..3].to_vec(), Code::Unknown),
            (Vec::new(), Code::Unknown),
            ([&[1], &whole[1..]].concat(), Code::Internal),
            ([&[2], &whole[1..]].concat(), Code::Internal),
            (framed(0, &[0xff]), Code::Internal),
            (encoded(&long), Code::ResourceExhausted),
            // Its length alone is enough to refuse it.
            (encoded(&long)[..5].to_vec(), Code::ResourceExhausted),
        ] {
            let status = receive(&bytes).await.unwrap_err();
            assert_eq!(status.code(), code, "{bytes:x?}: {status}");
        }
    }

    #[test]
    fn what_does_not_decode_is_refused_in_the_words_of_grpc_go() {
        let told = |message: &'static [u8], kind| {
            let status = decode::<HealthCheckRequest>(message.into(), kind).unwrap_err();
            assert_eq!(status.code(), Code::Internal);
            status.message().to_owned()
        };
        let text = "grpc: error unmarshalling request: string field contains invalid UTF-8";
        assert_eq!(told(b"\x0a\x01\xff", Kind::Unary), text);
        let text =
            "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data";
        assert_eq!(told(b"\xff", Kind::Unary), text);
        let text = "grpc: failed to unmarshal the received message: proto: cannot parse invalid \
                    wire-format data";
        assert_eq!(told(b"\x0a\x02\xff", Kind::ServerStream), text);
        assert_eq!(told(b"\x0f", Kind::Bidi), text);
    }

    #[tokio::test]
    async fn compressed_messages_are_inflated_up_to_the_limit() {
        let compressed = zipped(&put().encode_to_vec());
        assert_eq!(receive(&framed(1, &compressed)).await.unwrap(), put());
        let bomb = framed(1, &zipped(&vec![0; 100 * BYTES_MAX]));
        assert!(bomb.len() < BYTES_MAX);
        assert_eq!(receive(&bomb).await.unwrap_err().code(), Code::ResourceExhausted);
        for cut in 0..compressed.len() {
            let status = receive(&framed(1, &compressed[..cut])).await.unwrap_err();
            assert_eq!(status.code(), Code::Internal, "cut at {cut}");
        }
        let mut damaged = compressed.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(receive(&framed(1, &damaged)).await.unwrap_err().code(), Code::Internal);
    }

    #[tokio::test]
    async fn a_stream_of_messages_may_come_in_any_pieces() {
        let bytes = [encoded(&put()), framed(1, &zipped(&put().encode_to_vec()))].concat();
        let pieces: Vec<_> = bytes
            .chunks(3)
            .map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(piece))))
            .collect();
        let mut messages = messages(StreamBody::new(stream::iter(pieces)), Kind::Bidi);
        for _ in 0..2 {
            assert_eq!(messages.next().await.unwrap().unwrap(), put().encode_to_vec());
        }
        assert_eq!(messages.next().await.unwrap(), None);
    }

    /// Memory follows what came, and is counted while the message is not whole.
    #[tokio::test]
    async fn an_announced_length_reserves_nothing() {
        let all = Unfinished::new(1 << 20);
        let pieces = vec![Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"\0\0\x0f\0\0abc")))];
        let body = StreamBody::new(Box::pin(futures_util::StreamExt::chain(
            stream::iter(pieces),
            stream::pending(),
        )));
        let mut messages = Messages::new(
            body,
            Kind::Unary,
            Encoding::Identity,
            1 << 20,
            all.share(Peer::default()),
        );
        let waiting = messages.next();
        assert!(tokio::time::timeout(Duration::ZERO, waiting).await.is_err());
        assert_eq!(messages.held.bytes(), REQUEST_BYTES + 8);
        assert!(messages.received.capacity() < 100);
    }
}
