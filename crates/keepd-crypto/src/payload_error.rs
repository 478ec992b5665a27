//! Failures to open the payload of a sealed value, in Kubernetes' words.

use thiserror::Error;

/// Reason why a payload does not open under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PayloadError {
    /// Too few bytes for nonce and tag, or an initialisation vector with nothing after it.
    #[error("the stored data was shorter than the required size")]
    Short,
    /// Not whole blocks.
    #[error("the stored data is not a multiple of the block size")]
    PartialBlock,
    /// The padding is not PKCS#7: another key, or damage.
    #[error("invalid padding on input")]
    Padding,
    /// The bytes are not the object that a KMS provider writes.
    #[error("the stored data is not a KMS v2 object")]
    Malformed,
    /// The tag does not match: another key, another record's value, or damage.
    #[error("message authentication failed")]
    Authentication,
}
