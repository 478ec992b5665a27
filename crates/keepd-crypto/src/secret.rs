//! Key material: wiped when dropped, never printed, compared in constant time.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use keepd_env::Random;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Length of a data key and of a file's own key.
pub(crate) const KEY_LEN: usize = 32;

/// Bytes that must not leak.
#[derive(Clone)]
pub(crate) struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Draws the bytes of an AES-256 key.
    pub(crate) fn random(random: &dyn Random) -> Self {
        let mut bytes = vec![0; KEY_LEN];
        random.fill(&mut bytes);
        Self::new(bytes)
    }

    /// The bytes, for a cipher.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// HKDF-SHA256 with `salt`, into an AES-256-GCM key for `info`.
pub(crate) fn derive_aead(salt: &[u8], secret: &Secret, info: &[&[u8]]) -> LessSafeKey {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    Salt::new(HKDF_SHA256, salt)
        .extract(secret.expose())
        .expand(info, HKDF_SHA256)
        .and_then(|okm| okm.fill(key.as_mut_slice()))
        .expect("32 bytes are what HKDF-SHA256 gives in one block");
    let key = UnboundKey::new(&AES_256_GCM, key.as_slice()).expect("AES-256 takes 32 bytes");
    LessSafeKey::new(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", Secret::new(b"hidden".to_vec())), "<secret>");
    }
}
