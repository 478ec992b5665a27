//! Protocol Buffers' base-128 varints, for the few messages that are encoded by hand.

/// The most bytes a 64-bit varint takes.
pub const VARINT_LEN_MAX: usize = 10;

/// Appends `value`.
pub fn write_u64(mut value: u64, out: &mut Vec<u8>) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Appends `value` as protobuf's int64 does: two's complement, ten bytes when negative.
pub fn write_i64(value: i64, out: &mut Vec<u8>) {
    write_u64(value.cast_unsigned(), out);
}

/// The encoded length of `value`.
#[must_use]
pub const fn len_u64(value: u64) -> usize {
    // BOUND: 64 bits in groups of seven are at most ten bytes.
    ((64 - (value | 1).leading_zeros()) as usize).div_ceil(7)
}

/// Reads a varint off the front of `bytes`; `None` if it is cut short or longer than 64 bits.
pub fn read_u64(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for (position, byte) in bytes.iter().take(VARINT_LEN_MAX).enumerate() {
        let low = u64::from(byte & 0x7f);
        if position == VARINT_LEN_MAX - 1 && low > 1 {
            return None;
        }
        value |= low << (7 * position);
        if byte & 0x80 == 0 {
            *bytes = &bytes[position + 1..];
            return Some(value);
        }
    }
    None
}

/// Reads protobuf's int64.
pub fn read_i64(bytes: &mut &[u8]) -> Option<i64> {
    read_u64(bytes).map(u64::cast_signed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_round_trip(value: i64) {
            let mut out = Vec::new();
            write_i64(value, &mut out);
            prop_assert_eq!(out.len(), len_u64(value.cast_unsigned()));
            prop_assert_eq!(read_i64(&mut out.as_slice()), Some(value));
            prop_assert_eq!(read_i64(&mut &out[..out.len() - 1]), None);
        }
    }
}
