//! A member of the cluster and the changes that can be made to it, as plain values.

use bytes::Bytes;
use keepd_types::MemberId;
use serde::{Deserialize, Serialize};

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
        serde_json::to_vec(self).expect("strings and numbers have a JSON form").into()
    }

    /// Reads etcd's JSON.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// A change of the membership. It travels as the context of a change of Raft's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipChange {
    /// A new member joins.
    Add {
        /// Its id.
        id: MemberId,
        /// URLs for its peers.
        peer_urls: Vec<String>,
        /// Whether it joins as a learner.
        is_learner: bool,
        /// Most learners that the cluster may have, as the proposer is configured: the members
        /// need not agree on it.
        max_learners: u32,
    },
    /// A learner gets a vote.
    Promote {
        /// The learner.
        id: MemberId,
    },
    /// A member leaves for good.
    Remove {
        /// The member.
        id: MemberId,
    },
    /// A member's peers find it at other URLs from now on.
    UpdatePeerUrls {
        /// The member.
        id: MemberId,
        /// URLs for its peers.
        peer_urls: Vec<String>,
    },
}

impl MembershipChange {
    /// The member that changes.
    #[must_use]
    pub const fn member(&self) -> MemberId {
        match self {
            Self::Add { id, .. }
            | Self::Promote { id }
            | Self::Remove { id }
            | Self::UpdatePeerUrls { id, .. } => *id,
        }
    }
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
}
