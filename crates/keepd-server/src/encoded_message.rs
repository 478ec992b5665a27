//! Answers that are encoded already, in pieces.
//!
//! A stored record is the encoded `mvccpb.KeyValue`, so a range's answer is a few header bytes and
//! the records from the block cache; nothing is decoded or encoded again.

use bytes::Bytes;
use futures_util::StreamExt as _;
use prost::Message;
use tonic::Status;

use crate::response_stream::Receiver;
use crate::unread::ListPermit;

/// An encoded message in pieces, sent one after the other.
#[derive(Debug, Default)]
pub(crate) struct EncodedMessage {
    pub(crate) pieces: Vec<Bytes>,
    /// The permit of a list, kept until the last piece is sent.
    pub(crate) permit: Option<ListPermit>,
    /// The end of a long list, which is made while it is sent.
    pub(crate) later: Option<Later>,
}

/// Parts of a message that come later.
#[derive(Debug)]
pub(crate) struct Later {
    /// Their bytes: a message begins with its length.
    pub(crate) bytes: usize,
    pub(crate) parts: Receiver<Vec<Bytes>>,
}

impl EncodedMessage {
    pub(crate) fn of(message: &impl Message) -> Self {
        message.encode_to_vec().into()
    }

    pub(crate) fn len(&self) -> usize {
        let later = self.later.as_ref().map_or(0, |later| later.bytes);
        self.pieces.iter().map(Bytes::len).sum::<usize>() + later
    }

    /// The same message with all that comes later.
    pub(crate) async fn whole(mut self) -> Result<Self, Status> {
        if let Some(mut later) = self.later.take() {
            while let Some(part) = later.parts.next().await {
                self.pieces.extend(part?);
            }
        }
        Ok(self)
    }
}

impl From<Vec<Bytes>> for EncodedMessage {
    fn from(pieces: Vec<Bytes>) -> Self {
        Self { pieces, permit: None, later: None }
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
