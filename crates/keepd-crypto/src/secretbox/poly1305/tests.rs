//! The vectors of RFC 8439, among them those for every carry, and a slow obvious computation.

use proptest::prelude::*;

use super::*;

fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16).unwrap()).unwrap();
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').map(digit).collect();
    digits.as_chunks().0.iter().map(|[high, low]| high << 4 | low).collect()
}

fn key(bytes: &[u8]) -> [u8; KEY_LEN] {
    let mut key = [0; KEY_LEN];
    key.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
    key
}

fn check(key_bytes: &[u8], text: &[u8], tag: &str) {
    let key = OneTimeKey::new(&key(key_bytes));
    assert_eq!(key.tag::<false>(text).to_vec(), unhex(tag));
    assert_eq!(key.tag::<true>(text).to_vec(), unhex(tag));
}

#[test]
fn the_vectors_of_rfc_8439_hold() {
    let cookbook = unhex("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b");
    let text = b"Cryptographic Forum Research Group";
    check(&cookbook, text, "a8061dc1305136c6c22b8baf0c0127a9");
    check(&[0; 32], &[0; 64], "00000000000000000000000000000000");
    let submission: &[u8] = b"Any submission to the IETF intended by the Contributor for \
        publication as all or part of an IETF Internet-Draft or RFC and any statement made within \
        the context of an IETF activity is considered an \"IETF Contribution\". Such statements \
        include oral statements in IETF sessions, as well as written and electronic \
        communications made at any time or place, which are addressed to";
    let point = unhex("36e5f6b5c5e06070f0efca96227a863e");
    check(&[&[0; 16][..], &point].concat(), submission, "36e5f6b5c5e06070f0efca96227a863e");
    check(&point, submission, "f3477e7cd95417af89a6b8794c310cf0");
    let key = unhex("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0");
    let text = b"'Twas brillig, and the slithy toves\nDid gyre and gimble in the wabe:\n\
        All mimsy were the borogoves,\nAnd the mome raths outgrabe.";
    check(&key, text, "4541669a7eaaee61e708dc7cbcc5eb62");
}

#[test]
fn the_vectors_of_rfc_8439_for_carries_hold() {
    let ones = "ffffffffffffffffffffffffffffffff";
    check(&[2], &unhex(ones), "03000000000000000000000000000000");
    let key = unhex(&format!("02000000000000000000000000000000{ones}"));
    let two = unhex("02000000000000000000000000000000");
    check(&key, &two, "03000000000000000000000000000000");
    let text = format!("{ones} f0ffffffffffffffffffffffffffffff 11000000000000000000000000000000");
    check(&[1], &unhex(&text), "05000000000000000000000000000000");
    let text = format!("{ones} fbfefefefefefefefefefefefefefefe 01010101010101010101010101010101");
    check(&[1], &unhex(&text), "00000000000000000000000000000000");
    let text = unhex("fdffffffffffffffffffffffffffffff");
    check(&[2], &text, "faffffffffffffffffffffffffffffff");
    let key = unhex("01000000000000000400000000000000");
    let text = "e33594d7505e43b900000000000000003394d7505e4379cd01000000000000000000000000000000\
        0000000000000000";
    check(&key, &unhex(text), "13000000000000000000000000000000");
    let text = format!("{text}01000000000000000000000000000000");
    check(&key, &unhex(&text), "14000000000000005500000000000000");
}

/// A number modulo 2^130 - 5: its low 128 bits and what is above them.
#[derive(Clone, Copy)]
struct Slow(u128, u128);

impl Slow {
    /// The rest below 2^130 - 5, of a number below 2^140.
    fn reduced(self) -> Self {
        let (low, has_carried) = self.0.overflowing_add((self.1 >> 2) * 5);
        let high = (self.1 & 3) + u128::from(has_carried);
        let is_above = high > 3 || (high == 3 && low >= 0_u128.wrapping_sub(5));
        if is_above { Self(low.wrapping_add(5), 0) } else { Self(low, high) }
    }

    fn plus(self, other: Self) -> Self {
        let (low, has_carried) = self.0.overflowing_add(other.0);
        Self(low, self.1 + other.1 + u128::from(has_carried)).reduced()
    }

    /// By doubling and adding, bit by bit.
    fn times(self, factor: u128) -> Self {
        (0..128).rev().fold(Self(0, 0), |sum, bit| {
            let doubled = sum.plus(sum);
            if factor >> bit & 1 == 1 { doubled.plus(self) } else { doubled }
        })
    }
}

fn slow_tag(key: &[u8; KEY_LEN], text: &[u8]) -> [u8; TAG_LEN] {
    let [r, pad] = key.as_chunks().0 else { panic!("twice 16 is 32") };
    let r = u128::from_le_bytes(*r) & CLAMP;
    let mut sum = Slow(0, 0);
    for block in text.chunks(BLOCK_LEN) {
        let mut bytes = [0; BLOCK_LEN + 1];
        bytes.iter_mut().zip(block.iter().chain(&[1])).for_each(|(place, byte)| *place = *byte);
        let [low @ .., high] = bytes;
        sum = sum.plus(Slow(u128::from_le_bytes(low), u128::from(high))).times(r);
    }
    sum.0.wrapping_add(u128::from_le_bytes(*pad)).to_le_bytes()
}

fn equals_the_slow_way(key: &[u8; KEY_LEN], text: &[u8]) {
    let expected = slow_tag(key, text);
    assert_eq!(OneTimeKey::new(key).tag::<false>(text), expected, "{} bytes", text.len());
    assert_eq!(OneTimeKey::new(key).tag::<true>(text), expected, "{} bytes", text.len());
}

#[test]
fn the_largest_limbs_carry_rightly_at_every_length() {
    for len in 0..=700 {
        equals_the_slow_way(&[0xff; KEY_LEN], &vec![0xff; len]);
        equals_the_slow_way(&key(&[0xfc; 16]), &vec![0xfb; len]);
        equals_the_slow_way(&key(&[1]), &vec![0xff; len]);
        equals_the_slow_way(&key(&[2]), &vec![0xff; len]);
        equals_the_slow_way(&key(&[0, 0, 0, 0, 4]), &vec![0xff; len]);
    }
}

proptest! {
    #[test]
    fn tags_equal_the_slow_way(
        key: [u8; KEY_LEN],
        text in prop::collection::vec(prop_oneof![any::<u8>(), Just(0xff), Just(0)], 0..700),
    ) {
        equals_the_slow_way(&key, &text);
    }
}
