//! Varints at the front of bytes, for targets that set a field of a payload right.

use keepd_types::varint;

/// How many bytes the first `count` varints take; `None` if there are fewer.
pub(crate) fn len_of(count: usize, bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    for _ in 0..count {
        varint::read_u64(&mut rest)?;
    }
    Some(bytes.len() - rest.len())
}
