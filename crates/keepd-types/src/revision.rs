//! Revisions: `main` counts mutations of the store, `sub` the changes inside one mutation.

use std::fmt;

/// The place of one change in the total order of all changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// The mutation; a new store stands at 1, the first write is 2.
    pub main: i64,
    /// The position of the change inside its mutation, from 0.
    pub sub: i64,
}

impl Revision {
    /// The revision of the first change of mutation `main`.
    #[must_use]
    pub const fn first(main: i64) -> Self {
        Self { main, sub: 0 }
    }

    /// etcd's record key: main big-endian, `_`, sub big-endian, and `t` after a tombstone's.
    ///
    /// Hashes and exported files depend on these bytes.
    #[must_use]
    pub fn to_bytes(self, tombstone: bool) -> ([u8; 18], usize) {
        let mut bytes = [0; 18];
        bytes[..8].copy_from_slice(&self.main.to_be_bytes());
        bytes[8] = b'_';
        bytes[9..17].copy_from_slice(&self.sub.to_be_bytes());
        bytes[17] = b't';
        (bytes, if tombstone { 18 } else { 17 })
    }

    /// Reads a record key; the flag tells whether it is a tombstone's.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<(Self, bool)> {
        let tombstone = match bytes.len() {
            17 => false,
            18 if bytes[17] == b't' => true,
            _ => return None,
        };
        if bytes[8] != b'_' {
            return None;
        }
        let main = i64::from_be_bytes(bytes[..8].try_into().ok()?);
        let sub = i64::from_be_bytes(bytes[9..17].try_into().ok()?);
        Some((Self { main, sub }, tombstone))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.main, self.sub)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_keys_round_trip_and_sort_as_revisions() {
        let a = Revision { main: 6, sub: 1 };
        let b = Revision { main: 6, sub: 256 };
        for (revision, tombstone) in [(a, false), (b, true)] {
            let (bytes, len) = revision.to_bytes(tombstone);
            assert_eq!(Revision::from_bytes(&bytes[..len]), Some((revision, tombstone)));
        }
        assert!(a.to_bytes(false).0[..17] < b.to_bytes(false).0[..17]);
        assert_eq!(Revision::from_bytes(b"short"), None);
    }
}
