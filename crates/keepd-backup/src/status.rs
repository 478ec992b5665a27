//! `snapshot status`: what a file holds, after a check of its whole structure.

use std::collections::HashSet;
use std::path::Path;

use keepd_bolt::Reader;
use keepd_env::{Disk, DiskFile};
use keepd_types::{KeyValue, Revision};
use sha2::{Digest, Sha256};

use crate::snapshot_file::{SnapshotFile, check_structure};
use crate::source::Source;
use crate::{Error, LogPosition, Meter, Progress, Stage, format};

/// The contents of a snapshot file, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// CRC-32C over every bucket's name and items, as etcd computes it.
    pub hash: u32,
    /// The main revision of the last record.
    pub revision: i64,
    /// The number of live keys.
    pub total_keys: u64,
    /// The size of the image in bytes.
    pub total_size: u64,
    /// The storage version, empty before 3.6.
    pub version: String,
    /// The number of values that keepd marks as ciphertext.
    pub sealed_values: u64,
    /// The last compaction that was accepted, carried out or not; 0 before the first one.
    pub compact_revision: i64,
    /// The place in the log, if keepd made the file.
    pub position: Option<LogPosition>,
}

/// Reads and checks the file at `path`; its SHA-256 is not compared, as etcd does not.
///
/// # Errors
/// If it cannot be read, is no bbolt file, or its structure is damaged.
pub fn status(
    disk: &dyn Disk,
    path: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Status, Error> {
    read(SnapshotFile::open(disk, path, "stat")?, progress)
}

/// The same of a file that is open already, with its SHA-256 compared.
///
/// # Errors
/// As [`status()`], or if the SHA-256 is missing or another.
pub fn status_file(
    file: Box<dyn DiskFile>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Status, Error> {
    let file = SnapshotFile::of(file)?;
    file.check_sha256(progress)?;
    read(file, progress)
}

fn read(file: SnapshotFile, progress: &mut dyn FnMut(Progress)) -> Result<Status, Error> {
    let reader = Reader::open(file)?;
    check_structure(&reader)?;
    let total = reader.image_len();
    let mut status = Status { total_size: total, ..Status::default() };
    let (mut live, mut source) = (LiveKeys::default(), Source::default());
    let mut meter = Meter::new(Stage::Read, total, progress);
    for bucket in reader.buckets() {
        let (name, bucket) = bucket?;
        status.hash = crc32c::crc32c_append(status.hash, &name);
        for entry in reader.entries(&bucket) {
            let entry = entry?;
            status.hash = crc32c::crc32c_append(status.hash, &entry.key);
            status.hash = crc32c::crc32c_append(status.hash, &entry.value);
            meter.add((entry.key.len() + entry.value.len()) as u64);
            match name.as_ref() {
                format::KEY => {
                    let (revision, tombstone) = Revision::from_bytes(&entry.key)
                        .ok_or_else(|| Error::entry(&name, &entry.key, "not a revision"))?;
                    status.revision = revision.main;
                    let record = KeyValue::decode(&entry.value)
                        .map_err(|_fault| Error::entry(&name, &entry.key, "not a record"))?;
                    live.see(&record.key, tombstone);
                }
                format::META if entry.key == format::STORAGE_VERSION => {
                    status.version = String::from_utf8_lossy(&entry.value).into_owned();
                }
                format::META
                    if [format::FINISHED_COMPACTION, format::SCHEDULED_COMPACTION]
                        .contains(&&*entry.key) =>
                {
                    let (at, _) = Revision::from_bytes(&entry.value)
                        .ok_or_else(|| Error::entry(&name, &entry.key, "not a revision"))?;
                    status.compact_revision = status.compact_revision.max(at.main);
                }
                format::META | format::STATE => source.take(&name, &entry.key, &entry.value),
                format::SEALED => status.sealed_values += 1,
                _ => {}
            }
        }
    }
    meter.finish();
    status.total_keys = live.count();
    status.position = source.position();
    Ok(status)
}

/// Counts the values of the file at `path` that keepd marks as ciphertext; reads only the marks.
///
/// # Errors
/// If it cannot be read or is no bbolt file.
pub fn sealed_values(disk: &dyn Disk, path: &Path) -> Result<u64, Error> {
    let reader = Reader::open(SnapshotFile::open(disk, path, "open")?)?;
    let Some(marks) = reader.bucket(format::SEALED)? else { return Ok(0) };
    let mut count = 0;
    for mark in reader.entries(&marks) {
        mark?;
        count += 1;
    }
    Ok(count)
}

/// The set of live keys, by their digests: a key may be 1.5 MiB long.
#[derive(Debug, Default)]
struct LiveKeys(HashSet<[u8; 16]>);

impl LiveKeys {
    fn see(&mut self, key: &[u8], tombstone: bool) {
        let digest = Sha256::digest(key);
        let digest = *digest.first_chunk().expect("a digest is longer");
        if tombstone {
            self.0.remove(&digest);
        } else {
            self.0.insert(digest);
        }
    }

    fn count(&self) -> u64 {
        self.0.len() as u64
    }
}
