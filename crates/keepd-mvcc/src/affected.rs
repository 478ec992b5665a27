//! The keys and revisions of records in a part of a file that cannot be read.

use std::fmt;

use bytes::Bytes;
use keepd_types::Revision;

use crate::index::{KeyIndex, State};

/// The records that the key index names in a part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affected {
    /// The number of them.
    pub records: u64,
    /// The first of their keys.
    pub first: Bytes,
    /// The last of them.
    pub last: Bytes,
}

impl Affected {
    /// The named records that are wanted; `None` if there is none. Looks at the whole index.
    pub(crate) fn find(index: &KeyIndex, is_wanted: impl Fn(Revision) -> bool) -> Option<Self> {
        let (mut records, mut keys) = (0, Vec::new());
        index.for_each_leaf(|leaf| {
            let mut found: Vec<usize> = Vec::new();
            let mut look = |position: usize, state: &State| {
                if is_wanted(state.revision()) {
                    found.push(position);
                }
            };
            (0..leaf.len()).for_each(|position| look(position, &leaf.state(position)));
            leaf.log().iter().for_each(|past| look(past.position, &past.state));
            for (position, history) in leaf.histories() {
                history.for_each(|state| look(position, state));
            }
            records += found.len() as u64;
            // Leaves come in key order.
            let ends = [found.iter().min(), found.iter().max()];
            keys.extend(ends.into_iter().flatten().map(|position| leaf.key(*position)));
            if keys.len() > 2 {
                keys.drain(1..keys.len() - 1);
            }
        });
        let (first, last) = (keys.first()?.clone().into(), keys.last()?.clone().into());
        Some(Self { records, first, last })
    }
}

impl fmt::Display for Affected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.first.escape_ascii(), self.last.escape_ascii());
        match self.records {
            1 => write!(f, "1 record of key \"{first}\""),
            records => write!(f, "{records} records of keys \"{first}\" to \"{last}\""),
        }
    }
}
