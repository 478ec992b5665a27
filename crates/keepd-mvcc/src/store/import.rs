//! Filling a new store from records: restoring a backup, receiving a state image.

use keepd_types::{KeyValue, Revision};

use crate::error::Error;
use crate::index::State;
use crate::record::{Change, ChangeKind, Entry, Record};
use crate::store::Store;

impl Store {
    /// Adds a record as it is: restoring a backup or receiving a state image. Records come in
    /// revision order into a store that was new.
    ///
    /// # Errors
    /// If the record does not fit.
    pub fn import(&mut self, revision: Revision, record: Record) -> Result<(), Error> {
        self.assert_sound();
        let refused = |reason| Error::Import { revision, reason };
        let kv = KeyValue::decode(&record.encoded)
            .ok()
            .ok_or_else(|| refused("it is not a key-value"))?;
        let pending = self.pending.last().map(|entry| entry.change.revision);
        let flushed = self.now.segments.list.last().map(|segment| segment.table.last);
        let last = pending.max(self.now.tail.last()).max(flushed);
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
                new.create = old.map_or(main, |old| old.create);
            }
            new
        });
        let before = old.filter(|old| !old.is_tombstone() && old.main < main);
        let change = Change {
            revision,
            kind: if record.tombstone { ChangeKind::Delete } else { ChangeKind::Put },
            key: kv.key,
            created: new.version == 1,
            record,
            prev: before.map(|old| old.revision()),
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
}
