//! Rules of a configuration: which resources are sealed with which providers.

use std::sync::Arc;

use crate::cipher::{Algorithm, ProviderKey};
use crate::key_service::ServiceProvider;
use crate::resource::Scope;

/// One entry of `resources`.
#[derive(Clone, Debug)]
pub(crate) struct ConfigRule<P = Provider> {
    pub(crate) scopes: Vec<Scope>,
    pub(crate) providers: Vec<P>,
}

impl ConfigRule {
    /// The key that values are sealed under; none if they are written plain.
    pub(crate) fn writing_key(&self) -> Option<&ProviderKey> {
        match self.providers.first() {
            Some(Provider::Keyed { keys, .. }) => keys.first().map(|key| &**key),
            _ => None,
        }
    }
}

/// One entry of `providers`, with the bytes of its keys.
#[derive(Clone, Debug)]
pub(crate) enum Provider {
    /// Plain.
    Identity,
    /// One cipher and its keys, of which the first one seals.
    Keyed { algorithm: Algorithm, keys: Vec<Arc<ProviderKey>> },
}

/// One entry of `providers` as a file has it.
#[derive(Clone, Debug)]
pub(crate) enum FileProvider {
    /// The file has the bytes of its keys.
    Ready(Provider),
    /// A key service has the key.
    Service(ServiceProvider),
}
