//! Kubernetes' `EncryptionConfiguration`, read from YAML or JSON.
//!
//! Strict as upstream: unknown and repeated fields are errors, and a file either is right as a
//! whole or is refused with everything that is wrong with it, each with its path and a remedy. A
//! value of this type cannot be wrong. What keepd adds lives in resource names
//! (`prefix:/some/keys/`), which kube-apiserver accepts as names of resources that do not exist;
//! see `docs/formats/sealed-value.md`.
//!
//! A [`ConfigFile`] is what the file says, an [`EncryptionConfig`] has the bytes of every key.

mod error;
mod file;
mod hints;
mod kms;
mod options;
mod read;
mod resolved;
mod rule;
mod tree;
mod validate;

pub use error::{ConfigError, FieldError};
pub use file::ConfigFile;
pub use options::{AlreadySealed, ConfigOptions};
pub use resolved::EncryptionConfig;
pub(crate) use rule::Provider;

#[cfg(test)]
mod tests;
