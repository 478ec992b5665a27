//! Options of a configuration.

use crate::resource::Directories;

/// Treatment of values that a client sends already sealed (`k8s:enc:` in front).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AlreadySealed {
    /// It is sealed again like any other; the client gets its own bytes back.
    #[default]
    Seal,
    /// It is stored as it is.
    Keep,
    /// It is refused.
    Refuse,
}

/// Meaning of a configuration beyond its file.
#[derive(Clone, Debug, Default)]
pub struct ConfigOptions {
    /// Directories in which kube-apiserver keeps its resources.
    pub directories: Directories,
    /// Treatment of values that arrive sealed.
    pub already_sealed: AlreadySealed,
    /// The operator vouches for plain data that no rule takes: `--encryption-trust-plain-data`.
    pub trust_plain_data: bool,
    /// Whether a file may name key services; without, it is refused.
    pub allows_key_services: bool,
}
