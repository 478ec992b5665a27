//! Identifiers, each its own type so that none can stand in for another.

use std::fmt;

use sha1::{Digest, Sha1};

/// A lease; any non-zero number, negative ones included. Zero means "no lease".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl LeaseId {
    /// The absence of a lease.
    pub const NONE: Self = Self(0);

    /// Whether this is the absence of a lease.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// A member of the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

/// A cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u64);

/// A position in the Raft log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RaftIndex(pub u64);

/// A Raft term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// A value-sealing key, known by its check value: the same on every member, without the secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub u64);

macro_rules! hex_display {
    ($($id:ty),*) => {$(
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:x}", self.0)
            }
        }
    )*};
}
hex_display!(LeaseId, MemberId, ClusterId, KeyId);

impl MemberId {
    /// etcd's rule: SHA-1 over the sorted peer URLs and the cluster token, its first eight bytes
    /// big-endian. A member added at run time appends the decimal unix seconds instead.
    #[must_use]
    pub fn from_peer_urls(peer_urls: &[String], token: &str, unix_seconds: Option<u64>) -> Self {
        let mut urls: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
        urls.sort_unstable();
        let mut hash = Sha1::new();
        for url in urls {
            hash.update(url.as_bytes());
        }
        hash.update(token.as_bytes());
        if let Some(seconds) = unix_seconds {
            hash.update(seconds.to_string().as_bytes());
        }
        Self(first_eight(hash))
    }
}

impl ClusterId {
    /// etcd's rule: SHA-1 over the member ids in ascending order, its first eight bytes.
    #[must_use]
    pub fn from_members(members: &[MemberId]) -> Self {
        let mut members = members.to_vec();
        members.sort_unstable();
        let mut hash = Sha1::new();
        for member in members {
            hash.update(member.0.to_be_bytes());
        }
        Self(first_eight(hash))
    }
}

fn first_eight(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, token: &str, member: u64, cluster: u64) {
        let id = MemberId::from_peer_urls(&[url.to_owned()], token, None);
        assert_eq!(id, MemberId(member));
        assert_eq!(ClusterId::from_members(&[id]), ClusterId(cluster));
    }

    #[test]
    #[expect(clippy::unreadable_literal, reason = "printed this way by etcd")]
    fn ids_equal_etcds() {
        check("http://127.0.0.1:31001", "tok1", 8665890131966107680, 16225764714730738011);
        check("http://127.0.0.1:31011", "etcd-cluster", 928932050308230910, 12848887755319212776);
        check("http://localhost:2380", "etcd-cluster", 0x8e9e05c52164694d, 0xcdf818194e3a8c32);
    }
}
