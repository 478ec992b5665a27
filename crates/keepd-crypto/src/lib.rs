//! Encryption at rest: EncryptionConfiguration, value sealing, keyring, file sealing.
//!
//! Two layers. *Value sealing* ([`ValueSealer`]) is what Kubernetes' EncryptionConfiguration means:
//! single values become ciphertext in Kubernetes' own format before they enter the log. *File
//! sealing* ([`FileKeys`], [`FileSealer`]) covers every byte that goes into the data directory.
//!
//! [`Encryption`] holds both and replaces them together when the configuration is reloaded.
//!
//! Layouts: `sealed-file.md`, `sealed-value.md` and `keyring.md` in `docs/formats`. Nothing here
//! reads a clock or opens a socket; randomness comes in as an argument.
#![deny(clippy::indexing_slicing)]

pub mod cipher;
pub mod config;
mod digest;
pub mod encryption;
pub mod file_header;
pub mod file_keys;
pub mod file_sealer;
pub mod key_service;
pub mod keygen;
pub mod keyring;
mod kms_object;
mod payload_error;
pub mod resource;
mod secret;
mod secretbox;
pub mod value;
mod wiping;
mod wrapped_secret;

pub use cipher::{Algorithm, BINDING_LEN, KeyName};
pub use config::{
    AlreadySealed, ConfigError, ConfigFile, ConfigOptions, EncryptionConfig, FieldError,
};
pub use encryption::{Encryption, EncryptionStatus, ReloadError, ReloadReport, list_in_use};
pub use file_header::{DataKeyId, FILE_HEADER_LEN, FILE_MAGIC, FileError, FileKind};
pub use file_keys::FileKeys;
pub use file_sealer::{
    FRAME_HEAD_LEN, FRAME_PLAIN_MAX, FileSealer, Frame, FrameError, FrameTooLong,
};
pub use key_service::{
    Answer, KeyService, KeyServiceError, KeyServices, NoKeyServices, ServiceProvider, WrappedKey,
};
pub use keygen::{new_secret, quickstart_config};
pub use keyring::{Inspected, Keyring, KeyringChange, KeyringError, KeyringState};
pub use payload_error::PayloadError;
pub use resource::{Directories, KeyContent, Scope};
pub use value::{OpenError, Opened, ReadError, ReadFailure, RuleStatus, SealError, ValueSealer};
pub use wiping::{is_wiping, wiping};
pub use wrapped_secret::{UnwrapError, WrappedSecret};
