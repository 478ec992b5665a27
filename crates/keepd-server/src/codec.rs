//! Messages of the hot methods: answers are bytes that are encoded already.
//!
//! A stored record is the encoded `mvccpb.KeyValue`, so a range's answer is a few header bytes and
//! the records as they lie in the block cache; nothing is decoded or encoded again.

use std::marker::PhantomData;

use bytes::Bytes;
use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder};

use crate::message::NO_MESSAGE;

/// The first size of a message's buffer.
const BUFFER_BYTES: usize = 512;
/// Encoded bytes of a stream that are sent together.
const YIELD_BYTES: usize = 32 * 1024;

/// An encoded message in pieces, sent one after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Payload {
    pub(crate) pieces: Vec<Bytes>,
}

impl Payload {
    pub(crate) fn of(message: &impl Message) -> Self {
        Self { pieces: vec![message.encode_to_vec().into()] }
    }

    pub(crate) fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self { pieces: vec![bytes.into()] }
    }
}

/// Decodes the messages of a stream.
#[derive(Debug)]
pub(crate) struct RequestDecoder<Request>(PhantomData<Request>);

impl<Request> Default for RequestDecoder<Request> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Request: Message + Default> Decoder for RequestDecoder<Request> {
    type Item = Request;
    type Error = Status;

    /// Most requests are small; a large one grows the buffer once its length is known.
    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
    }

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Request>, Status> {
        Request::decode(bytes).map(Some).map_err(|_whatever| {
            let text = "grpc: failed to unmarshal the received message";
            Status::internal(format!("{text}: {NO_MESSAGE}"))
        })
    }
}
