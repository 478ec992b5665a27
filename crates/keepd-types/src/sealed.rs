//! Values as the log and the store hold them: plain, or sealed by a provider.

use bytes::Bytes;

use crate::KeyId;

/// Length and checksums of a plaintext: enough to size, count and hash it without holding it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlainDigest {
    /// Its length in bytes.
    pub len: u32,
    /// Its CRC-32C.
    pub crc32c: u32,
}

impl PlainDigest {
    /// The digest of `plain`.
    ///
    /// # Panics
    /// If `plain` is 4 GiB or longer; request limits keep values far below.
    #[must_use]
    pub fn of(plain: &[u8]) -> Self {
        let len = u32::try_from(plain.len()).expect("request limits keep values below 4 GiB");
        Self { len, crc32c: crc32c::crc32c(plain) }
    }
}

/// The mark outside a value that says it is ciphertext of ours.
///
/// It is kept beside the bytes and never guessed from them: a client may itself store bytes that
/// begin with `k8s:enc:`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealMark {
    /// The key that opens it.
    pub key_id: KeyId,
    /// The plaintext's digest, for hashes and limits.
    pub plain: PlainDigest,
}

/// A value with its mark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredValue {
    /// The bytes as stored: the plaintext, or Kubernetes' `k8s:enc:` form of it.
    pub bytes: Bytes,
    /// Present if the bytes are ciphertext of ours.
    pub seal: Option<SealMark>,
}

impl StoredValue {
    /// A value stored as it is.
    #[must_use]
    pub const fn plain(bytes: Bytes) -> Self {
        Self { bytes, seal: None }
    }

    /// The length of the plaintext, which is what limits and quotas count.
    #[must_use]
    pub fn plain_len(&self) -> usize {
        self.seal.map_or(self.bytes.len(), |seal| seal.plain.len as usize)
    }
}
