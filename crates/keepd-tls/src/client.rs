//! The TLS configuration of our own clients: the tools, and a member that dials its peers.
//!
//! Files are followed as a listener's are, so a long-lived client presents a renewed certificate on
//! its next connection.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use keepd_env::{Disk, Env};
use rustls::ClientConfig;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::ServerName;

use crate::error::Error;
use crate::files::{self, Contents};
use crate::reload::{ReloadStatus, Reloading};
use crate::server::WallTime;
use crate::suites::{self, TlsVersion};
use crate::trust::TrustStore;
use crate::verifier::{DangerouslyAcceptAnyServer, ServerCheck};

/// Options of a client's TLS.
#[derive(Clone, Debug, Default)]
pub struct ClientTlsOptions {
    /// PEM CA bundle; the system's roots if not given.
    pub trusted_ca_file: Option<PathBuf>,
    /// PEM chain and private key to show to servers.
    pub cert_and_key_files: Option<(PathBuf, PathBuf)>,
    /// Accept any server, whoever it is.
    pub dangerously_skip_verification: bool,
    /// The name the server's certificate must carry, instead of the one dialled.
    pub server_name: Option<String>,
    /// TLS 1.2 if not given.
    pub min_version: Option<TlsVersion>,
    /// TLS 1.3 if not given.
    pub max_version: Option<TlsVersion>,
    /// Application protocols to offer, such as `h2`.
    pub alpn: Vec<Vec<u8>>,
}

impl ClientTlsOptions {
    fn paths(&self) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        if let Some(path) = self.ca_to_read() {
            paths.push(path.clone());
        }
        if let Some((certificate, key)) = &self.cert_and_key_files {
            paths.push(certificate.clone());
            paths.push(key.clone());
        }
        paths
    }

    const fn ca_to_read(&self) -> Option<&PathBuf> {
        if self.dangerously_skip_verification { None } else { self.trusted_ca_file.as_ref() }
    }
}

/// A client's TLS, following its files.
pub struct ClientTls {
    options: ClientTlsOptions,
    env: Env,
    provider: Arc<CryptoProvider>,
    source: Reloading<Arc<ClientConfig>>,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("options", &self.options).finish_non_exhaustive()
    }
}

impl ClientTls {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// Names the file that cannot be used, why, and what to do.
    pub fn new(options: ClientTlsOptions, env: &Env) -> Result<Self, Error> {
        let provider = suites::provider(&[])?;
        let source = Reloading::new(env.disk.clone(), options.paths(), |contents| {
            load(&options, contents, env, &provider)
        })?;
        Ok(Self { options, env: env.clone(), provider, source })
    }

    /// The configuration for one new connection, from the files as they are now.
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        let config = self
            .source
            .current(|contents, _| load(&self.options, contents, &self.env, &self.provider));
        config.as_ref().clone()
    }

    /// Reloads since the start.
    #[must_use]
    pub fn status(&self) -> ReloadStatus {
        self.source.status()
    }
}

fn load(
    options: &ClientTlsOptions,
    contents: &Contents,
    env: &Env,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<ClientConfig>, Error> {
    let versions = suites::versions(options.min_version, options.max_version)?;
    let time = Arc::new(WallTime(env.clock.clone()));
    let builder = ClientConfig::builder_with_details(provider.clone(), time)
        .with_protocol_versions(&versions)?
        .dangerous()
        .with_custom_certificate_verifier(verifier(options, contents, &env.disk, provider)?);
    let mut config = match &options.cert_and_key_files {
        Some((certificate, key)) => {
            let pair = files::key_pair(contents, certificate, key, provider)?;
            builder.with_client_cert_resolver(Arc::new(ShowAlways(SingleCertAndKey::from(pair))))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols.clone_from(&options.alpn);
    Ok(Arc::new(config))
}

fn verifier(
    options: &ClientTlsOptions,
    contents: &Contents,
    disk: &Arc<dyn Disk>,
    provider: &CryptoProvider,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let algorithms = provider.signature_verification_algorithms;
    if options.dangerously_skip_verification {
        return Ok(DangerouslyAcceptAnyServer::new(algorithms));
    }
    let trusted = match &options.trusted_ca_file {
        Some(path) => files::ca_bundle(path, contents.get(path))?,
        None => files::system_roots(disk.as_ref())?,
    };
    let name = options.server_name.as_deref().map(ServerName::try_from).transpose();
    let name = name.map_err(|error| rustls::Error::General(error.to_string()))?;
    let name = name.map(|name| name.to_owned());
    Ok(Arc::new(ServerCheck::new(TrustStore::new(trusted, algorithms), name)))
}

/// Shows the one certificate to every server that asks, whichever CAs it names: what an operator
/// configured is sent, and the server's refusal is then a clear one.
#[derive(Debug)]
struct ShowAlways(SingleCertAndKey);

impl ResolvesClientCert for ShowAlways {
    fn resolve(
        &self,
        root_hint_subjects: &[&[u8]],
        schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        ResolvesClientCert::resolve(&self.0, root_hint_subjects, schemes)
    }

    fn has_certs(&self) -> bool {
        true
    }
}
