//! Reads of the key index: ranges, their states and their number, at a revision.

use bytes::Bytes;
use keepd_types::KeyRange;

use crate::error::RangeError;
use crate::index::{KeyBuffer, KeyIndex, State};
use crate::record::{KeyState, RangeRefs, RangeStates};

/// The revision that a read at `at` means: 0 is the current one.
pub(crate) const fn resolve(at: i64, current: i64, compacted: i64) -> Result<i64, RangeError> {
    if at == 0 {
        Ok(current)
    } else if at > current {
        Err(RangeError::Future { required: at, current })
    } else if at < compacted {
        Err(RangeError::Compacted { required: at, compacted })
    } else {
        Ok(at)
    }
}

/// The keys of a range with the revisions of their records.
pub(crate) fn range_refs(index: &KeyIndex, range: &KeyRange, at: i64, limit: usize) -> RangeRefs {
    let mut keys = KeyBuffer::new();
    let count = index.scan(range, at, limit, |prefix, suffix, state| {
        keys.push(prefix, suffix, state.revision());
    });
    RangeRefs { keys: keys.finish(), count }
}

/// The keys of a range with their states.
pub(crate) fn range_states(
    index: &KeyIndex,
    range: &KeyRange,
    at: i64,
    limit: usize,
) -> RangeStates {
    let mut keys = KeyBuffer::new();
    let count = index.scan(range, at, limit, |prefix, suffix, state| {
        keys.push(prefix, suffix, state);
    });
    let state_of = |(key, state): (Bytes, State)| Some((key, state.live()?));
    RangeStates { keys: keys.finish().into_iter().filter_map(state_of).collect(), count }
}

/// Whether every key of a range passes; `None` if there is none.
pub(crate) fn all_live(
    index: &KeyIndex,
    range: &KeyRange,
    at: i64,
    mut passes: impl FnMut(&[u8], &[u8], &KeyState) -> bool,
) -> Option<bool> {
    index.all(range, at, |prefix, suffix, state| {
        state.live().is_none_or(|state| passes(prefix, suffix, &state))
    })
}

/// The number of keys of a range.
pub(crate) fn range_count(index: &KeyIndex, range: &KeyRange, at: i64) -> u64 {
    // A limit of one is shown and dropped: beyond it whole subtrees are counted at once.
    index.scan(range, at, 1, |_, _, _| ())
}
