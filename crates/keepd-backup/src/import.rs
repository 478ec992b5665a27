//! Imports the records and the metadata of a snapshot file into an empty store.
//!
//! Records keep their revisions. Values that the file marks as sealed stay as they are, once they
//! have been opened to learn what hashes and limits must know, unless the configuration wants them
//! plain; other values are sealed if the configuration wants their keys sealed. A mark without its
//! record is ignored (etcd keeps the bucket of marks and compacts the records away), a mark on another
//! record is refused.
//!
//! Where a rule does not list `identity`, a value must prove that it is sealed and that its record
//! was written like this: plain values and marks that anybody could have made are refused, unless
//! the operator vouches for the file.

use std::collections::BTreeMap;

use bytes::Bytes;
use keepd_bolt::{Entries, Entry, Reader};
use keepd_crypto::ValueSealer;
use keepd_env::Random;
use keepd_machine::tables;
use keepd_member::InitialCluster;
use keepd_mvcc::{Applied, Record, Store};
use keepd_types::limits::{COMMAND_BYTES_MAX, REVISION_MAX};
use keepd_types::{KeyValue, LeaseId, PlainDigest, Revision, SealMark};

use crate::format::{self, Proof, SealEntry};
use crate::making::{begin_membership, flush, raise_revision};
use crate::snapshot_file::SnapshotFile;
use crate::snapshot_meta::SnapshotMeta;
use crate::{Error, Meter, Progress, Stage};

/// Bytes of records that may wait in memory to be flushed.
const FLUSH_BYTES: u64 = 8 << 20;

/// The input of an import.
pub(crate) struct Import<'a> {
    pub(crate) reader: &'a Reader<SnapshotFile>,
    pub(crate) meta: &'a SnapshotMeta,
    /// The cluster to make; none if it stays the source's for now.
    pub(crate) cluster: Option<&'a InitialCluster>,
    /// The bump of the current revision; if there is one, everything before is compacted.
    pub(crate) bump: u64,
    pub(crate) sealer: Option<&'a ValueSealer>,
    pub(crate) random: &'a dyn Random,
}

/// The result of an import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Imported {
    pub(crate) records: u64,
    pub(crate) sealed: u64,
    /// The current revision, after the bump.
    pub(crate) revision: i64,
    /// The current revision before the bump.
    pub(crate) file_revision: i64,
}

