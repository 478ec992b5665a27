//! The meta tables: small replicated state that rides the revlog beside the records.
//!
//! `keepd_mvcc::Store` keeps each table as an ordered map; this file says what lies in them.
//! Exported snapshots are made from these tables, and imports write them.
//!
//! | table | key | value |
//! |---|---|---|
//! | [`LEASES`] | lease id, 8 bytes BE | `leasepb.Lease` (1 ID, 2 TTL, 3 RemainingTTL) |
//! | [`ATTACHMENTS`] | user key | lease id, 8 bytes BE |
//! | [`ALARMS`] | member id 8 bytes BE, alarm type 1 byte | empty |
//! | [`MEMBERS`] | member id, 8 bytes BE | JSON as etcd's `members` bucket has it |
//! | [`MEMBERS_REMOVED`] | member id, 8 bytes BE | empty |
//! | [`CLUSTER`] | name (`clusterVersion`, `activeKeys`, …) | by name |
//! | [`CONF_STATE`] | `confState` | JSON `{"voters":[…],"learners":[…]}` |
//! | [`FOREIGN`] | bucket name, 0, entry key | entry value, of buckets kept for re-export (auth) |

use bytes::Bytes;
use keepd_types::{LeaseId, MemberId};

/// Granted leases.
pub const LEASES: u8 = 1;
/// Which key is attached to which lease.
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
