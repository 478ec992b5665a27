//! The keys that values may be sealed under: those that every member can read (rule 9.8).
//!
//! Each member announces the keys of its encryption configuration; the active ones are those that all
//! announcements have in common. A member that has announced none yet counts for nothing: it does not
//! serve before it has, and it announces only what includes the active keys or, once nothing is sealed
//! under the rest, fewer.

use std::collections::BTreeSet;

use keepd_mvcc::{MetaTable, Store};
use keepd_types::{KeyId, MemberId};

use crate::command::Command;
use crate::tables::{self, ActiveKeys, ReadableKeys};

/// Notes what a member can read, and what all of them can from now on.
pub(crate) fn announce(store: &mut Store, member: MemberId, keys: &ReadableKeys) {
    store.meta_put(tables::CLUSTER, tables::readable_key(member), keys.encode());
    agree(store);
}

/// Forgets what a member that has left could read.
pub(crate) fn forget(store: &mut Store, member: MemberId) {
    store.meta_delete(tables::CLUSTER, &tables::sealing_key(member));
    store.meta_delete(tables::CLUSTER, &tables::readable_key(member));
    agree(store);
}

/// Stores the keys that all announcements have in common, if they are others than before.
fn agree(store: &mut Store) {
    let cluster = store.meta(tables::CLUSTER);
    let announced = tables::readable_keys(cluster);
    let sets = announced.into_iter().map(|(_, keys)| keys.ids().collect::<BTreeSet<KeyId>>());
    let Some(keys) = sets.reduce(|common, keys| &common & &keys) else { return };
    let current = tables::active_keys(cluster).unwrap_or_default();
    if current.keys != keys {
        let active = ActiveKeys { epoch: current.epoch + 1, keys };
        let key = bytes::Bytes::from_static(tables::ACTIVE_KEYS_KEY);
        store.meta_put(tables::CLUSTER, key, active.encode());
    }
}

/// The active keys, read from their table when that has changed.
#[derive(Debug, Default)]
pub(crate) struct KnownKeys {
    read_from: Option<MetaTable>,
    keys: BTreeSet<KeyId>,
}

impl KnownKeys {
    /// Whether a command writes a value under a key that some member may not be able to read. Where no
    /// key is active none is refused: nothing was announced yet, or the members have none in common and
    /// are not ready.
    pub(crate) fn refuse(&mut self, cluster: &MetaTable, command: &Command) -> bool {
        let mut is_refused = false;
        command.for_each_seal(&mut |seal| is_refused |= !self.allow(cluster, seal.key_id));
        is_refused
    }

    fn allow(&mut self, cluster: &MetaTable, key: KeyId) -> bool {
        if !self.read_from.as_ref().is_some_and(|known| known.ptr_eq(cluster)) {
            self.read_from = Some(cluster.clone());
            self.keys = tables::active_keys(cluster).unwrap_or_default().keys;
        }
        self.keys.is_empty() || self.keys.contains(&key)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;
    use keepd_crypto::FileKeys;
    use keepd_env::Env;
    use keepd_mvcc::Applied;
    use keepd_types::{PlainDigest, SealMark, StoredValue};

    use super::*;
    use crate::command::Put;
    use crate::membership::Member;
    use crate::{ApplyError, Envelope, Options, Outcome, StateMachine};

    fn machine(members: u64) -> StateMachine {
        let (env, _, _) = Env::simulated(1);
        let options = keepd_mvcc::Options::default();
        let mut store = Store::open(env, Path::new("/s"), FileKeys::plain(), options).unwrap();
        for id in 1..=members {
            Member { id, ..Member::default() }.store(&mut store);
        }
        StateMachine::new(store, Options::default()).unwrap()
    }

    fn apply(machine: &mut StateMachine, command: Command) -> Outcome {
        let envelope = Envelope { origin: None, decided_in: None, command };
        let at = Applied { index: machine.applied().index + 1, term: 1 };
        machine.apply(at, &envelope).unwrap()
    }

    fn announce(machine: &mut StateMachine, member: u64, keys: &[u64]) -> Vec<u64> {
        let named = |key: &u64| (KeyId(*key), format!("aesgcm:k{key}"));
        let keys = ReadableKeys(keys.iter().map(named).collect());
        let command = Command::SetReadableKeys { member: MemberId(member), keys };
        apply(machine, command).result.unwrap();
        let active = tables::active_keys(machine.store().meta(tables::CLUSTER));
        active.unwrap_or_default().keys.into_iter().map(|key| key.0).collect()
    }

    fn put(machine: &mut StateMachine, key: u64) -> Result<(), ApplyError> {
        let seal = SealMark { key_id: KeyId(key), plain: PlainDigest::of(b"v") };
        let value = StoredValue { bytes: Bytes::from_static(b"sealed"), seal: Some(seal) };
        let put = Put { key: "k".into(), value, ..Put::default() };
        apply(machine, Command::Put(put)).result.map(drop)
    }

    #[test]
    fn a_key_is_active_once_every_member_has_announced_it() {
        let mut machine = machine(3);
        assert_eq!(announce(&mut machine, 1, &[1]), [1]);
        assert_eq!(announce(&mut machine, 2, &[1]), [1]);
        assert_eq!(announce(&mut machine, 3, &[1]), [1]);
        assert_eq!(announce(&mut machine, 1, &[1, 2]), [1]);
        assert_eq!(announce(&mut machine, 3, &[1, 2]), [1]);
        assert_eq!(put(&mut machine, 2), Err(ApplyError::KeyNotActive));
        assert_eq!(announce(&mut machine, 2, &[1, 2]), [1, 2]);
        assert_eq!(put(&mut machine, 2), Ok(()));
        assert_eq!(put(&mut machine, 1), Ok(()));
        assert_eq!(announce(&mut machine, 2, &[2]), [2], "one that some member drops is not");
        assert_eq!(put(&mut machine, 1), Err(ApplyError::KeyNotActive));
    }

    #[test]
    fn strangers_announce_nothing_and_who_leaves_holds_nobody_back() {
        let mut machine = machine(2);
        assert_eq!(announce(&mut machine, 1, &[1, 2]), [1, 2]);
        assert_eq!(announce(&mut machine, 9, &[7]), [1, 2]);
        assert_eq!(announce(&mut machine, 2, &[1]), [1]);
        forget(machine.store_mut(), MemberId(2));
        let active = tables::active_keys(machine.store().meta(tables::CLUSTER)).unwrap();
        assert_eq!(active.keys, BTreeSet::from([KeyId(1), KeyId(2)]));
    }

    #[test]
    fn where_no_key_is_active_none_is_refused() {
        let mut machine = machine(2);
        assert_eq!(put(&mut machine, 5), Ok(()));
        announce(&mut machine, 1, &[1]);
        announce(&mut machine, 2, &[2]);
        assert_eq!(put(&mut machine, 5), Ok(()));
    }
}
