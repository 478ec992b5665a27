//! Filling a new store from records: restoring a backup, receiving the state of another member.

use keepd_types::limits::COMMAND_BYTES_MAX;
use keepd_types::{KeyValue, Revision};

use crate::digest::Digest;
use crate::error::Error;
use crate::index::State;
use crate::record::{Change, ChangeKind, Entry, Record};
use crate::store::Store;

impl Store {
    /// Adds a record as it is: restoring a backup. Records come in revision order into a store that
    /// was new.
    ///
    /// # Errors
    /// If the record does not fit.
    pub fn import(&mut self, revision: Revision, record: Record) -> Result<(), Error> {
        let refused = |reason| Error::Import { revision, reason };
        let kv = KeyValue::decode(&record.encoded)
            .ok()
            .ok_or_else(|| refused("it is not a key-value"))?;
        self.import_decoded(revision, record, kv, None)
    }

    /// Adds a record of another member's store, which holds nothing but what that one wrote. `ended` is
    /// the create revision of the generation that a tombstone ended.
    pub(crate) fn import_exact(
        &mut self,
        revision: Revision,
        record: Record,
        ended: Option<i64>,
    ) -> Result<(), Error> {
        let refused = |reason| Error::Import { revision, reason };
        let kv = KeyValue::decode(&record.encoded)
            .ok()
            .ok_or_else(|| refused("it is not a key-value"))?;
        let mut canonical = Vec::with_capacity(record.encoded.len());
        kv.encode(&mut canonical);
        // Hashes are computed from the fields, so other encodings of them must not come in.
        if canonical != record.encoded {
            return Err(refused("it is not in its canonical form"));
        }
        if record.encoded.len() > COMMAND_BYTES_MAX {
            return Err(refused("it is larger than any that can be written"));
        }
        let main = revision.main;
        let is_consistent = if record.tombstone {
            ended.is_some_and(|create| (1..=main).contains(&create))
                && kv == KeyValue::tombstone(kv.key.clone())
        } else {
            kv.mod_revision == main
                && (1..=main).contains(&kv.create_revision)
                // Each put raised the revision too.
                && (1..=main).contains(&kv.version)
        };
        if !is_consistent {
            return Err(refused("it is of another revision"));
        }
        self.import_decoded(revision, record, kv, ended)
    }

    fn import_decoded(
        &mut self,
        revision: Revision,
        record: Record,
        kv: KeyValue,
        ended: Option<i64>,
    ) -> Result<(), Error> {
        self.assert_sound();
        let refused = |reason| Error::Import { revision, reason };
        let pending = self.pending.last().map(|entry| entry.change.revision);
        let last = pending.max(self.now.tail.last()).max(self.last_flushed());
        if last.is_some_and(|last| revision <= last) || revision.main < 1 {
            return Err(refused("it is not behind the one before"));
        }
        let sub = u32::try_from(revision.sub)
            .ok()
            .ok_or_else(|| refused("its sub revision is out of range"))?;
        if kv.key.is_empty() || (!record.tombstone && kv.version < 1) {
            return Err(refused("its key or its version is missing"));
        }
        let main = revision.main;
        let mut new = State { main, sub, create: kv.create_revision, version: kv.version };
        if record.tombstone {
            new.version = 0;
        }
        let old = self.now.index.update(&kv.key, |old| {
            if new.is_tombstone() {
                new.create = ended.unwrap_or_else(|| old.map_or(main, |old| old.create));
            }
            new
        });
        // What the key was before the transaction, even if this is its second change in it.
        let before = match old {
            Some(old) if old.main == main => self.now.index.get_at(&kv.key, main - 1),
            old => old,
        };
        let change = Change {
            revision,
            kind: if record.tombstone { ChangeKind::Delete } else { ChangeKind::Put },
            key: kv.key,
            created: new.version == 1,
            record,
            prev: before.filter(|old| !old.is_tombstone()).map(|old| old.revision()),
        };
        self.now.revision = self.now.revision.max(main);
        self.push_pending(Entry { change, create: new.create });
        Ok(())
    }

    /// Raises the current and the compact revision of an imported store; neither is lowered.
    pub fn import_revisions(&mut self, revision: i64, compact_revision: i64) {
        self.is_dirty = true;
        self.now.revision = self.now.revision.max(revision);
        self.now.compact_revision =
            self.now.compact_revision.max(compact_revision).min(self.now.revision);
    }

    /// Goes on with the running digest of another member at the same applied index, which the next
    /// [`Store::publish`] names; or begins it anew there.
    pub fn import_digest(&mut self, digest: Digest) {
        self.is_dirty = true;
        self.now.digest = digest;
    }
}
