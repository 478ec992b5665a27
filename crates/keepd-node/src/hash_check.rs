//! The comparison of the members by the hashes of their keys, as etcd's corruption checks do it: at a
//! start, at intervals, and of what compactions left.
//!
//! Unlike etcd's, none takes the leader's hash for the right one: the majority's is.

use std::collections::BTreeMap;

use keepd_mvcc::HashKv;
use keepd_types::MemberId;

use crate::error::Error;
use crate::handle::Handle;
use crate::messages::PeerHash;

/// Result of a comparison of hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashVerdict {
    /// All that could be compared have the same.
    Same {
        /// The number of other members that were compared.
        compared: usize,
        /// Whether those are all.
        is_complete: bool,
    },
    /// These members differ from the majority.
    Minority(Vec<MemberId>),
    /// The members differ, and no hash can have a majority.
    NoMajority,
    /// Some members differ, and it depends on those that were not compared who is right.
    Undecided,
}

impl Handle {
    /// Compares the hash of this member's keys with that of the others at the same revision, where
    /// they have compacted as much.
    ///
    /// # Errors
    /// `NoLeader`, `TimedOut` or `Stopped`.
    pub async fn compare_hashes(&self, own: HashKv) -> Result<HashVerdict, Error> {
        let others = self.others();
        let mut hashes = vec![(self.identity().member, own.hash)];
        let mut revisions = Vec::new();
        for other in &others {
            let answer = match self.hash_kv_of(*other, own.revision).await {
                Err(Error::Stopped) => return Err(Error::Stopped),
                answer => answer,
            };
            if let Ok(Some(PeerHash::Hashed { hash, revision })) = answer {
                revisions.push((*other, revision));
                if (hash.compact_revision, hash.revision) == (own.compact_revision, own.revision) {
                    hashes.push((*other, hash.hash));
                    continue;
                }
            }
            tracing::debug!(peer = %other, ?answer, "skipped a peer's hash");
        }
        if let Some(verdict) = judge(&hashes, others.len() + 1) {
            return Ok(verdict);
        }
        // Nobody can have written what this member, asking the cluster now, does not know.
        let current = self.linearizable_view().await?.revision();
        let ahead = revisions.into_iter().filter(|(_, revision)| *revision > current);
        let ahead: Vec<MemberId> = ahead.map(|(member, _)| member).collect();
        if !ahead.is_empty() {
            return Ok(HashVerdict::Minority(ahead));
        }
        let compared = hashes.len() - 1;
        Ok(HashVerdict::Same { compared, is_complete: compared == others.len() })
    }
}

/// The verdict where hashes differ.
fn judge(hashes: &[(MemberId, u32)], members: usize) -> Option<HashVerdict> {
    let mut holders: BTreeMap<u32, Vec<MemberId>> = BTreeMap::new();
    for (member, hash) in hashes {
        holders.entry(*hash).or_default().push(*member);
    }
    if holders.len() < 2 {
        return None;
    }
    let quorum = members / 2 + 1;
    let most = holders.values().map(Vec::len).max().unwrap_or(0);
    if most >= quorum {
        let others = holders.into_values().filter(|holders| holders.len() < quorum);
        let mut accused: Vec<MemberId> = others.flatten().collect();
        accused.sort_unstable();
        return Some(HashVerdict::Minority(accused));
    }
    let missing = members - hashes.len();
    let may_decide = most + missing >= quorum;
    Some(if may_decide { HashVerdict::Undecided } else { HashVerdict::NoMajority })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_majority_is_right_whoever_asks() {
        let judged = |hashes: &[u32], members| {
            let hashes: Vec<_> = (1..).map(MemberId).zip(hashes.iter().copied()).collect();
            judge(&hashes, members)
        };
        let minority =
            |ids: &[u64]| Some(HashVerdict::Minority(ids.iter().copied().map(MemberId).collect()));
        assert_eq!(judged(&[7], 3), None);
        assert_eq!(judged(&[7, 7, 7], 3), None);
        assert_eq!(judged(&[7, 8, 8], 3), minority(&[1]), "the one who asks");
        assert_eq!(judged(&[7, 7, 8], 3), minority(&[3]));
        assert_eq!(judged(&[7, 8], 3), Some(HashVerdict::Undecided));
        assert_eq!(judged(&[7, 8], 2), Some(HashVerdict::NoMajority));
        assert_eq!(judged(&[7, 8, 9], 3), Some(HashVerdict::NoMajority));
        assert_eq!(judged(&[7, 7, 7, 8, 9], 5), minority(&[4, 5]));
        assert_eq!(judged(&[7, 7, 8, 8], 5), Some(HashVerdict::Undecided));
    }
}
