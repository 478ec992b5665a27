//! Records from a view, as clients see them: loaded, opened, and put together into a message.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use keepd_mvcc::{Error, Record, View};
use keepd_types::{KeyValue, Revision};
use tonic::Status;

use crate::blocking::INLINE_RECORDS_MAX;
use crate::context::Context;
use crate::encoded_message::EncodedMessage;
use crate::errors;
use crate::protobuf;

/// The most parts in which a list is read, and the fewest records of a part: while one waits for the
/// disk, another decrypts.
const PARTS_MAX: usize = 4;
const PART_RECORDS_MIN: usize = 256;
/// BOUND: bytes of a list from its beginning whose blocks are kept in the cache.
pub(crate) const KEPT_BYTES: usize = 64 * 1024 * 1024;
/// Smaller records are copied into a piece of about this size, larger ones are pieces themselves.
const JOINED_BYTES_MAX: usize = 64 * 1024;

/// A message in the making: small parts are joined, large records stay shared.
#[derive(Default)]
pub(crate) struct Pieces {
    pub(crate) open: Vec<u8>,
    done: Vec<Bytes>,
    done_bytes: usize,
}

impl Pieces {
    /// Adds a stored record as field 2 (`kvs`).
    pub(crate) fn record(&mut self, record: Bytes) {
        protobuf::len_field(2, record.len(), &mut self.open);
        if record.len() < JOINED_BYTES_MAX {
            self.open.extend_from_slice(&record);
            self.close_when_full();
        } else {
            self.close();
            self.done_bytes += record.len();
            self.done.push(record);
        }
    }

    /// Adds a decoded record as field 2.
    pub(crate) fn kv(&mut self, kv: &KeyValue) {
        let len = kv.encoded_len();
        protobuf::len_field(2, len, &mut self.open);
        self.open.reserve(len);
        kv.encode(&mut self.open);
        self.close_when_full();
    }

    /// Adds loaded records, opening what is sealed.
    fn records(&mut self, context: &Context, records: Vec<Record>) -> Result<(), Status> {
        for record in records {
            if record.seal.is_none() {
                self.record(record.encoded);
            } else {
                self.kv(&context.client_kv(record)?);
            }
        }
        Ok(())
    }

    /// Adds pieces that were made by another read.
    fn append(&mut self, mut part: Self) {
        part.close();
        self.close();
        self.done_bytes += part.done_bytes;
        self.done.append(&mut part.done);
    }

    /// The bytes so far.
    pub(crate) const fn len(&self) -> usize {
        self.done_bytes + self.open.len()
    }

    /// A long list is never one allocation, which would be copied each time it grows.
    fn close_when_full(&mut self) {
        if self.open.len() >= JOINED_BYTES_MAX {
            self.close();
            self.open.reserve(JOINED_BYTES_MAX + JOINED_BYTES_MAX / 8);
        }
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.done_bytes += self.open.len();
            self.done.push(std::mem::take(&mut self.open).into());
        }
    }

    pub(crate) fn finish(mut self) -> EncodedMessage {
        self.close();
        self.done.into()
    }
}

/// A way to load records, which leaves their blocks in the cache or does not.
pub(crate) type Load = fn(&View, &[Revision]) -> Result<Vec<Record>, Error>;

/// The way to load the records of a list behind its first `bytes`.
pub(crate) const fn loading_at(bytes: usize) -> Load {
    if bytes < KEPT_BYTES { load } else { View::load_passing }
}

/// Loads records and adds them to `pieces` as clients see them.
pub(crate) async fn append_records(
    context: &Arc<Context>,
    view: &Arc<View>,
    revisions: Vec<Revision>,
    mut pieces: Pieces,
    load: Load,
) -> Result<Pieces, Status> {
    if revisions.len() <= INLINE_RECORDS_MAX {
        pieces.records(context, load(view, &revisions).map_err(errors::store)?)?;
        return Ok(pieces);
    }
    let read = move |context: &Context, view: &View, revisions: &[Revision]| {
        records(context, view, revisions, load)
    };
    for part in in_parts(context, view, revisions, read).await? {
        pieces.append(part);
    }
    Ok(pieces)
}

/// Loads records as clients see them.
pub(crate) fn records(
    context: &Context,
    view: &View,
    revisions: &[Revision],
    load: Load,
) -> Result<Pieces, Status> {
    let mut pieces = Pieces::default();
    pieces.records(context, load(view, revisions).map_err(errors::store)?)?;
    Ok(pieces)
}

/// Loads records and opens what is sealed, decoded.
pub(crate) async fn load_kvs(
    context: &Arc<Context>,
    view: &Arc<View>,
    revisions: Vec<Revision>,
) -> Result<Vec<KeyValue>, Status> {
    let read = |context: &Context, view: &View, revisions: &[Revision]| -> Result<Vec<_>, Status> {
        let records = load(view, revisions).map_err(errors::store)?;
        records.into_iter().map(|record| context.client_kv(record)).collect()
    };
    if revisions.len() <= INLINE_RECORDS_MAX {
        return read(context, view, &revisions);
    }
    Ok(in_parts(context, view, revisions, read).await?.into_iter().flatten().collect())
}

fn load(view: &View, revisions: &[Revision]) -> Result<Vec<Record>, Error> {
    if let [revision] = revisions {
        return Ok(vec![view.load(*revision)?]);
    }
    view.load_many(revisions)
}

/// Reads many records on blocking threads, a long list in parts side by side, which come back in order.
pub(crate) async fn in_parts<T: Send + 'static>(
    context: &Arc<Context>,
    view: &Arc<View>,
    mut revisions: Vec<Revision>,
    read: impl Fn(&Context, &View, &[Revision]) -> Result<T, Status> + Copy + Send + 'static,
) -> Result<Vec<T>, Status> {
    let parts = (revisions.len() / PART_RECORDS_MIN).clamp(1, PARTS_MAX);
    let part_records = revisions.len().div_ceil(parts);
    let mut loading = VecDeque::new();
    while !revisions.is_empty() {
        let part = revisions.split_off(revisions.len().saturating_sub(part_records));
        let (shared, view) = (Arc::clone(context), Arc::clone(view));
        let part = move || read(&shared, &view, &part);
        loading.push_front(context.admission.large_reads.start(part).await);
    }
    let mut loaded = Vec::with_capacity(loading.len());
    for part in loading {
        loaded.push(part.await??);
    }
    Ok(loaded)
}