impl Import<'_> {
    /// Fills `store`; the caller publishes and flushes it.
    pub(crate) fn run(
        &self,
        store: &mut Store,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Imported, Error> {
        let mut imported = Imported { revision: 1, ..Imported::default() };
        let attachments = self.records(store, &mut imported, progress)?;
        self.revisions(store, &mut imported)?;
        self.tables(store, &attachments);
        match self.cluster {
            Some(cluster) => begin_membership(store, cluster),
            None => self.meta.source.store(store)?,
        }
        Ok(imported)
    }

    fn records(
        &self,
        store: &mut Store,
        imported: &mut Imported,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<BTreeMap<Bytes, LeaseId>, Error> {
        let bucket = self.reader.bucket(format::KEY)?.ok_or(Error::NoRecords)?;
        let mut marks = Marks::open(self.reader)?;
        let mut attachments = BTreeMap::new();
        let mut meter = Meter::new(Stage::Import, self.reader.image_len(), progress);
        let mut unflushed = 0;
        for entry in self.reader.entries(&bucket) {
            let entry = entry?;
            let (revision, tombstone) = parse_record_key(&entry.key)?;
            let mark = marks.of(revision)?;
            imported.revision = revision.main;
            // A restore with a bump leaves an empty record that only raises the revision.
            if entry.value.is_empty() {
                continue;
            }
            let kv = parse_record(revision, tombstone, &entry.key, &entry.value)?;
            if self.meta.leases.contains_key(&kv.lease) {
                attachments.insert(Bytes::copy_from_slice(&kv.key), kv.lease);
            } else {
                // No lease, or one that has ended: an older one's end must not delete the key.
                attachments.remove(&kv.key);
            }
            let record = if tombstone {
                Record { encoded: Bytes::copy_from_slice(&entry.value), tombstone, seal: None }
            } else {
                self.put_record(revision, kv, mark, &entry)?
            };
            imported.records += 1;
            imported.sealed += u64::from(record.seal.is_some());
            unflushed += record.encoded.len() as u64;
            store.import(revision, record)?;
            if unflushed >= FLUSH_BYTES {
                // Nothing of the log is applied until the import is whole.
                store.publish(Applied::default());
                flush(store)?;
                unflushed = 0;
            }
            meter.add((entry.key.len() + entry.value.len()) as u64);
        }
        meter.finish();
        Ok(attachments)
    }

    /// The record to store for a put.
    fn put_record(
        &self,
        revision: Revision,
        kv: KeyValue,
        mark: Option<SealEntry>,
        entry: &Entry,
    ) -> Result<Record, Error> {
        let encoded = &entry.value;
        // The file's bytes are copied: a slice would keep a whole node of the file in memory.
        let as_it_is =
            |seal| Record { encoded: Bytes::copy_from_slice(encoded), tombstone: false, seal };
        if let Some(mark) = mark {
            let (sealer, plain) = self.open(revision, &kv, mark, entry)?;
            if sealer.sealing_key(&kv.key).is_none() {
                // ORDER: now and not by the rewrites after the first start: a configuration that
                // seals nothing makes no keyring, which alone would demand the key at that start.
                let mut encoded = Vec::new();
                KeyValue { value: plain, ..kv }.encode(&mut encoded);
                return Ok(Record { encoded: encoded.into(), tombstone: false, seal: None });
            }
            let plain = PlainDigest::of(&plain);
            return Ok(as_it_is(Some(SealMark { key_id: mark.key_id, plain })));
        }
        let Some(sealer) = self.sealer else { return Ok(as_it_is(None)) };
        if !sealer.takes_plain(&kv.key) {
            return Err(Error::PlainValue { revision, key: kv.key });
        }
        let stored = sealer
            .seal(&kv.key, kv.value.clone(), self.random)
            .map_err(|source| Error::Seal { revision, source })?;
        if stored.seal.is_none() {
            return Ok(as_it_is(None));
        }
        let mut encoded = Vec::new();
        KeyValue { value: stored.bytes, ..kv }.encode(&mut encoded);
        Ok(Record { encoded: encoded.into(), tombstone: false, seal: stored.seal })
    }

    /// Opens a sealed value: the file hides its plaintext's length and checksum.
    fn open(
        &self,
        revision: Revision,
        kv: &KeyValue,
        mark: SealEntry,
        entry: &Entry,
    ) -> Result<(&ValueSealer, Bytes), Error> {
        let key_id = mark.key_id;
        let sealer = match self.sealer {
            Some(sealer) if sealer.key_ids().iter().any(|(id, _)| *id == key_id) => sealer,
            _ => return Err(Error::KeyMissing { revision, key_id }),
        };
        if !mark.fits(sealer, &entry.key, &entry.value) {
            return Err(Error::SealMismatch { revision });
        }
        if matches!(mark.proof, Proof::Digest(_)) && !sealer.takes_plain(&kv.key) {
            return Err(Error::UnboundValue { revision, key: kv.key.clone() });
        }
        let opened = sealer
            .read_foreign(&kv.key, &kv.value)
            .map_err(|source| Error::Open { revision, source })?;
        if opened.key_id != Some(key_id) {
            return Err(Error::SealMismatch { revision });
        }
        Ok((sealer, opened.plain))
    }

    /// Sets the current and the compact revision as etcd has them after its first start.
    fn revisions(&self, store: &mut Store, imported: &mut Imported) -> Result<(), Error> {
        let finished = self.meta.finished_compaction;
        let current = imported.revision.max(finished);
        let compacted = if finished > 0 { finished } else { -1 };
        store.import_revisions(current, compacted);
        let scheduled = self.meta.scheduled_compaction;
        if scheduled > finished && scheduled <= current {
            store.compact(scheduled).map_err(keepd_mvcc::Error::from)?;
        }
        imported.file_revision = current;
        imported.revision = raise_revision(store, self.bump)?;
        Ok(())
    }

    fn tables(&self, store: &mut Store, attachments: &BTreeMap<Bytes, LeaseId>) {
        for (id, lease) in &self.meta.leases {
            store.meta_put(tables::LEASES, tables::lease_key(*id), lease.clone());
        }
        for (key, lease) in attachments {
            store.meta_put(tables::ATTACHMENTS, key.clone(), tables::lease_key(*lease));
        }
        for (member, alarm) in &self.meta.alarms {
            store.meta_put(tables::ALARMS, tables::alarm_key(*member, *alarm), Bytes::new());
        }
        for (key, value) in &self.meta.foreign {
            store.meta_put(tables::FOREIGN, key.clone(), value.clone());
        }
    }
}

fn parse_record_key(key: &Bytes) -> Result<(Revision, bool), Error> {
    Revision::from_bytes(key)
        .filter(|(revision, _)| (1..=REVISION_MAX).contains(&revision.main) && revision.sub >= 0)
        .ok_or_else(|| Error::entry(format::KEY, key, "not a revision"))
}

/// Reads a record and checks what the store will rely on.
fn parse_record(
    revision: Revision,
    tombstone: bool,
    key: &Bytes,
    encoded: &Bytes,
) -> Result<KeyValue, Error> {
    let fault = |reason| Error::entry(format::KEY, key, reason);
    let kv = KeyValue::decode(encoded).map_err(|_fault| fault("not a record"))?;
    if kv.key.is_empty() {
        return Err(fault("record without a key"));
    }
    if encoded.len() > COMMAND_BYTES_MAX {
        return Err(fault("record larger than any that can be written"));
    }
    let is_consistent = if tombstone {
        kv == KeyValue::tombstone(kv.key.clone())
    } else {
        kv.mod_revision == revision.main
            && (1..=revision.main).contains(&kv.create_revision)
            // Each put raised the revision too.
            && (1..=revision.main).contains(&kv.version)
    };
    if !is_consistent {
        return Err(fault("record of another revision"));
    }
    // Hashes are computed from the fields, so other encodings of them must not come in.
    let mut canonical = Vec::with_capacity(encoded.len());
    kv.encode(&mut canonical);
    if canonical != *encoded {
        return Err(fault("record not in its canonical form"));
    }
    Ok(kv)
}

/// keepd's marks of sealed values, read beside the records.
struct Marks<'a> {
    entries: Option<Entries<'a, SnapshotFile>>,
    next: Option<(Revision, SealEntry)>,
}

impl<'a> Marks<'a> {
    fn open(reader: &'a Reader<SnapshotFile>) -> Result<Self, Error> {
        let bucket = reader.bucket(format::SEALED)?;
        Ok(Self { entries: bucket.map(|bucket| reader.entries(&bucket)), next: None })
    }

    /// The mark of a record; asked for in ascending order.
    fn of(&mut self, revision: Revision) -> Result<Option<SealEntry>, Error> {
        loop {
            match self.next {
                Some((of, mark)) if of == revision => {
                    self.next = None;
                    return Ok(Some(mark));
                }
                Some((of, _)) if of > revision => return Ok(None),
                _ => {}
            }
            let Some(entry) = self.entries.as_mut().and_then(Iterator::next).transpose()? else {
                self.next = None;
                return Ok(None);
            };
            let fault = || Error::entry(format::SEALED, &entry.key, "not a mark of a record");
            let (of, _) = Revision::from_bytes(&entry.key)
                .filter(|(_, tombstone)| !tombstone)
                .ok_or_else(fault)?;
            self.next = Some((of, SealEntry::decode(&entry.value).ok_or_else(fault)?));
        }
    }
}
