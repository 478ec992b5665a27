//! The TLS configuration of a listener: certificate and key, and, if wanted, verified clients.
//!
//! As in etcd a trusted CA file alone makes client certificates mandatory. HTTP/2 and HTTP/1.1 are
//! offered by ALPN; a client that offers nothing gets HTTP/1.1 on the same port. Sessions are not
//! resumed when clients are verified: a resumed session would skip the CA, the CRL and the
//! validity dates as they are now.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keepd_env::{Clock, Disk, Env};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;

use crate::certificate::{CertificateSummary, Parsed};
use crate::error::Error;
use crate::files::{self, Contents};
use crate::reload::{ReloadStatus, Reloading};
use crate::revocation::Revoked;
use crate::suites::{self, CipherSuiteName, TlsVersion};
use crate::trust::TrustStore;
use crate::verifier::{Allowed, ClientCheck};

/// The protocols offered, the preferred one first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Options of a listener's TLS.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// PEM chain, leaf first.
    pub cert_file: PathBuf,
    /// PEM private key.
    pub key_file: PathBuf,
    /// PEM CA bundle; makes client certificates mandatory.
    pub trusted_ca_file: Option<PathBuf>,
    /// Client certificates are mandatory; without a CA file the system's roots are trusted.
    pub client_cert_auth: bool,
    /// Revoked certificates.
    pub crl_file: Option<PathBuf>,
    /// Client common names that are let in; empty means any.
    pub allowed_cns: Vec<String>,
    /// Client host names that are let in; empty means any.
    pub allowed_hostnames: Vec<String>,
    /// TLS 1.2 if not given.
    pub min_version: Option<TlsVersion>,
    /// TLS 1.3 if not given.
    pub max_version: Option<TlsVersion>,
    /// TLS 1.2 suites; empty means all good ones.
    pub cipher_suites: Vec<CipherSuiteName>,
}

impl TlsOptions {
    /// Whether a client must show a certificate.
    #[must_use]
    pub const fn verifies_clients(&self) -> bool {
        self.client_cert_auth || self.trusted_ca_file.is_some()
    }

    fn paths(&self) -> Vec<PathBuf> {
        let optional = [self.trusted_ca_file.as_ref(), self.crl_file.as_ref()];
        let mut paths = vec![self.cert_file.clone(), self.key_file.clone()];
        paths.extend(optional.into_iter().flatten().cloned());
        paths.dedup();
        paths
    }
}

/// One state of the files, ready for use.
struct Loaded {
    config: Arc<ServerConfig>,
    leaf: CertificateSummary,
}

/// A listener's TLS, following its files.
pub struct ServerTls {
    options: TlsOptions,
    env: Env,
    provider: Arc<CryptoProvider>,
    source: Reloading<Loaded>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("options", &self.options).finish_non_exhaustive()
    }
}

impl ServerTls {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// Names the file that cannot be used, why, and what to do.
    pub fn new(options: TlsOptions, env: &Env) -> Result<Self, Error> {
        if !options.allowed_cns.is_empty() && !options.allowed_hostnames.is_empty() {
            return Err(Error::AllowedNamesConflict {
                cns: options.allowed_cns,
                hostnames: options.allowed_hostnames,
            });
        }
        let provider = suites::provider(&options.cipher_suites)?;
        let source = Reloading::new(env.disk.clone(), options.paths(), |contents| {
            load(&options, contents, env, &provider)
        })?;
        Ok(Self { options, env: env.clone(), provider, source })
    }

