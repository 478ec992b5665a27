//! Key services: keys that have no bytes here.
//!
//! A key service (a KMS) never gives its key away. It encrypts a data key that keepd draws, and
//! decrypts it again at a start. So its answers come later, may fail, and may be under another key
//! each time: the service names its keys, not the configuration.
//!
//! [`ConfigFile::resolve`](crate::ConfigFile::resolve) is the only place that waits for one. What
//! it returns has the bytes of every key, so that sealing, opening and the keyring wait for nobody.
//! keepd has no client of a key service yet; see `docs/decisions/0012-key-services.md`.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use zeroize::Zeroizing;

/// BOUND: bytes of a key's id, and of a wrapped key, as in Kubernetes.
const FIELD_LEN_MAX: usize = 1024;
/// BOUND: bytes of all annotations of a wrapped key, as in Kubernetes.
const ANNOTATIONS_LEN_MAX: usize = 32 * 1024;

/// A key service as an encryption configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceProvider {
    /// Name of the provider; values sealed with it carry the name.
    pub name: String,
    /// Address of the service, a `unix://` URL.
    pub endpoint: String,
    /// Time limit of a call.
    pub timeout: Duration,
}

/// A data key, encrypted by a key service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedKey {
    /// Name of the provider in the configuration.
    pub provider: String,
    /// Key that encrypts it, as the service calls it.
    pub key_id: String,
    /// The encrypted data key.
    pub ciphertext: Vec<u8>,
    /// Whatever the service needs to decrypt it.
    pub annotations: BTreeMap<String, Vec<u8>>,
}

impl WrappedKey {
    /// Whether its parts have the lengths that Kubernetes allows.
    pub(crate) fn is_well_formed(&self) -> bool {
        let fits = |len: usize| (1..=FIELD_LEN_MAX).contains(&len);
        let annotations_len: usize =
            self.annotations.iter().map(|(name, value)| name.len() + value.len()).sum();
        fits(self.key_id.len())
            && fits(self.ciphertext.len())
            && annotations_len <= ANNOTATIONS_LEN_MAX
    }
}

/// Failure of a key service. Another call may succeed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("kms provider {provider:?}: {reason}")]
pub struct KeyServiceError {
    /// Name of the provider in the configuration.
    pub provider: String,
    /// Reason of the failure.
    pub reason: String,
}

/// An answer that comes later.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, KeyServiceError>> + Send + 'a>>;

/// A key service. Each call ends in bounded time: a service that does not answer is a failure.
pub trait KeyService: fmt::Debug + Send + Sync {
    /// Tells which key the service encrypts with now; another answer than before means that it has
    /// rotated its key.
    fn key_id(&self) -> Answer<'_, String>;

    /// Encrypts a data key.
    fn wrap<'a>(&'a self, data_key: &'a [u8]) -> Answer<'a, WrappedKey>;

    /// Decrypts a data key, under whichever key of the service it was encrypted.
    fn unwrap<'a>(&'a self, wrapped: &'a WrappedKey) -> Answer<'a, Zeroizing<Vec<u8>>>;
}

/// The key services that can be reached.
pub trait KeyServices: fmt::Debug + Send + Sync {
    /// The service of a provider.
    ///
    /// # Errors
    /// If it cannot be reached.
    fn find(&self, provider: &ServiceProvider) -> Result<Arc<dyn KeyService>, KeyServiceError>;
}

/// No key services. Configurations that name one are refused when they are read.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoKeyServices;

impl NoKeyServices {
    pub(crate) fn failure(provider: &ServiceProvider) -> KeyServiceError {
        let reason = "kms providers are not supported yet by keepd".to_owned();
        KeyServiceError { provider: provider.name.clone(), reason }
    }
}

impl KeyServices for NoKeyServices {
    fn find(&self, provider: &ServiceProvider) -> Result<Arc<dyn KeyService>, KeyServiceError> {
        Err(Self::failure(provider))
    }
}
