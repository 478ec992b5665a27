//! A long plain range that is made as it is sent, so that it costs a window and not its size.
//!
//! A message begins with its length. The records' lengths are known before any value is opened, so
//! the first walk over the list only reads them, and the second makes what is sent, a part ahead of
//! the client.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use keepd_mvcc::{Record, View};
use keepd_types::{KeyValue, Revision};
use tonic::Status;

use super::records::{self, KEPT_BYTES, Load, Pieces};
use crate::blocking::Running;
use crate::context::Context;
use crate::encoded_message::{EncodedMessage, Later};
use crate::errors;
use crate::protobuf;
use crate::response_stream::{self, Sender};

/// A list of fewer bytes is made whole.
const WINDOW_BYTES: usize = 1024 * 1024;
/// Records that are read at a time until so many bytes have been made.
const FIRST_RECORDS: usize = 128;
/// BOUND: bytes of a part (one record may be more), parts that are made at once, and those that wait
/// for the client.
const PART_BYTES: usize = 512 * 1024;
const PARTS_AT_ONCE: usize = 2;
const PARTS_AHEAD_MAX: usize = 1;
/// Records whose lengths are read at a time.
const MEASURED_RECORDS: usize = 64;

/// Neighbouring records, and the bytes that they make.
#[derive(Debug, Default, PartialEq, Eq)]
struct Part {
    revisions: Vec<Revision>,
    bytes: usize,
}

/// The answer that begins with `pieces`, has the records in order, and ends with `tail`.
pub(super) async fn answer(
    context: &Arc<Context>,
    view: &Arc<View>,
    mut pieces: Pieces,
    mut revisions: Vec<Revision>,
    tail: Vec<u8>,
) -> Result<EncodedMessage, Status> {
    let mut read = 0;
    while pieces.len() < WINDOW_BYTES && !revisions.is_empty() {
        let rest = revisions.split_off(FIRST_RECORDS.min(revisions.len()));
        read += revisions.len();
        pieces = records::append_records(context, view, revisions, pieces, records::loading_at(0))
            .await?;
        revisions = rest;
    }
    if revisions.is_empty() {
        pieces.open.extend_from_slice(&tail);
        return Ok(pieces.finish());
    }
    let kept = (KEPT_BYTES / (pieces.len() / read.max(1)).max(1)).min(revisions.len());
    let (kept, passing) = revisions.split_at(kept);
    let mut lengths = Vec::with_capacity(revisions.len());
    // The blocks of the first are read again, from the cache.
    for (some, begin) in [(kept, 0), (passing, KEPT_BYTES)] {
        let load = records::loading_at(begin);
        let measure = move |_: &Context, view: &View, some: &[Revision]| measure(view, some, load);
        let measured = records::in_parts(context, view, some.to_vec(), measure).await?;
        lengths.extend(measured.into_iter().flatten());
    }
    let parts = parts(&revisions, &lengths);
    let bytes = parts.iter().map(|part| part.bytes).sum::<usize>() + tail.len();
    let (sender, parts_made) = response_stream::channel(PARTS_AHEAD_MAX);
    let (context, view) = (Arc::clone(context), Arc::clone(view));
    tokio::spawn(async move {
        if let Err(status) = send(&context, &view, parts, tail, &sender).await {
            tracing::warn!(%status, "gave up a list that was being sent");
            let _ = sender.send(Err(status)).await;
        }
    });
    let later = Some(Later { bytes, parts: parts_made });
    Ok(EncodedMessage { later, ..pieces.finish() })
}

/// The bytes that each record makes in the answer.
fn measure(view: &View, revisions: &[Revision], load: Load) -> Result<Vec<usize>, Status> {
    let mut lengths = Vec::with_capacity(revisions.len());
    for some in revisions.chunks(MEASURED_RECORDS) {
        for record in load(view, some).map_err(errors::store)? {
            lengths.push(protobuf::len_field_len(client_len(&record)?));
        }
    }
    Ok(lengths)
}

