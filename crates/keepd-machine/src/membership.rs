//! The membership: members as etcd shows them, and Raft's configuration. The only code that knows
//! their form on disk, which is etcd's JSON.
//!
//! Two facts and two tables. [`Member`] is for people and clients: names and URLs. [`ConfState`] is
//! what Raft counts votes with; it is never derived from the members.

use bytes::Bytes;
use keepd_mvcc::{MetaTable, Store};
use keepd_types::MemberId;
use serde::{Deserialize, Serialize};

use crate::outcome::Halt;
use crate::tables;

/// A member of the cluster, as etcd's bucket `members` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// URLs for its peers.
    #[serde(rename = "peerURLs")]
    pub peer_urls: Vec<String>,
    /// Whether it is a learner: it receives the log and does not vote.
    #[serde(rename = "isLearner", skip_serializing_if = "std::ops::Not::not")]
    pub is_learner: bool,
    /// Its name; empty until it has started.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// URLs for its clients; empty until it has started.
    #[serde(rename = "clientURLs", skip_serializing_if = "Vec::is_empty")]
    pub client_urls: Vec<String>,
}

impl Member {
    /// etcd's JSON.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        json(self)
    }

    /// Reads etcd's JSON.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

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

    /// etcd's JSON.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        json(self)
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

fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("strings and numbers have a JSON form").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_told_as_by_etcd() {
        let mut member = Member {
            id: 10_276_657_743_932_975_437,
            peer_urls: vec!["http://localhost:2380".to_owned()],
            ..Member::default()
        };
        let joined = r#"{"id":10276657743932975437,"peerURLs":["http://localhost:2380"]}"#;
        assert_eq!(member.encode(), joined);
        member.is_learner = true;
        member.name = "a \"b\"".to_owned();
        member.client_urls = vec!["http://localhost:2379".to_owned()];
        let started = r#"{"id":10276657743932975437,"peerURLs":["http://localhost:2380"],"isLearner":true,"name":"a \"b\"","clientURLs":["http://localhost:2379"]}"#;
        assert_eq!(member.encode(), started);
        assert_eq!(Member::decode(started.as_bytes()), Some(member));
        assert_eq!(Member::decode(b"{"), None);
    }

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
