//! Answers that are encoded already, in pieces.
//!
//! A stored record is the encoded `mvccpb.KeyValue`, so a range's answer is a few header bytes and
//! the records from the block cache; nothing is decoded or encoded again.

use bytes::Bytes;
use prost::Message;

use crate::unread::ListPermit;

/// An encoded message in pieces, sent one after the other.
#[derive(Debug, Default)]
pub(crate) struct EncodedMessage {
    pub(crate) pieces: Vec<Bytes>,
    /// The permit of a list, kept until the last piece is sent.
    pub(crate) permit: Option<ListPermit>,
}

impl EncodedMessage {
    pub(crate) fn of(message: &impl Message) -> Self {
        message.encode_to_vec().into()
    }

    pub(crate) fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }
}

impl From<Vec<Bytes>> for EncodedMessage {
    fn from(pieces: Vec<Bytes>) -> Self {
        Self { pieces, permit: None }
    }
}

impl From<Vec<u8>> for EncodedMessage {
    fn from(bytes: Vec<u8>) -> Self {
        vec![Bytes::from(bytes)].into()
    }
}

/// The answer of a handler: a message, encoded or not.
pub(crate) trait Answer: Send + 'static {
    /// The bytes of the answer.
    fn encoded(self) -> EncodedMessage;
}

impl<M: Message + 'static> Answer for M {
    fn encoded(self) -> EncodedMessage {
        EncodedMessage::of(&self)
    }
}

impl Answer for EncodedMessage {
    fn encoded(self) -> EncodedMessage {
        self
    }
}
