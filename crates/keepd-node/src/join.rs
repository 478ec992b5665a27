//! Joining: which member of a running cluster this one is.
//!
//! The cluster has been told of the new member by its peer URLs, and the flags name all members with
//! theirs; where the two agree, the id is known. Rules and texts are etcd's. Unlike etcd this compares
//! URLs as they are written and does not resolve host names.

use keepd_machine::membership::Member;
use keepd_member::{Identity, InitialCluster, difference};
use keepd_types::{ClusterId, MemberId};
use thiserror::Error;

/// Reason why a member cannot join.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum JoinError {
    /// The flags name more or fewer members than the cluster has.
    #[error("error validating peerURLs {cluster}: member count is unequal")]
    Count {
        /// The cluster as it answered.
        cluster: String,
    },
    /// The flags do not name a member of the cluster.
    #[error(
        "error validating peerURLs {cluster}: PeerURLs: no match found for existing member ({id}, \
         [{urls}]), last resolver error ({difference})"
    )]
    Unmatched {
        /// The cluster as it answered.
        cluster: String,
        /// The member.
        id: MemberId,
        /// Its peer URLs.
        urls: String,
        /// The difference from the last one that the flags name.
        difference: String,
    },
    /// The cluster has more learners than this member was told to accept.
    #[error("membership: too many learner members in cluster")]
    TooManyLearners,
}

/// Finds the local member of `flags` in a running cluster.
///
/// # Errors
/// If the flags name other members than the cluster has, or it has too many learners.
pub fn join(
    flags: &InitialCluster,
    cluster: ClusterId,
    existing: &[Member],
    learners_max: usize,
) -> Result<Identity, JoinError> {
    if existing.len() != flags.members.len() {
        return Err(JoinError::Count { cluster: told(cluster, existing) });
    }
    let mut local = None;
    for member in existing {
        let id = MemberId(member.id);
        let mut urls = member.peer_urls.clone();
        urls.sort_unstable();
        let named = flags.members.iter().find(|named| named.peer_urls == urls);
        let Some(named) = named else {
            let last = flags.members.last().expect("the local member is one");
            return Err(JoinError::Unmatched {
                cluster: told(cluster, existing),
                id,
                urls: member.peer_urls.join(" "),
                difference: difference(&urls, &last.peer_urls),
            });
        };
        if named.id == flags.local {
            local = Some(id);
        }
    }
    if existing.iter().filter(|member| member.is_learner).count() > learners_max {
        return Err(JoinError::TooManyLearners);
    }
    match local {
        Some(member) => Ok(Identity { member, cluster }),
        // Two members of a cluster that have the same URLs, which it does not let happen.
        None => Err(JoinError::Count { cluster: told(cluster, existing) }),
    }
}

/// Whether the local member of `flags`, for a new cluster, has already started in a cluster that runs:
/// then its data directory was lost, and starting over would forget what it acknowledged.
#[must_use]
pub fn has_started(flags: &InitialCluster, existing: &[Member]) -> bool {
    let is_started = |member: &Member| member.id == flags.local.0 && !member.client_urls.is_empty();
    existing.iter().any(is_started)
}

/// A cluster as etcd prints it.
fn told(cluster: ClusterId, members: &[Member]) -> String {
    let member = |member: &Member| {
        format!(
            "&{{ID:{} RaftAttributes:{{PeerURLs:[{}] IsLearner:{}}} Attributes:{{Name:{} \
             ClientURLs:[{}]}}}}",
            MemberId(member.id),
            member.peer_urls.join(" "),
            member.is_learner,
            member.name,
            member.client_urls.join(" "),
        )
    };
    let members: Vec<String> = members.iter().map(member).collect();
    format!("{{ClusterID:{cluster} Members:[{}] RemovedMemberIDs:[]}}", members.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId(0xc);

    fn flags() -> InitialCluster {
        let cluster = "a=http://a:1,b=http://b:2,b=http://b:1";
        InitialCluster::parse("b", cluster, "another token", "http://b:1,http://b:2").unwrap()
    }

    fn member(id: u64, urls: &[&str]) -> Member {
        let peer_urls = urls.iter().map(|&url| url.to_owned()).collect();
        Member { id, peer_urls, ..Member::default() }
    }

    #[test]
    fn the_id_is_the_clusters_whatever_the_flags_would_give() {
        let existing = [member(1, &["http://a:1"]), member(2, &["http://b:2", "http://b:1"])];
        let identity = join(&flags(), CLUSTER, &existing, 1).unwrap();
        assert_eq!(identity, Identity { member: MemberId(2), cluster: CLUSTER });
    }

    #[test]
    fn other_members_are_refused_in_etcds_words() {
        let mut a = member(1, &["http://a:1"]);
        a.name = "a".to_owned();
        a.client_urls = vec!["http://a:9".to_owned()];
        let error = join(&flags(), CLUSTER, std::slice::from_ref(&a), 1).unwrap_err().to_string();
        let cluster = "{ClusterID:c Members:[&{ID:1 RaftAttributes:{PeerURLs:[http://a:1] \
                       IsLearner:false} Attributes:{Name:a ClientURLs:[http://a:9]}}] \
                       RemovedMemberIDs:[]}";
        assert_eq!(error, format!("error validating peerURLs {cluster}: member count is unequal"));

        let existing = [a, member(2, &["http://b:1", "http://c:1"])];
        let error = join(&flags(), CLUSTER, &existing, 1).unwrap_err().to_string();
        let start = "PeerURLs: no match found for existing member (2, [http://b:1 http://c:1]), \
                     last resolver error (";
        assert!(error.contains(start), "{error}");
    }

    #[test]
    fn learners_are_counted() {
        let mut existing = [member(1, &["http://a:1"]), member(2, &["http://b:1", "http://b:2"])];
        existing[1].is_learner = true;
        assert!(join(&flags(), CLUSTER, &existing, 1).is_ok());
        let error = join(&flags(), CLUSTER, &existing, 0).unwrap_err();
        assert_eq!(error, JoinError::TooManyLearners);
    }

    #[test]
    fn a_member_has_started_once_it_told_its_client_urls() {
        let mut existing = [member(flags().local.0, &["http://b:1"])];
        assert!(!has_started(&flags(), &existing));
        existing[0].client_urls = vec!["http://b:9".to_owned()];
        assert!(has_started(&flags(), &existing));
        existing[0].id += 1;
        assert!(!has_started(&flags(), &existing));
    }
}
