//! The state in a backup: it is fetched, opened and restored into a scratch folder, and read there.

use std::sync::Arc;

use anyhow::Context as _;
use keepd_archive::scratch::Scratch;
use keepd_archive::unpacked::Unpacked;
use keepd_mvcc::{Record, View};
use keepd_types::{KeyRange, KeyValue, Revision, StoredValue};

use super::state::{Content, Head, State, Version, Versions};

/// A backup that is open.
pub(super) struct Archived {
    name: String,
    view: Arc<View>,
    unpacked: Unpacked,
    /// The folder that it is unpacked into, which goes after it.
    _scratch: Arc<Scratch>,
}

impl Archived {
    pub(super) fn new(name: String, unpacked: Unpacked, scratch: Arc<Scratch>) -> Self {
        Self { name, view: unpacked.view(), unpacked, _scratch: scratch }
    }

    /// The versions of a key that it holds.
    pub(super) fn versions(&self, key: &[u8]) -> anyhow::Result<Versions> {
        let mut versions = Versions::default();
        for record in self.view.records() {
            let (revision, record) = record?;
            let kv = decoded(&record)?;
            if kv.key != key {
                continue;
            }
            let version = kv.version;
            let put = (!record.tombstone).then(|| self.content(&record, kv)).transpose()?;
            versions.push(Version { revision: revision.main, put: put.map(|it| (version, it)) });
        }
        Ok(versions)
    }

    fn content(&self, record: &Record, kv: KeyValue) -> anyhow::Result<Content> {
        let stored = StoredValue { bytes: kv.value, seal: record.seal };
        let opened = self.unpacked.sealer().open(&kv.key, &stored);
        let value = opened.with_context(|| format!("{}: {}", self.name, kv.key.escape_ascii()))?;
        Ok(Content { value, lease: kv.lease.0 })
    }
}

fn decoded(record: &Record) -> anyhow::Result<KeyValue> {
    KeyValue::decode(&record.encoded).context("a record of the backup is malformed")
}

impl State for Archived {
    fn heads(&self, range: &KeyRange, limit: usize) -> anyhow::Result<Vec<Head>> {
        let states = self.view.states(range, 0, limit)?;
        let head = |(key, state): (bytes::Bytes, keepd_mvcc::KeyState)| Head {
            key,
            mod_revision: state.mod_revision.main,
            version: state.version,
        };
        Ok(states.keys.into_iter().map(head).collect())
    }

    fn contents(&self, heads: &[Head]) -> anyhow::Result<Vec<Content>> {
        let place = |head: &Head| {
            let range = KeyRange::point(head.key.clone());
            let found = self.view.range(&range, 0, 1)?.keys.into_iter().next();
            anyhow::Ok(found.context("a key that was listed")?.1)
        };
        let places: Vec<Revision> = heads.iter().map(place).collect::<anyhow::Result<_>>()?;
        let records = self.view.load_many(&places)?;
        records.iter().map(|record| self.content(record, decoded(record)?)).collect()
    }

    fn history(&self) -> Option<u64> {
        None
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}
