//! Protocol Buffers by hand, for the answers that are assembled from encoded parts.

use keepd_api::etcdserverpb::ResponseHeader;
use keepd_types::varint;

/// Writes a field of wire type 2 (bytes, strings, messages): its tag and length; the content
/// follows. Fields 1 to 15 only.
pub(crate) fn len_field(field: u8, len: usize, out: &mut Vec<u8>) {
    debug_assert!((1..16).contains(&field), "the tag is one byte");
    out.push(field << 3 | 2);
    varint::write_u64(len as u64, out);
}

/// Writes a varint field, left out when zero.
pub(crate) fn int_field(field: u8, value: i64, out: &mut Vec<u8>) {
    debug_assert!((1..16).contains(&field), "the tag is one byte");
    if value != 0 {
        out.push(field << 3);
        varint::write_i64(value, out);
    }
}

/// The length of a field of wire type 2 with its content.
pub(crate) const fn len_field_len(len: usize) -> usize {
    1 + varint::len_u64(len as u64) + len
}

/// Writes `header` as field 1.
pub(crate) fn header_field(header: &ResponseHeader, out: &mut Vec<u8>) {
    let start = out.len();
    // BOUND: four varints of at most 11 bytes with their tags: the length fits one byte.
    out.extend_from_slice(&[0x0a, 0]);
    int_field(1, header.cluster_id.cast_signed(), out);
    int_field(2, header.member_id.cast_signed(), out);
    int_field(3, header.revision, out);
    int_field(4, header.raft_term.cast_signed(), out);
    let len = out.len() - start - 2;
    out[start + 1] = u8::try_from(len).expect("four varint fields are below 128 bytes");
}

#[cfg(test)]
mod tests {
    use keepd_api::etcdserverpb::{PutResponse, RangeResponse};
    use prost::Message;

    use super::*;

    #[test]
    fn hand_written_headers_decode() {
        let header =
            ResponseHeader { cluster_id: u64::MAX, member_id: 7, revision: 1 << 40, raft_term: 2 };
        let mut out = Vec::new();
        header_field(&header, &mut out);
        assert_eq!(PutResponse::decode(out.as_slice()).unwrap().header, Some(header));
        int_field(4, 300, &mut out);
        assert_eq!(RangeResponse::decode(out.as_slice()).unwrap().count, 300);
    }
}
