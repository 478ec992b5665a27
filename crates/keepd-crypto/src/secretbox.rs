//! NaCl's secretbox: XSalsa20 and Poly1305, made for values of some kilobytes.
//!
//! HSalsa20 turns the key and two thirds of the nonce into a key for one value; Salsa20 under that
//! key and the rest of the nonce gives the keystream. Its first 32 bytes are the key of the tag and
//! the text begins right after them, so one run of blocks serves both for a short value.
//!
//! The code is written once and compiled twice: for any processor, and for those with AVX2, where
//! eight blocks are made at a time. Why it is our own: `docs/decisions/0011-own-secretbox.md`.

mod poly1305;
mod salsa20;

use subtle::ConstantTimeEq;

use poly1305::OneTimeKey;
use salsa20::{Keystream, RUN_LEN};

pub(crate) const KEY_LEN: usize = 32;
pub(crate) const NONCE_LEN: usize = 24;
pub(crate) const TAG_LEN: usize = 16;

/// Proves that a text is the one that was sealed.
pub(crate) type Tag = [u8; TAG_LEN];

/// Encrypts `text` where it lies and gives its tag.
pub(crate) fn seal(key: &[u8; KEY_LEN], nonce: &[u8; NONCE_LEN], text: &mut [u8]) -> Tag {
    crypt(key, nonce, text, None).expect("only a tag that was given can be refused")
}

/// Decrypts `text` where it lies; if the tag is not its own, leaves it as it is and says false.
#[must_use]
pub(crate) fn open(
    key: &[u8; KEY_LEN],
    nonce: &[u8; NONCE_LEN],
    tag: &Tag,
    text: &mut [u8],
) -> bool {
    crypt(key, nonce, text, Some(tag)).is_some()
}

/// Opens if there is a tag to compare with, seals otherwise; gives the tag.
fn crypt(
    key: &[u8; KEY_LEN],
    nonce: &[u8; NONCE_LEN],
    text: &mut [u8],
    received: Option<&Tag>,
) -> Option<Tag> {
    // Blocks are counted in 32 bits.
    assert!(u32::try_from(text.len()).is_ok(), "values are shorter than 4 GiB");
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        #[expect(unsafe_code, reason = "only the caller can know what the processor has")]
        // SAFETY: the processor has just been asked for exactly these features.
        return unsafe { crypt_avx2(key, nonce, text, received) };
    }
    crypt_portable::<false>(key, nonce, text, received)
}

/// Whether [`crypt_avx2`] can run; the answer is kept by the standard library.
#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("bmi2")
}

/// [`crypt_portable`] once more, in these instructions.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi2")]
fn crypt_avx2(
    key: &[u8; KEY_LEN],
    nonce: &[u8; NONCE_LEN],
    text: &mut [u8],
    received: Option<&Tag>,
) -> Option<Tag> {
    crypt_portable::<true>(key, nonce, text, received)
}

/// The whole of it. `WIDE` tells that four products of 32 bits at a time are worth their trouble.
///
/// This and all it calls is inlined, for only so is it compiled for the caller's instructions;
/// closures of functions with features of their own would not be.
#[inline(always)]
fn crypt_portable<const WIDE: bool>(
    key: &[u8; KEY_LEN],
    nonce: &[u8; NONCE_LEN],
    text: &mut [u8],
    received: Option<&Tag>,
) -> Option<Tag> {
    let mut keystream = Keystream::new(key, nonce);
    let (mac_key, first) = keystream
        .next_run(RUN_LEN.min(poly1305::KEY_LEN + text.len()))
        .split_first_chunk()
        .expect("a run is longer than the key");
    let mac = OneTimeKey::new(mac_key);
    if let Some(received) = received {
        let tag = mac.tag::<WIDE>(text);
        // As two numbers: byte by byte the constant time would be a long one.
        if !bool::from(u128::from_le_bytes(tag).ct_eq(&u128::from_le_bytes(*received))) {
            return None;
        }
    }
    let (head, rest) = text.split_at_mut(text.len().min(first.len()));
    xor(head, first);
    for part in rest.chunks_mut(RUN_LEN) {
        xor(part, keystream.next_run(part.len()));
    }
    Some(received.copied().unwrap_or_else(|| mac.tag::<WIDE>(text)))
}

/// Adds the keystream to as much of `text` as there is.
#[inline(always)]
fn xor(text: &mut [u8], keystream: &[u8]) {
    for (byte, key) in text.iter_mut().zip(keystream) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests;
