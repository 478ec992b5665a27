//! `hashkv`: the hash of a file's history up to a revision, as a running member computes it.
//!
//! The hash is CRC-32C over the bucket's name and the records that a compaction at the revision
//! would leave, so that members which have compacted at different times agree. What is left is
//! decided per key: its last record up to the revision, unless that deletes it. One odd rule is
//! part of the algorithm: a key deleted and put again within the very transaction of the revision
//! counts as deleted.
//!
//! Unlike etcd's tool this one only reads, so the file's own checksum stays right.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use keepd_bolt::Reader;
use keepd_types::{KeyValue, Revision};
use sha2::{Digest as _, Sha256};

use super::file::{self, Readable};
use super::style;
use crate::engine::answer::{self, Answer, Style, line};
use crate::engine::command::{Arguments, Call, Command, Flag};
use crate::engine::exit::{Exit, failed};
use crate::engine::json::Object;
use crate::engine::table;

/// The command.
pub(super) static COMMAND: Command = Command {
    usage: "hashkv <filename>",
    short: "Prints the KV history hash of a given file",
    flags: &[Flag::int("rev", "maximum revision to hash (default: latest revision)")],
    arguments: Arguments::One,
    run: Some(run),
    ..Command::NONE
};

fn run(call: Call<'_>) -> Result<(), Exit> {
    let style = style(&call)?;
    let reader = file::open(&call.text(0))?;
    answer::show(&hash(&reader, call.int("rev"))?, style)
}

/// The hash, and what it is the hash of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct HashKv {
    hash: u32,
    revision: i64,
    /// -1 before the first compaction.
    compact_revision: i64,
}

const NO_BUCKET: &str = "bucket \"key\" is missing";

fn hash(reader: &Reader<Readable>, wanted: i64) -> Result<HashKv, Exit> {
    let compact_revision = compact_revision(reader)?;
    let current = current_revision(reader)?.max(compact_revision);
    let revision = if wanted == 0 { current } else { wanted };
    if revision > 0 && revision < compact_revision {
        return Err(failed("mvcc: required revision has been compacted"));
    }
    if revision > current {
        return Err(failed("mvcc: required revision is a future revision"));
    }
    let kept = kept(reader, revision)?;
    let mut hash = crc32c::crc32c(b"key");
    each_record(reader, |found, tombstone, key, value| {
        let dropped = found.main <= compact_revision && !kept.is_empty() && !kept.contains(&found);
        let forgotten = found.main == compact_revision && tombstone;
        if found.main <= revision && !dropped && !forgotten {
            hash = crc32c::crc32c_append(hash, key);
            hash = crc32c::crc32c_append(hash, value);
        }
        Ok(())
    })?;
    Ok(HashKv { hash, revision, compact_revision })
}

/// Calls `see` with every record: its revision, whether it is a tombstone, its bytes.
fn each_record(
    reader: &Reader<Readable>,
    mut see: impl FnMut(Revision, bool, &Bytes, &Bytes) -> Result<(), Exit>,
) -> Result<(), Exit> {
    let bucket = reader.bucket(b"key").map_err(failed)?.ok_or_else(|| failed(NO_BUCKET))?;
    for entry in reader.entries(&bucket) {
        let entry = entry.map_err(failed)?;
        let (revision, tombstone) = Revision::from_bytes(&entry.key)
            .ok_or_else(|| failed("bucket \"key\" holds an entry that is no revision"))?;
        see(revision, tombstone, &entry.key, &entry.value)?;
    }
    Ok(())
}

fn current_revision(reader: &Reader<Readable>) -> Result<i64, Exit> {
    // A store without records is at revision 1.
    let mut last = 1;
    each_record(reader, |revision, _, _, _| {
        last = revision.main;
        Ok(())
    })?;
    Ok(last)
}

fn compact_revision(reader: &Reader<Readable>) -> Result<i64, Exit> {
    let Some(bucket) = reader.bucket(b"meta").map_err(failed)? else { return Ok(-1) };
    let mut newest = -1;
    for entry in reader.entries(&bucket) {
        let entry = entry.map_err(failed)?;
        // A compaction that was accepted counts, whether or not it was carried out.
        if entry.key == "scheduledCompactRev" || entry.key == "finishedCompactRev" {
            let revision = Revision::from_bytes(&entry.value);
            newest = newest.max(revision.map_or(-1, |(revision, _)| revision.main));
        }
    }
    Ok(newest)
}

/// The records a compaction at `revision` leaves.
fn kept(reader: &Reader<Readable>, revision: i64) -> Result<BTreeSet<Revision>, Exit> {
    // By digests: a key may be 1.5 MiB long. None: deleted within the last revision, for good.
    let mut last: BTreeMap<[u8; 32], Option<Revision>> = BTreeMap::new();
    each_record(reader, |found, tombstone, _, value| {
        if found.main > revision {
            return Ok(());
        }
        let record = KeyValue::decode(value)
            .map_err(|_fault| failed("bucket \"key\" holds an entry that is no record"))?;
        let key = <[u8; 32]>::from(Sha256::digest(&record.key));
        match (tombstone, found.main == revision) {
            (true, true) => {
                last.insert(key, None);
            }
            (true, false) => {
                last.remove(&key);
            }
            (false, _) => {
                let put = last.entry(key).or_insert(Some(found));
                *put = put.map(|_| found);
            }
        }
        Ok(())
    })?;
    Ok(last.into_values().flatten().collect())
}

impl HashKv {
    fn row(self) -> Vec<String> {
        vec![self.hash.to_string(), self.revision.to_string(), self.compact_revision.to_string()]
    }
}

impl Answer for HashKv {
    fn simple(&self, _style: Style, out: &mut Vec<u8>) {
        line!(out, "{}", self.row().join(", "));
    }

    fn json(&self, _style: Style) -> String {
        Object::new()
            .always("hash", &self.hash.to_string())
            .always("hashRevision", &self.revision.to_string())
            .always("compactRevision", &self.compact_revision.to_string())
            .end()
    }

    fn fields(&self, _style: Style, out: &mut Vec<u8>) -> Result<(), Exit> {
        line!(out, "\"Hash\" : {}", self.hash);
        line!(out, "\"Hash revision\" : {}", self.revision);
        line!(out, "\"Compact revision\" : {}", self.compact_revision);
        Ok(())
    }

    fn table(&self) -> Result<String, Exit> {
        Ok(table::draw(&["hash", "hash revision", "compact revision"], &[self.row()]))
    }
}
