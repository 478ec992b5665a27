//! `RangeStream`: a range in chunks, so that neither side holds all of it.
//!
//! The revision is pinned with the view at the first chunk; header, `more` and `count` come with
//! the last message. Chunks start at ten keys and double while they are small.

use std::sync::Arc;

use bytes::Bytes;
use keepd_api::etcdserverpb::{RangeRequest, RangeResponse, RangeStreamResponse, ResponseHeader};
use keepd_mvcc::{KeyState, View};
use keepd_types::{KeyRange, KeyValue, RangeEnd};
use tonic::Status;

use super::range;
use super::records::{self, Pieces};
use crate::context::Context;
use crate::encoded_message::EncodedMessage;
use crate::errors;
use crate::protobuf;
use crate::response_stream::Sender;

/// Keys in the first chunk.
const FIRST_CHUNK_KEYS: usize = 10;
/// Chunks that may wait for a slow client.
pub(crate) const CHUNKS_AHEAD_MAX: usize = 2;

/// The queue of chunks to the client.
pub(crate) type Chunks = Sender<EncodedMessage>;

/// A stream under way.
struct Streaming {
    context: Arc<Context>,
    view: Arc<View>,
    at: i64,
    range: KeyRange,
    /// Keys still wanted; `None` is no limit.
    left: Option<usize>,
    /// Keys in the next chunk; 0 is all.
    chunk_keys: usize,
    /// Bytes of the chunks so far.
    bytes: usize,
    /// Keys of the whole range, known with the first chunk.
    count: Option<u64>,
}

/// Sends the answer to `request` in chunks, until it is whole, fails, or the client has gone.
pub(crate) async fn run(
    context: Arc<Context>,
    view: Arc<View>,
    header: ResponseHeader,
    request: RangeRequest,
    chunks: Chunks,
) {
    if !range::has_key_order(&request) {
        // Order NONE with another target is sorted after the cut, which takes the whole answer.
        let whole = range::answer(&context, &view, header, request).await;
        let _ = chunks.send(whole.map(as_chunk)).await;
        return;
    }
    let at = request.revision.max(0);
    let range = range::key_range(&request);
    if request.count_only {
        let last = view.count(&range, at).map_err(errors::range).map(|count| {
            let count = range::to_i64(count);
            let response = RangeResponse { header: Some(header), count, ..Default::default() };
            EncodedMessage::of(&RangeStreamResponse { range_response: Some(response) })
        });
        let _ = chunks.send(last).await;
        return;
    }
    let left = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
    let chunk_keys = if request.limit < 0 { 0 } else { FIRST_CHUNK_KEYS };
    let mut streaming =
        Streaming { context, view, at, range, left, chunk_keys, bytes: 0, count: None };
    loop {
        match streaming.next(&header, request.keys_only).await {
            Ok((message, true)) => {
                let _ = chunks.send(Ok(message)).await;
                return;
            }
            Ok((message, false)) => {
                if chunks.send(Ok(message)).await.is_err() {
                    return;
                }
            }
            Err(status) => {
                let _ = chunks.send(Err(status)).await;
                return;
            }
        }
    }
}

impl Streaming {
    /// The next chunk, and whether it is the last: `RangeResponse{1: header, 2: kvs, 3: more,
    /// 4: count}` within a `RangeStreamResponse`.
    async fn next(
        &mut self,
        header: &ResponseHeader,
        keys_only: bool,
    ) -> Result<(EncodedMessage, bool), Status> {
        let want = match (self.chunk_keys, self.left) {
            (0, left) => left.unwrap_or(0),
            (chunk, None) => chunk,
            (chunk, Some(left)) => chunk.min(left),
        };
        let fetch = if want == 0 { 0 } else { want + 1 };
        let mut pieces = Pieces::default();
        let (mut pieces, more, count) = if keys_only {
            // Only the index: the lease shows as zero, as in etcd 3.7.
            let states = self.view.states(&self.range, self.at, fetch).map_err(errors::range)?;
            let mut keys = states.keys;
            let more = self.cut(&mut keys, want);
            self.open_last(&mut pieces, header, more);
            for (key, state) in keys {
                pieces.kv(&without_value(key, &state));
            }
            (pieces, more, states.count)
        } else {
            let refs = self.view.range(&self.range, self.at, fetch).map_err(errors::range)?;
            let mut keys = refs.keys;
            let more = self.cut(&mut keys, want);
            self.open_last(&mut pieces, header, more);
            let revisions: Vec<_> = keys.into_iter().map(|(_, revision)| revision).collect();
            let load = records::loading_at(self.bytes);
            let pieces =
                records::append_records(&self.context, &self.view, revisions, pieces, load).await?;
            (pieces, more, refs.count)
        };
        let count = *self.count.get_or_insert(count);
        let last = self.is_last(more);
        self.bytes += pieces.len();
        self.adapt(pieces.len());
        if last {
            protobuf::int_field(3, i64::from(more), &mut pieces.open);
            protobuf::int_field(4, range::to_i64(count), &mut pieces.open);
        }
        Ok((as_chunk(pieces.finish()), last))
    }

    /// Keeps the keys of this chunk and moves on to those after it; returns whether there are more.
    fn cut<T>(&mut self, keys: &mut Vec<(Bytes, T)>, want: usize) -> bool {
        let more = want > 0 && keys.len() > want;
        if more {
            keys.truncate(want);
        }
        self.advance(keys);
        more
    }

    /// Whether the chunk that [`Self::cut`] made is the last.
    fn is_last(&self, more: bool) -> bool {
        !more || self.left == Some(0)
    }

    /// The last chunk carries the header.
    fn open_last(&self, pieces: &mut Pieces, header: &ResponseHeader, more: bool) {
        if self.is_last(more) {
            protobuf::header_field(header, &mut pieces.open);
        }
    }

    fn advance<T>(&mut self, keys: &[(Bytes, T)]) {
        if let Some(left) = &mut self.left {
            *left -= keys.len();
        }
        if let Some((last, _)) = keys.last()
            && self.range.end != RangeEnd::Point
        {
            // The first key after `last` in byte order.
            let mut start = Vec::with_capacity(last.len() + 1);
            start.extend_from_slice(last);
            start.push(0);
            self.range.start = start.into();
        }
    }

    /// Doubles small chunks and halves large ones, around the request limit.
    fn adapt(&mut self, bytes: usize) {
        if self.chunk_keys == 0 {
            return;
        }
        let target = self.context.limits.request_bytes_max;
        if bytes < target / 2 {
            self.chunk_keys *= 2;
        } else if bytes > target * 2 {
            self.chunk_keys = (self.chunk_keys / 2).max(1);
        }
    }
}

fn without_value(key: Bytes, state: &KeyState) -> KeyValue {
    KeyValue {
        key,
        create_revision: state.create_revision,
        mod_revision: state.mod_revision.main,
        version: state.version,
        ..KeyValue::default()
    }
}

/// Wraps an encoded `RangeResponse` as a message of the stream.
fn as_chunk(mut message: EncodedMessage) -> EncodedMessage {
    let mut outer = Vec::with_capacity(12);
    protobuf::len_field(1, message.len(), &mut outer);
    message.pieces.insert(0, outer.into());
    message
}
