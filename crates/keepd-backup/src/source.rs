//! The tables of the cluster that a snapshot was taken from, which the entries behind it are judged by.

use bytes::Bytes;
use keepd_machine::membership::ConfState;
use keepd_machine::tables;
use keepd_mvcc::Store;

use crate::{Error, LogPosition, format};

/// The part of a file that a restore leaves behind.
#[derive(Debug, Default)]
pub(crate) struct Source {
    members: Vec<(Bytes, Bytes)>,
    removed: Vec<Bytes>,
    conf_state: Option<Bytes>,
    index: Option<Bytes>,
    term: Option<Bytes>,
    position: Option<Bytes>,
    facts: Vec<(Bytes, Bytes)>,
}

impl Source {
    /// Takes an entry of a bucket, if it is one of these.
    pub(crate) fn take(&mut self, bucket: &[u8], key: &Bytes, value: &Bytes) {
        // A node of the file stays in memory as long as a slice of it.
        let copy = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
        match (bucket, key.as_ref()) {
            (format::MEMBERS, _) => self.members.push((copy(key), copy(value))),
            (format::MEMBERS_REMOVED, _) => self.removed.push(copy(key)),
            (format::META, format::CONF_STATE) => self.conf_state = Some(copy(value)),
            (format::META, format::CONSISTENT_INDEX) => self.index = Some(copy(value)),
            (format::META, format::TERM) => self.term = Some(copy(value)),
            (format::STATE, format::POSITION) => self.position = Some(copy(value)),
            (format::STATE, _) => {
                if let Some(name) = key.strip_prefix(format::CLUSTER_FACT) {
                    self.facts.push((copy(name), copy(value)));
                }
            }
            _ => {}
        }
    }

    /// The place in the log; none if keepd did not make the file. etcd carries the bucket along and moves
    /// its own numbers, so both must say the same.
    pub(crate) fn position(&self) -> Option<LogPosition> {
        let position = LogPosition::decode(self.position.as_ref()?)?;
        let number = |bytes: &Option<Bytes>| bytes.as_ref().and_then(|it| tables::read_u64(it));
        let fits = number(&self.index) == Some(position.index)
            && number(&self.term) == Some(position.term)
            && position.since <= position.index;
        fits.then_some(position)
    }

    /// Puts the tables into a store.
    pub(crate) fn store(&self, store: &mut Store) -> Result<(), Error> {
        for (table, bucket, items) in [
            (tables::MEMBERS, format::MEMBERS, self.members.clone()),
            (
                tables::MEMBERS_REMOVED,
                format::MEMBERS_REMOVED,
                self.removed.iter().map(|key| (key.clone(), Bytes::new())).collect(),
            ),
        ] {
            for (key, value) in items {
                let id = std::str::from_utf8(&key).ok();
                let id = id.and_then(|id| u64::from_str_radix(id, 16).ok());
                let id = id.ok_or_else(|| Error::entry(bucket, &key, "not a member's id"))?;
                store.meta_put(table, Bytes::copy_from_slice(&id.to_be_bytes()), value);
            }
        }
        let encoded = self.conf_state.clone().unwrap_or_default();
        let key = Bytes::from_static(format::CONF_STATE);
        let state = ConfState::decode(&encoded).filter(|state| !state.voters.is_empty());
        state.ok_or_else(|| Error::entry(format::META, &key, "not a configuration"))?.store(store);
        for (name, value) in &self.facts {
            store.meta_put(tables::CLUSTER, name.clone(), value.clone());
        }
        Ok(())
    }
}
