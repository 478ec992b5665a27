//! Against the `crypto_secretbox` crate, the vector of "Cryptography in NaCl", and damage.
#![expect(clippy::indexing_slicing, reason = "tests may panic")]

use crypto_secretbox::XSalsa20Poly1305;
use crypto_secretbox::aead::{AeadInPlace, KeyInit};
use keepd_env::{Random, SeededRandom};

use super::*;

/// Seals in place under key and nonce; or opens, if a tag is given.
type Crypt = fn(&[u8; KEY_LEN], &[u8; NONCE_LEN], &mut [u8], Option<&Tag>) -> Option<Tag>;

/// Every way through the code: for any processor, with the lanes of the tag but without their
/// instructions, and the way this processor takes.
const WAYS: [(&str, Crypt); 3] =
    [("portable", crypt_portable::<false>), ("lanes", crypt_portable::<true>), ("chosen", crypt)];

fn unhex<const N: usize>(text: &str) -> [u8; N] {
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16).unwrap()).unwrap();
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').map(digit).collect();
    let bytes: Vec<u8> = digits.as_chunks().0.iter().map(|[high, low]| high << 4 | low).collect();
    bytes.try_into().unwrap()
}

fn drawn<const N: usize>(random: &SeededRandom) -> [u8; N] {
    let mut bytes = [0; N];
    random.fill(&mut bytes);
    bytes
}

fn equals_the_crate(random: &SeededRandom, len: usize) {
    let (key, nonce) = (drawn(random), drawn(random));
    let mut text = vec![0; len];
    random.fill(&mut text);
    let mut expected = text.clone();
    let expected_tag: Tag = XSalsa20Poly1305::new(&key.into())
        .encrypt_in_place_detached(&nonce.into(), b"", &mut expected)
        .unwrap()
        .into();
    for (way, crypt) in WAYS {
        let mut sealed = text.clone();
        assert_eq!(crypt(&key, &nonce, &mut sealed, None), Some(expected_tag), "{way}, {len}");
        assert!(sealed == expected, "{way}, {len}");
        assert_eq!(crypt(&key, &nonce, &mut sealed, Some(&expected_tag)), Some(expected_tag));
        assert!(sealed == text, "{way}, {len}");
    }
}

#[test]
fn texts_of_every_short_length_equal_those_of_the_crate() {
    let random = SeededRandom::new(1);
    (0..=1100).for_each(|len| equals_the_crate(&random, len));
}

#[test]
fn long_texts_equal_those_of_the_crate() {
    let random = SeededRandom::new(2);
    for len in [1663, 1664, 1665, 4096, 5000, 65_535, 65_536, 100_001, 1 << 20, (3 << 20) + 7] {
        equals_the_crate(&random, len);
    }
}

#[test]
fn the_example_of_nacl_holds() {
    let key = unhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
    let nonce = unhex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37");
    let text: [u8; 131] = unhex(
        "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffc\
         e5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f41db66cce314adb31\
         0e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde\
         048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f93776384864\
         5e0705",
    );
    let sealed: [u8; 131] = unhex(
        "8e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186a\
         c0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738\
         b48eeee314a7cc8ab932164548e526ae90224368517acfeabd6bb3732bc0e9da\
         99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74\
         e355a5",
    );
    let tag = unhex("f3ffc7703f9400e52a7dfb4b3d3305d9");
    for (way, crypt) in WAYS {
        let mut found = text;
        assert_eq!(crypt(&key, &nonce, &mut found, None), Some(tag), "{way}");
        assert_eq!(found, sealed, "{way}");
    }
}

#[test]
fn every_flipped_bit_is_refused_and_the_text_is_left_alone() {
    let random = SeededRandom::new(3);
    let (key, nonce): ([u8; KEY_LEN], [u8; NONCE_LEN]) = (drawn(&random), drawn(&random));
    let flips = |len: usize| (0..8 * len).map(|bit| (bit / 8, 1_u8 << (bit % 8)));
    let flip = |bytes: &mut [u8], (at, bit): (usize, u8)| bytes[at] ^= bit;
    for len in [0, 1, 40, 300] {
        for (way, crypt) in WAYS {
            let mut sealed = vec![0; len];
            random.fill(&mut sealed);
            let tag = crypt(&key, &nonce, &mut sealed, None).unwrap();
            let refused =
                |key: &[u8; KEY_LEN], nonce: &[u8; NONCE_LEN], tag: &Tag, damaged: &[u8]| {
                    let mut text = damaged.to_vec();
                    assert_eq!(crypt(key, nonce, &mut text, Some(tag)), None, "{way}, {len}");
                    assert_eq!(text, damaged, "{way}, {len}");
                };
            for place in flips(len) {
                let mut damaged = sealed.clone();
                flip(&mut damaged, place);
                refused(&key, &nonce, &tag, &damaged);
            }
            for place in flips(TAG_LEN) {
                let mut damaged = tag;
                flip(&mut damaged, place);
                refused(&key, &nonce, &damaged, &sealed);
            }
            for place in flips(NONCE_LEN) {
                let mut damaged = nonce;
                flip(&mut damaged, place);
                refused(&key, &damaged, &tag, &sealed);
            }
            for place in flips(KEY_LEN) {
                let mut damaged = key;
                flip(&mut damaged, place);
                refused(&damaged, &nonce, &tag, &sealed);
            }
        }
    }
}