/// The length of the `KeyValue` that clients see of a record.
fn client_len(record: &Record) -> Result<usize, Status> {
    let Some(seal) = record.seal else { return Ok(record.encoded.len()) };
    let sealed = KeyValue::decode(&record.encoded).map_err(errors::record)?.value.len();
    let field_len = |len: usize| if len == 0 { 0 } else { protobuf::len_field_len(len) };
    let others = record.encoded.len().saturating_sub(field_len(sealed));
    Ok(others + field_len(seal.plain.len as usize))
}

/// Cuts the list.
fn parts(revisions: &[Revision], lengths: &[usize]) -> VecDeque<Part> {
    let mut parts = VecDeque::new();
    let mut part = Part::default();
    for (revision, &length) in revisions.iter().zip(lengths) {
        if part.bytes + length > PART_BYTES && !part.revisions.is_empty() {
            parts.push_back(std::mem::take(&mut part));
        }
        part.revisions.push(*revision);
        part.bytes += length;
    }
    parts.push_back(part);
    parts
}

/// Makes the parts and hands them over, for as long as the client takes them.
async fn send(
    context: &Arc<Context>,
    view: &Arc<View>,
    mut parts: VecDeque<Part>,
    tail: Vec<u8>,
    sender: &Sender<Vec<Bytes>>,
) -> Result<(), Status> {
    let mut begun = 0;
    let mut making: VecDeque<(usize, Running<Result<Pieces, Status>>)> = VecDeque::new();
    loop {
        while making.len() < PARTS_AT_ONCE
            && let Some(part) = parts.pop_front()
        {
            let (shared, view) = (Arc::clone(context), Arc::clone(view));
            let load = records::loading_at(begun);
            begun += part.bytes;
            let make = move || records::records(&shared, &view, &part.revisions, load);
            making.push_back((part.bytes, context.admission.large_reads.start(make).await));
        }
        let Some((bytes, part)) = making.pop_front() else { break };
        let part = part.await??;
        if part.len() != bytes {
            let text = format!("keepd: records of {bytes} bytes became {}", part.len());
            return Err(Status::internal(text));
        }
        if sender.send(Ok(part.finish().pieces)).await.is_err() {
            // The client has gone, or took nothing for too long and is told so.
            return Ok(());
        }
    }
    let _ = sender.send(Ok(vec![tail.into()])).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use keepd_types::{KeyId, PlainDigest, SealMark};

    use super::*;

    #[test]
    fn a_list_is_cut_into_parts_of_bounded_bytes() {
        let revisions: Vec<Revision> = (2..8).map(Revision::first).collect();
        let lengths = [PART_BYTES, 1, PART_BYTES - 1, PART_BYTES * 3, 5, 6];
        let cut = parts(&revisions, &lengths);
        let shown: Vec<_> = cut.iter().map(|part| (part.revisions.len(), part.bytes)).collect();
        assert_eq!(
            shown,
            [(1, PART_BYTES), (2, PART_BYTES), (1, PART_BYTES * 3), (2, 11)],
            "one record may be more than a part"
        );
    }

    #[test]
    fn the_length_of_a_sealed_record_is_that_of_its_plain_one() {
        for (sealed, plain) in [(200, 0), (200, 100), (130, 127), (20_000, 16_384), (40, 1)] {
            let kv = |len: usize| {
                let value = vec![7; len].into();
                let kv = KeyValue { key: "k".into(), value, version: 3, ..KeyValue::default() };
                let mut encoded = Vec::new();
                kv.encode(&mut encoded);
                encoded
            };
            let plain_digest = PlainDigest { len: u32::try_from(plain).unwrap(), crc32c: 0 };
            let seal = Some(SealMark { key_id: KeyId(1), plain: plain_digest });
            let record = Record { encoded: kv(sealed).into(), tombstone: false, seal };
            assert_eq!(client_len(&record).unwrap(), kv(plain).len());
            let record = Record { seal: None, ..record };
            assert_eq!(client_len(&record).unwrap(), kv(sealed).len());
        }
    }
}
