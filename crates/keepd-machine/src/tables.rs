//! The meta tables: small replicated state that rides the revlog beside the records.
//!
//! `keepd_mvcc::Store` keeps each table as an ordered map; this file describes their entries.
//! Exported snapshots are made from these tables, and imports write them.
//!
//! | table | key | value |
//! |---|---|---|
//! | [`LEASES`] | lease id, 8 bytes BE | `leasepb.Lease` (1 ID, 2 TTL, 3 RemainingTTL) |
//! | [`ATTACHMENTS`] | user key | lease id, 8 bytes BE |
//! | [`ALARMS`] | member id 8 bytes BE, alarm type 1 byte | empty |
//! | [`MEMBERS`] | member id, 8 bytes BE | JSON as etcd's `members` bucket has it ([`crate::membership`]) |
//! | [`MEMBERS_REMOVED`] | member id, 8 bytes BE | empty |
//! | [`CLUSTER`] | name (`clusterVersion`, `activeKeys`, ...) | by name |
//! | [`CONF_STATE`] | `confState` | JSON as etcd's key `confState` has it |
//! | [`FOREIGN`] | bucket name, 0, entry key | entry value, of buckets kept for re-export (auth) |

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use keepd_mvcc::MetaTable;
use keepd_types::{KeyId, LeaseId, MemberId};

use crate::codec::{Reader, Writer};

/// Granted leases.
pub const LEASES: u8 = 1;
/// Attachments of keys to leases.
pub const ATTACHMENTS: u8 = 2;
/// Raised alarms.
pub const ALARMS: u8 = 3;
/// Members of the cluster.
pub const MEMBERS: u8 = 4;
/// Ids that must never join again.
pub const MEMBERS_REMOVED: u8 = 5;
/// Facts about the cluster.
pub const CLUSTER: u8 = 6;
/// Raft's voters and learners as of the applied index.
pub const CONF_STATE: u8 = 7;
/// Entries of imported buckets that this version does not use itself.
pub const FOREIGN: u8 = 8;

/// The key of the one entry in [`CONF_STATE`].
pub const CONF_STATE_KEY: &[u8] = b"confState";
/// The entry of [`CLUSTER`] that holds the cluster version, ASCII `3.7.0`.
pub const CLUSTER_VERSION_KEY: &[u8] = b"clusterVersion";

/// The entry of [`CLUSTER`] that names the keys that every member can read; see [`ActiveKeys`].
pub const ACTIVE_KEYS_KEY: &[u8] = b"activeKeys";
/// The entry of [`CLUSTER`] that holds the feature level, 4 bytes BE; see [`crate::facts`].
pub const FEATURE_LEVEL_KEY: &[u8] = b"featureLevel";
/// The entry of [`CLUSTER`] that holds the version that the cluster is being downgraded to, ASCII
/// `3.6.0`; absent while it is not.
pub const DOWNGRADE_KEY: &[u8] = b"downgrade";
/// Prefix of the [`CLUSTER`] entries that hold each member's encryption fingerprint.
const SEALING_PREFIX: &str = "sealing/";

/// The keys of encryption configurations that every member can read: values are sealed under no
/// other. Encoded as epoch, then the keys' check values, ascending; each 8 bytes BE.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActiveKeys {
    /// Rises with each change; an older one never replaces a newer one.
    pub epoch: u64,
    /// The keys.
    pub keys: BTreeSet<KeyId>,
}

impl ActiveKeys {
    /// Encodes the table's entry.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let numbers = std::iter::once(self.epoch).chain(self.keys.iter().map(|key| key.0));
        numbers.flat_map(u64::to_be_bytes).collect()
    }

    /// Reads it back.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut numbers = bytes.chunks(8).map(|chunk| chunk.try_into().map(u64::from_be_bytes));
        let epoch = numbers.next()?.ok()?;
        let keys = numbers.map(|number| number.map(KeyId)).collect::<Result<_, _>>().ok()?;
        Some(Self { epoch, keys })
    }
}

/// Prefix of the [`CLUSTER`] entries that hold what each member can read.
const READABLE_PREFIX: &str = "readable/";

