//! Encryption at rest: EncryptionConfiguration, value sealing, keyring, file sealing.
//!
//! Two layers. *Value sealing* ([`ValueSealer`]) is what Kubernetes' EncryptionConfiguration means:
//! single values become ciphertext in Kubernetes' own format before they enter the log. *File
//! sealing* ([`FileKeys`], [`FileSealer`]) covers every byte that goes into the data directory.
//!
//! Layouts: `docs/formats/sealed-file.md`. Nothing here reads a clock or opens a socket; randomness
//! comes in as an argument.
#![deny(clippy::indexing_slicing)]

pub mod file;
pub mod frame;
mod secret;

pub use file::{DataKeyId, FILE_HEADER_LEN, FileError, FileKeys, FileKind};
pub use frame::{FRAME_HEAD_LEN, FRAME_PLAIN_MAX, FileSealer, Frame, FrameError};
