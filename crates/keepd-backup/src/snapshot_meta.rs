//! Everything in a snapshot file but its records: small, read into memory, bounded.

use std::collections::BTreeMap;

use bytes::Bytes;
use keepd_bolt::Reader;
use keepd_lease::Lease;
use keepd_types::limits::{LEASE_TTL_MAX, REVISION_MAX};
use keepd_types::version::STORAGE_VERSION;
use keepd_types::{LeaseId, MemberId, Revision};

use crate::buckets::foreign_key;
use crate::snapshot_file::SnapshotFile;
use crate::source::Source;
use crate::{Error, format};

/// BOUND: a million leases take 40 MB.
const SMALL_BYTES_MAX: usize = 256 << 20;

/// The contents of the small buckets.
#[derive(Debug, Default)]
pub(crate) struct SnapshotMeta {
    /// Leases in their stored form.
    pub(crate) leases: BTreeMap<LeaseId, Bytes>,
    /// Raised alarms.
    pub(crate) alarms: Vec<(MemberId, u8)>,
    /// Entries of the buckets of users and roles, keyed as the meta table keeps them.
    pub(crate) foreign: Vec<(Bytes, Bytes)>,
    /// Whether authentication was enabled.
    pub(crate) auth_enabled: bool,
    /// The revision up to which compaction has been done.
    pub(crate) finished_compaction: i64,
    /// The revision up to which compaction was requested.
    pub(crate) scheduled_compaction: i64,
    /// Whether keepd marked any value as ciphertext.
    pub(crate) has_seals: bool,
    /// The cluster that it is of; a restore makes another.
    pub(crate) source: Source,
}

impl SnapshotMeta {
    /// Reads the small buckets.
    pub(crate) fn read(reader: &Reader<SnapshotFile>) -> Result<Self, Error> {
        let mut meta = Self::default();
        let mut has_records = false;
        for bucket in reader.buckets() {
            let (name, bucket) = bucket?;
            let mut entries = reader.entries(&bucket);
            match name.as_ref() {
                format::KEY => {
                    has_records = true;
                    continue;
                }
                format::SEALED => {
                    meta.has_seals = entries.next().transpose()?.is_some();
                    continue;
                }
                format::ALARM
                | format::AUTH
                | format::AUTH_ROLES
                | format::AUTH_USERS
                | format::LEASE
                | format::META
                | format::MEMBERS
                | format::MEMBERS_REMOVED
                | format::STATE => {}
                // The cluster's version is ours, others' buckets stay out.
                _ => continue,
            }
            let mut bytes = 0;
            for entry in entries {
                let entry = entry?;
                bytes += entry.key.len() + entry.value.len();
                if bytes > SMALL_BYTES_MAX {
                    let bucket = name.escape_ascii().to_string();
                    return Err(Error::TooLarge { bucket });
                }
                // A node of the file stays in memory as long as a slice of it.
                let key = Bytes::copy_from_slice(&entry.key);
                meta.take(&name, key, Bytes::copy_from_slice(&entry.value))?;
            }
        }
        if has_records { Ok(meta) } else { Err(Error::NoRecords) }
    }

    fn take(&mut self, bucket: &[u8], key: Bytes, value: Bytes) -> Result<(), Error> {
        self.source.take(bucket, &key, &value);
        match bucket {
            format::ALARM => {
                let alarm = format::decode_alarm(&key)
                    .ok_or_else(|| Error::entry(bucket, &key, "not an alarm"))?;
                self.alarms.push(alarm);
            }
            format::AUTH | format::AUTH_ROLES | format::AUTH_USERS => {
                if bucket == format::AUTH && key == format::AUTH_ENABLED {
                    self.auth_enabled = value.first().is_some_and(|flag| *flag != 0);
                }
                self.foreign.push((foreign_key(bucket, &key), value));
            }
            format::LEASE => {
                let lease = Lease::decode(&value)
                    .map_err(|_fault| Error::entry(bucket, &key, "not a lease"))?;
                if key.as_ref() != lease.id.0.to_be_bytes() {
                    return Err(Error::entry(bucket, &key, "another lease's id"));
                }
                if lease.ttl.max(lease.remaining_ttl) > LEASE_TTL_MAX {
                    return Err(Error::entry(bucket, &key, "a lease without end"));
                }
                self.leases.insert(lease.id, value);
            }
            format::META => self.take_meta(&key, &value)?,
            _ => {}
        }
        Ok(())
    }

    fn take_meta(&mut self, key: &Bytes, value: &Bytes) -> Result<(), Error> {
        match key.as_ref() {
            format::FINISHED_COMPACTION => self.finished_compaction = main_revision(key, value)?,
            format::SCHEDULED_COMPACTION => self.scheduled_compaction = main_revision(key, value)?,
            format::STORAGE_VERSION if !is_supported(value) => {
                let found = String::from_utf8_lossy(value).into_owned();
                return Err(Error::StorageVersion { found });
            }
            _ => {}
        }
        Ok(())
    }
}

fn main_revision(key: &Bytes, value: &Bytes) -> Result<i64, Error> {
    Revision::from_bytes(value)
        .map(|(revision, _)| revision.main)
        .filter(|main| (0..=REVISION_MAX).contains(main))
        .ok_or_else(|| Error::entry(format::META, key, "not a revision"))
}

/// Whether a storage version is not newer than ours.
fn is_supported(version: &[u8]) -> bool {
    let numbers = |version: &str| -> Option<(u32, u32)> {
        let mut parts = version.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    let found = std::str::from_utf8(version).ok().and_then(numbers);
    found.is_some_and(|found| Some(found) <= numbers(STORAGE_VERSION))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_versions_up_to_ours_are_supported() {
        for version in ["3.5.0", "3.6.12", "3.7.0", "3.7.9"] {
            assert!(is_supported(version.as_bytes()), "{version}");
        }
        for version in ["3.8.0", "4.0.0", "", "x", "3"] {
            assert!(!is_supported(version.as_bytes()), "{version}");
        }
    }
}