/// The keys of a member's encryption configuration, with their names there. Encoded as their number,
/// then each check value (8 bytes BE) and name (length, UTF-8).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadableKeys(pub BTreeMap<KeyId, String>);

impl ReadableKeys {
    /// The keys' check values.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.0.keys().copied()
    }

    /// Encodes the table's entry.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::default();
        w.u64(self.0.len() as u64);
        for (key, name) in &self.0 {
            w.u64_fixed(key.0);
            w.bytes(name.as_bytes());
        }
        w.finish()
    }

    /// Reads it back.
    #[must_use]
    pub fn decode(bytes: Bytes) -> Option<Self> {
        let mut r = Reader::new(bytes);
        let keys = (0..r.count().ok()?).map(|_| Some((KeyId(r.u64_fixed().ok()?), r.text().ok()?)));
        let keys = keys.collect::<Option<_>>()?;
        r.finish().ok()?;
        Some(Self(keys))
    }
}

/// The entry of [`CLUSTER`] that holds what a member can read.
#[must_use]
pub fn readable_key(member: MemberId) -> Bytes {
    format!("{READABLE_PREFIX}{:016x}", member.0).into()
}

/// The keys that each member can read, of those that have announced them.
#[must_use]
pub fn readable_keys(cluster: &MetaTable) -> Vec<(MemberId, ReadableKeys)> {
    let entries = cluster.iter().filter_map(|(name, value)| {
        let keys = ReadableKeys::decode(value.clone())?;
        Some((member_in(name, READABLE_PREFIX)?, keys))
    });
    entries.collect()
}

/// The keys in force, as [`CLUSTER`] has them; `None` before the first were activated.
#[must_use]
pub fn active_keys(cluster: &MetaTable) -> Option<ActiveKeys> {
    ActiveKeys::decode(cluster.get(ACTIVE_KEYS_KEY)?)
}

/// The entry of [`CLUSTER`] that holds a member's encryption fingerprint: values written before it
/// was set are encrypted otherwise, unless the member has rewritten them since.
#[must_use]
pub fn sealing_key(member: MemberId) -> Bytes {
    format!("{SEALING_PREFIX}{:016x}", member.0).into()
}

/// The member whose fingerprint an entry of [`CLUSTER`] holds.
pub(crate) fn sealing_member(name: &[u8]) -> Option<MemberId> {
    member_in(name, SEALING_PREFIX)
}

/// The member in the name of an entry.
fn member_in(name: &[u8], prefix: &str) -> Option<MemberId> {
    let digits = std::str::from_utf8(name).ok()?.strip_prefix(prefix)?;
    let id = u64::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 16)?;
    Some(MemberId(id))
}

/// The key of a lease in [`LEASES`].
#[must_use]
pub fn lease_key(id: LeaseId) -> Bytes {
    Bytes::copy_from_slice(&id.0.to_be_bytes())
}

/// The key of a member in [`MEMBERS`].
#[must_use]
pub fn member_key(id: MemberId) -> Bytes {
    Bytes::copy_from_slice(&id.0.to_be_bytes())
}

/// The key of an alarm in [`ALARMS`].
#[must_use]
pub fn alarm_key(member: MemberId, alarm: u8) -> Bytes {
    let mut key = [0; 9];
    key[..8].copy_from_slice(&member.0.to_be_bytes());
    key[8] = alarm;
    Bytes::copy_from_slice(&key)
}

/// Reads back an eight-byte big-endian number.
#[must_use]
pub fn read_u64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn readable_keys_round_trip(keys: BTreeMap<u64, String>) {
            let keys = ReadableKeys(keys.into_iter().map(|(id, name)| (KeyId(id), name)).collect());
            prop_assert_eq!(ReadableKeys::decode(keys.encode()), Some(keys));
        }

        #[test]
        fn active_keys_round_trip(epoch: u64, keys: BTreeSet<u64>) {
            let keys = ActiveKeys { epoch, keys: keys.into_iter().map(KeyId).collect() };
            prop_assert_eq!(ActiveKeys::decode(&keys.encode()), Some(keys));
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            let _ = ActiveKeys::decode(&bytes);
        }
    }
}
