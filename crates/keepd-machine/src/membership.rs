//! The membership: members as etcd shows them, and Raft's configuration. The only code that knows
//! their form on disk, which is etcd's JSON; `member.rs` beside it has a member's.
//!
//! Two facts and two tables. [`Member`] is for people and clients: names and URLs. [`ConfState`] is
//! what Raft counts votes with; it is never derived from the members.

use bytes::Bytes;
use keepd_mvcc::{MetaTable, Store};
use keepd_types::MemberId;
use serde::{Deserialize, Serialize};

use crate::outcome::Halt;
use crate::tables;

mod change;
mod record;

pub use self::record::Membership;
pub use crate::member::{Member, MembershipChange};

impl Member {
    /// Writes the member into its table.
    pub fn store(&self, store: &mut Store) {
        store.meta_put(tables::MEMBERS, tables::member_key(MemberId(self.id)), self.encode());
    }
}

/// The members in [`tables::MEMBERS`], by id.
///
/// # Errors
/// If an entry is malformed.
pub fn members(table: &MetaTable) -> Result<Vec<Member>, Halt> {
    table.iter().map(|(key, value)| read_member(key, value)).collect()
}

/// One member in [`tables::MEMBERS`].
///
/// # Errors
/// If its entry is malformed.
pub fn member(table: &MetaTable, id: MemberId) -> Result<Option<Member>, Halt> {
    let key = tables::member_key(id);
    table.get(&key).map(|value| read_member(&key, value)).transpose()
}

/// Whether [`tables::MEMBERS_REMOVED`] has an id: who had it must never join again.
#[must_use]
pub fn is_removed(table: &MetaTable, id: MemberId) -> bool {
    table.contains_key(&tables::member_key(id))
}

/// The version that all members agree on, as [`tables::CLUSTER`] has it; `None` before a leader has
/// decided it.
///
/// # Errors
/// If it is malformed.
pub fn cluster_version(table: &MetaTable) -> Result<Option<String>, Halt> {
    let text = |bytes: &Bytes| {
        String::from_utf8(bytes.to_vec()).map_err(|_other| Halt::Meta { table: tables::CLUSTER })
    };
    table.get(tables::CLUSTER_VERSION_KEY).map(text).transpose()
}

fn read_member(key: &[u8], value: &[u8]) -> Result<Member, Halt> {
    let member = Member::decode(value);
    let is_itself = |member: &Member| tables::read_u64(key) == Some(member.id);
    member.filter(is_itself).ok_or(Halt::Meta { table: tables::MEMBERS })
}

/// Raft's configuration as of an applied index, as etcd's key `confState` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfState {
    /// Voting members.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub voters: Vec<u64>,
    /// Members that receive the log without a vote.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub learners: Vec<u64>,
    /// Voting members of the old configuration, during a joint change.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub voters_outgoing: Vec<u64>,
    /// Outgoing voters that become learners at the end of a joint change.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub learners_next: Vec<u64>,
    /// Whether the leader ends the joint change by itself.
    pub auto_leave: bool,
}

impl ConfState {
    /// The configuration of a cluster in which these vote.
    #[must_use]
    pub fn of_voters(voters: impl IntoIterator<Item = MemberId>) -> Self {
        let mut voters: Vec<u64> = voters.into_iter().map(|member| member.0).collect();
        voters.sort_unstable();
        Self { voters, ..Self::default() }
    }

    /// Whether a member receives the log.
    #[must_use]
    pub fn is_member(&self, id: u64) -> bool {
        [&self.voters, &self.learners, &self.voters_outgoing].iter().any(|ids| ids.contains(&id))
    }

    /// etcd's JSON.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("numbers have a JSON form").into()
    }

    /// Reads etcd's JSON.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// Writes the configuration into its table.
    pub fn store(&self, store: &mut Store) {
        assert!(!self.voters.is_empty(), "a configuration has voters");
        let key = Bytes::from_static(tables::CONF_STATE_KEY);
        store.meta_put(tables::CONF_STATE, key, self.encode());
    }

    /// The entry of [`tables::CONF_STATE`]; `None` in a store that belongs to no cluster yet.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn stored(table: &MetaTable) -> Result<Option<Self>, Halt> {
        let decode =
            |bytes: &Bytes| Self::decode(bytes).ok_or(Halt::Meta { table: tables::CONF_STATE });
        table.get(tables::CONF_STATE_KEY).map(decode).transpose()
    }

    /// Reads the configuration that Raft starts with from [`tables::CONF_STATE`].
    ///
    /// # Errors
    /// If there is none, or it is malformed, or nobody votes in it.
    pub fn load(table: &MetaTable) -> Result<Self, Halt> {
        let has_voters = |state: &Self| !state.voters.is_empty();
        Self::stored(table)?.filter(has_voters).ok_or(Halt::Meta { table: tables::CONF_STATE })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_configuration_are_read_and_etcds_is_written() {
        let expected = ConfState::of_voters([MemberId(9), MemberId(3)]);
        assert_eq!(expected.encode(), r#"{"voters":[3,9],"auto_leave":false}"#);
        for form in [r#"{"voters":[3,9],"auto_leave":false}"#, r#"{"voters":[3,9],"learners":[]}"#]
        {
            assert_eq!(ConfState::decode(form.as_bytes()), Some(expected.clone()));
        }
        let joint = ConfState {
            voters: vec![1],
            learners: vec![2],
            voters_outgoing: vec![3],
            learners_next: vec![4],
            auto_leave: true,
        };
        assert_eq!(ConfState::decode(&joint.encode()), Some(joint));
        assert_eq!(ConfState::decode(br#"{"voters":["3"]}"#), None);
    }
}
