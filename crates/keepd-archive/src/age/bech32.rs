//! Bech32 (BIP 173) without its limit on the length: the form of age's keys.

const CHARACTERS: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
const CHECKSUM_LEN: usize = 6;
/// BOUND: characters of a string that is read; age's keys have 62 and 74.
const LEN_MAX: usize = 128;

/// Encodes bytes behind a prefix, in lower case.
pub(super) fn encode(prefix: &str, bytes: &[u8]) -> String {
    let mut values = regrouped::<8, 5>(bytes, true).expect("padding always fits");
    let mut checked = expanded(prefix);
    checked.extend_from_slice(&values);
    checked.extend_from_slice(&[0; CHECKSUM_LEN]);
    let sum = polymod(&checked) ^ 1;
    for place in (0..CHECKSUM_LEN).rev() {
        values.push(low_five(sum >> (5 * place)));
    }
    let text = values.iter().map(|value| char::from(CHARACTERS[usize::from(*value)]));
    format!("{prefix}1{}", text.collect::<String>())
}

/// Decodes a string that has this prefix; none if anything is wrong with it.
pub(super) fn decode(prefix: &str, text: &str) -> Option<Vec<u8>> {
    let is_mixed = text.bytes().any(|b| b.is_ascii_lowercase())
        && text.bytes().any(|b| b.is_ascii_uppercase());
    if text.len() > LEN_MAX || is_mixed {
        return None;
    }
    let text = text.to_ascii_lowercase();
    let data = text.strip_prefix(prefix)?.strip_prefix('1')?;
    let value = |byte| CHARACTERS.iter().position(|known| *known == byte);
    let values: Vec<u8> = data
        .bytes()
        .map(|byte| value(byte).and_then(|value| u8::try_from(value).ok()))
        .collect::<Option<_>>()?;
    let mut checked = expanded(prefix);
    checked.extend_from_slice(&values);
    if polymod(&checked) != 1 {
        return None;
    }
    let (values, _checksum) = values.split_at_checked(values.len().checked_sub(CHECKSUM_LEN)?)?;
    regrouped::<5, 8>(values, false)
}

/// The prefix as the checksum covers it.
fn expanded(prefix: &str) -> Vec<u8> {
    let high = prefix.bytes().map(|byte| byte >> 5);
    high.chain([0]).chain(prefix.bytes().map(|byte| byte & 31)).collect()
}

fn polymod(values: &[u8]) -> u32 {
    values.iter().fold(1, |sum, value| {
        let top = sum >> 25;
        let next = ((sum & 0x01ff_ffff) << 5) ^ u32::from(*value);
        let terms = GENERATOR.iter().enumerate().filter(|(bit, _)| (top >> bit) & 1 == 1);
        terms.fold(next, |sum, (_, term)| sum ^ term)
    })
}

/// Groups of `FROM` bits as groups of `TO` bits. What is left over is padded, or must be padding.
fn regrouped<const FROM: u32, const TO: u32>(values: &[u8], pads: bool) -> Option<Vec<u8>> {
    let (mut bits, mut count) = (0_u32, 0_u32);
    let mut out = Vec::with_capacity(values.len() * 2);
    let group = |bits: u32| u8::try_from(bits & ((1 << TO) - 1)).ok();
    for value in values {
        bits = (bits << FROM) | u32::from(*value);
        count += FROM;
        while count >= TO {
            count -= TO;
            out.push(group(bits >> count)?);
        }
        bits &= (1 << count) - 1;
    }
    if pads {
        if count > 0 {
            out.push(group(bits << (TO - count))?);
        }
    } else if count >= FROM || bits != 0 {
        return None;
    }
    Some(out)
}

fn low_five(value: u32) -> u8 {
    u8::try_from(value & 31).expect("five bits")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn strings_of_the_specification() {
        // Valid and invalid checksums from BIP 173.
        assert_eq!(decode("a", "A12UEL5L"), Some(Vec::new()));
        assert_eq!(decode("a", "a12uel5l"), Some(Vec::new()));
        assert_eq!(decode("a", "a12ueL5l"), None);
        assert_eq!(decode("a", "a12uel5q"), None);
        assert_eq!(decode("b", "a12uel5l"), None);
        let text = "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw";
        assert_eq!(
            decode("abcdef", text).map(|bytes| encode("abcdef", &bytes)).as_deref(),
            Some(text)
        );
    }

    proptest! {
        #[test]
        fn bytes_come_back_and_a_changed_character_is_found(
            bytes in proptest::collection::vec(any::<u8>(), 0..48),
            at in any::<prop::sample::Index>(),
        ) {
            let text = encode("age", &bytes);
            prop_assert_eq!(decode("age", &text), Some(bytes));
            let mut changed = text.into_bytes();
            let at = 4 + at.index(changed.len() - 4);
            changed[at] = if changed[at] == b'q' { b'p' } else { b'q' };
            prop_assert_eq!(decode("age", &String::from_utf8(changed).unwrap()), None);
        }
    }
}