    /// The configuration for one new connection, from the files as they are now.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        let loaded = self.source.current(|contents, previous| {
            let loaded = load(&self.options, contents, &self.env, &self.provider)?;
            let now = seconds(self.env.clock.as_ref());
            if loaded.leaf.not_after < now && previous.leaf.not_after >= now {
                return Err(Error::Expired {
                    path: self.options.cert_file.clone(),
                    not_after: loaded.leaf.not_after_text(),
                });
            }
            Ok(loaded)
        });
        loaded.config.clone()
    }

    /// The certificate in use.
    #[must_use]
    pub fn leaf(&self) -> CertificateSummary {
        self.source.loaded().leaf.clone()
    }

    /// Reloads since the start.
    #[must_use]
    pub fn status(&self) -> ReloadStatus {
        self.source.status()
    }

    /// Whether a client must show a certificate.
    #[must_use]
    pub const fn verifies_clients(&self) -> bool {
        self.options.verifies_clients()
    }

    /// Reasons for clients to refuse the certificate in use although the server can start with it;
    /// for the log.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let leaf = self.leaf();
        let file = self.options.cert_file.display();
        let now = seconds(self.env.clock.as_ref());
        let mut warnings = Vec::new();
        if leaf.not_after < now {
            let since = leaf.not_after_text();
            warnings.push(format!(
                "{file}: the certificate expired at {since}, clients will refuse it; renew it, \
                 the new file is read without a restart"
            ));
        }
        if leaf.not_before > now {
            let from = leaf.not_before_text();
            warnings.push(format!(
                "{file}: the certificate is not valid before {from}, clients will refuse it; is \
                 this machine's clock right?"
            ));
        }
        if leaf.dns_names.is_empty() && leaf.ip_addresses.is_empty() {
            warnings.push(format!(
                "{file}: the certificate has no subject alternative name, clients that verify \
                 will refuse it; issue it again with: -extfile <(echo \
                 subjectAltName=DNS:localhost,IP:127.0.0.1)"
            ));
        }
        if !leaf.purposes.allows_server() {
            warnings.push(format!(
                "{file}: the certificate's extended key usage lacks serverAuth, clients will \
                 refuse it; issue it again with: -extfile <(echo \
                 extendedKeyUsage=serverAuth,clientAuth)"
            ));
        }
        warnings
    }
}

fn load(
    options: &TlsOptions,
    contents: &Contents,
    env: &Env,
    provider: &Arc<CryptoProvider>,
) -> Result<Loaded, Error> {
    let pair = files::key_pair(contents, &options.cert_file, &options.key_file, provider)?;
    let leaf = leaf_summary(&pair);
    let versions = suites::versions(options.min_version, options.max_version)?;
    let time = Arc::new(WallTime(env.clock.clone()));
    let builder = ServerConfig::builder_with_details(provider.clone(), time)
        .with_protocol_versions(&versions)?;
    let builder = if options.verifies_clients() {
        let check = client_check(options, contents, env.disk.as_ref(), provider)?;
        builder.with_client_cert_verifier(Arc::new(check))
    } else {
        builder.with_client_cert_verifier(WebPkiClientVerifier::no_client_auth())
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    if options.verifies_clients() {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Loaded { config: Arc::new(config), leaf })
}

fn client_check(
    options: &TlsOptions,
    contents: &Contents,
    disk: &dyn Disk,
    provider: &CryptoProvider,
) -> Result<ClientCheck, Error> {
    let trusted = match &options.trusted_ca_file {
        Some(path) => files::ca_bundle(path, contents.get(path))?,
        None => files::system_roots(disk)?,
    };
    let revoked = match &options.crl_file {
        Some(path) => Revoked::parse(path, contents.get(path))?,
        None => Revoked::default(),
    };
    let allowed =
        Allowed { cns: options.allowed_cns.clone(), hostnames: options.allowed_hostnames.clone() };
    let trust = TrustStore::new(trusted, provider.signature_verification_algorithms);
    Ok(ClientCheck::new(trust, allowed, revoked, options.trusted_ca_file.is_some()))
}

/// Summary of the leaf of a loaded pair.
fn leaf_summary(pair: &CertifiedKey) -> CertificateSummary {
    let leaf = pair.cert.first().expect("a key pair has a leaf");
    Parsed::from_der(leaf).expect("it parsed when it was loaded").facts()
}

/// Seconds since 1970 by the wall clock.
fn seconds(clock: &dyn Clock) -> i64 {
    i64::try_from(clock.wall().as_secs()).unwrap_or(i64::MAX)
}

/// The environment's wall clock for rustls.
#[derive(Debug)]
pub(crate) struct WallTime(pub(crate) Arc<dyn Clock>);

impl TimeProvider for WallTime {
    fn current_time(&self) -> Option<UnixTime> {
        let now: Duration = self.0.wall();
        Some(UnixTime::since_unix_epoch(now))
    }
}
