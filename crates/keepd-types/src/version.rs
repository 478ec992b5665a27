//! The versions keepd answers with: those of the etcd release it speaks like.
//!
//! Clients decide on features by them (kube-apiserver reads the server version of every member
//! before it trusts progress requests), so they name etcd's release and not keepd's.

/// The server's version, as Status and `/version` give it.
pub const SERVER_VERSION: &str = "3.7.1";
/// The version all members agree on, as `/version` writes it.
pub const CLUSTER_VERSION: &str = "3.7.0";
/// The version of the storage schema, in Status and in snapshot files.
pub const STORAGE_VERSION: &str = "3.7.0";
/// The major and minor version of the protocol, as clients send it in `client-api-version`.
pub const API_VERSION: &str = "3.7";

/// The major and minor number of a version: what a cluster version says. Shown as `3.7.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The major number.
    pub major: u64,
    /// The minor number.
    pub minor: u64,
}

impl Version {
    /// Reads `3.7.1`, with what may follow, or `3.7`, as etcd does.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::parse_whole(text).or_else(|| Self::parse_whole(&format!("{text}.0")))
    }

    fn parse_whole(text: &str) -> Option<Self> {
        let text = text.split_once('+').map_or(text, |(version, _metadata)| version);
        let text = text.split_once('-').map_or(text, |(version, _pre_release)| version);
        let mut numbers = text.splitn(3, '.').map(|part| part.parse::<i64>().ok()?.try_into().ok());
        let (major, minor) = (numbers.next()??, numbers.next()??);
        let _patch: u64 = numbers.next()??;
        Some(Self { major, minor })
    }

    /// The minor version before this one: the only one that etcd's clusters go back to.
    #[must_use]
    pub fn below(self) -> Option<Self> {
        Some(Self { minor: self.minor.checked_sub(1)?, ..self })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.0", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_etcd_reads_them() {
        let version = |major, minor| Some(Version { major, minor });
        for (text, read) in [
            ("3.7.1", version(3, 7)),
            ("3.6", version(3, 6)),
            ("3.8.0-rc.1+x", version(3, 8)),
            ("3", None),
            ("v3.6", None),
            ("3.6.0.0", None),
            ("3.x.0", None),
            ("", None),
        ] {
            assert_eq!(Version::parse(text), read, "{text:?}");
        }
        assert_eq!(Version::parse(SERVER_VERSION).unwrap().to_string(), CLUSTER_VERSION);
        assert_eq!(Version { major: 3, minor: 0 }.below(), None);
    }
}
