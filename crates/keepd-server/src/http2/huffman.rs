//! HPACK's Huffman code (RFC 7541, appendix B).
//!
//! The code is canonical: codes of one length follow each other in the order of their symbols, so
//! that the lengths say all.

/// The lengths of the codes of all bytes.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];
const LENGTH_MIN: u32 = 5;
const LENGTH_MAX: u32 = 30;
/// Codes up to this length, which all letters and digits have, are found with one look.
const SHORT: u32 = 8;

struct Code {
    /// The first code of each length, and how many there are.
    first: [u32; LENGTH_MAX as usize + 1],
    count: [u32; LENGTH_MAX as usize + 1],
    /// The index in `symbols` of the first symbol of each length.
    start: [usize; LENGTH_MAX as usize + 1],
    symbols: [u8; 256],
    /// Symbol and length by the next eight bits; no length if the code is longer.
    short: [(u8, u32); 1 << SHORT],
}

static CODE: Code = code();

const fn code() -> Code {
    let (mut first, mut count) = ([0; LENGTH_MAX as usize + 1], [0; LENGTH_MAX as usize + 1]);
    let (mut start, mut symbols) = ([0; LENGTH_MAX as usize + 1], [0; 256]);
    let mut short = [(0, 0); 1 << SHORT];
    let (mut length, mut next, mut filled) = (LENGTH_MIN, 0, 0);
    while length <= LENGTH_MAX {
        first[length as usize] = next;
        start[length as usize] = filled;
        let mut symbol: u8 = 0;
        loop {
            if LENGTHS[symbol as usize] as u32 == length {
                symbols[filled] = symbol;
                filled += 1;
                let mut rest = 0;
                while length <= SHORT && rest < 1 << (SHORT - length) {
                    short[((next << (SHORT - length)) + rest) as usize] = (symbol, length);
                    rest += 1;
                }
                next += 1;
            }
            if symbol == u8::MAX {
                break;
            }
            symbol += 1;
        }
        count[length as usize] = next - first[length as usize];
        next <<= 1;
        length += 1;
    }
    Code { first, count, start, symbols, short }
}

/// Decodes `coded`; `None` if it is not a code.
pub(super) fn decode(coded: &[u8]) -> Option<Vec<u8>> {
    // BOUND: no code is shorter than five bits.
    let mut out = Vec::with_capacity(coded.len() * 8 / LENGTH_MIN as usize);
    let (mut bits, mut have) = (0_u64, 0_u32);
    for byte in coded {
        bits = bits << 8 | u64::from(*byte);
        have += 8;
        while let Some((symbol, length)) = next(bits, have) {
            out.push(symbol);
            have -= length;
        }
        // BOUND: no code is longer, so that what is left always fits.
        if have >= LENGTH_MAX {
            return None;
        }
    }
    // The last byte is filled up with ones, fewer than a byte.
    let padding = (1 << have) - 1;
    (have < 8 && bits & padding == padding).then_some(out)
}

/// The symbol at the head of the last `have` bits, and its length.
fn next(bits: u64, have: u32) -> Option<(u8, u32)> {
    let head = |length: u32| (bits >> (have - length)) & ((1 << length) - 1);
    if have >= SHORT {
        let (symbol, length) = CODE.short[usize::try_from(head(SHORT)).ok()?];
        if length > 0 {
            return Some((symbol, length));
        }
    }
    let from = if have >= SHORT { SHORT + 1 } else { LENGTH_MIN };
    (from..=have.min(LENGTH_MAX)).find_map(|length| {
        let at = u32::try_from(head(length)).ok()?.checked_sub(CODE.first[length as usize])?;
        let is_code = at < CODE.count[length as usize];
        is_code.then(|| (CODE.symbols[CODE.start[length as usize] + at as usize], length))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(text: &[u8]) -> Vec<u8> {
        let (mut bits, mut have, mut out) = (0_u64, 0, Vec::new());
        for byte in text {
            let length = u32::from(LENGTHS[usize::from(*byte)]);
            let place =
                CODE.symbols[CODE.start[length as usize]..].iter().position(|it| it == byte);
            let code = CODE.first[length as usize] + u32::try_from(place.unwrap()).unwrap();
            bits = bits << length | u64::from(code);
            have += length;
            while have >= 8 {
                have -= 8;
                out.push((bits >> have).to_le_bytes()[0]);
            }
        }
        if have > 0 {
            out.push(((bits << (8 - have)) | ((1 << (8 - have)) - 1)).to_le_bytes()[0]);
        }
        out
    }

    #[test]
    fn every_byte_is_read_in_any_company() {
        for first in 0..=u8::MAX {
            for second in [0, b'a', b'0', first, 255] {
                let text = [first, second, b'x'];
                assert_eq!(decode(&encode(&text)).unwrap(), text);
            }
        }
    }

    #[test]
    fn what_is_no_code_is_refused() {
        for coded in [&[0xff, 0xff, 0xff, 0xff][..], &[0x00, 0x00, 0xff, 0xff], &[0x18]] {
            assert_eq!(decode(coded), None, "{coded:x?}");
        }
        assert_eq!(decode(&[]), Some(Vec::new()));
    }
}
