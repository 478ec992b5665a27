//! A small certificate authority: what `quickstart` and `pki` issue.
//!
//! `ca.crt` and `ca.key` in one directory, and `<name>.crt`/`<name>.key` beside them. Keys are
//! ECDSA P-256, written 0600 into a 0700 directory and overwritten only by renewing. A server's certificate
//! carries both usages, so that using it as a client's by mistake works; a client's carries only
//! its own.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keepd_env::{Env, Random};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

use crate::error::Error;

/// Days a server, peer or client certificate of ours is valid.
pub const TLS_SERVER_DAYS: u64 = 825;
/// Days our CA is valid.
const CA_DAYS: u64 = 3650;
/// Time by which certificates are backdated, since clocks of other machines may be slow.
const BACKDATED: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Use of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// A client's: `clientAuth`.
    Client,
    /// A member's on the peer port: `serverAuth` and `clientAuth`.
    Peer,
    /// A server's: `serverAuth`, and `clientAuth` since people pass it to clients too.
    Server,
}

/// Subject of a certificate to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The common name.
    pub common_name: String,
    /// Host names and addresses it is valid for; a client needs none.
    pub names: Vec<String>,
    /// Its use.
    pub usage: Usage,
    /// Days of validity from now.
    pub days: u64,
}

impl Subject {
    /// A client with a common name.
    #[must_use]
    pub fn client(common_name: &str) -> Self {
        Self {
            common_name: common_name.to_owned(),
            names: Vec::new(),
            usage: Usage::Client,
            days: TLS_SERVER_DAYS,
        }
    }

    /// A server with the names and addresses it is reached by.
    #[must_use]
    pub fn server(common_name: &str, names: &[String]) -> Self {
        Self {
            common_name: common_name.to_owned(),
            names: names.to_vec(),
            usage: Usage::Server,
            days: TLS_SERVER_DAYS,
        }
    }

    /// A member with the names and addresses other members reach it by.
    #[must_use]
    pub fn peer(common_name: &str, names: &[String]) -> Self {
        Self { usage: Usage::Peer, ..Self::server(common_name, names) }
    }
}

/// A certificate authority whose key is in a directory.
pub struct Authority {
    env: Env,
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a CA in `dir`, which is created if need be.
    ///
    /// # Errors
    /// If `dir` already has one or cannot be written.
    pub fn create(env: &Env, dir: &Path, common_name: &str) -> Result<Self, Error> {
        env.disk.create_dir(dir)?;
        let failed = issue_error(common_name);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(&failed)?;
        let mut params = params(env, common_name, CA_DAYS);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(&failed)?;
        write_pair(env, dir, "ca", &certificate.pem(), &key)?;
        Ok(Self {
            env: env.clone(),
            dir: dir.to_owned(),
            issuer: Issuer::new(params, key),
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
        })
    }

    /// Opens the CA in `dir`.
    ///
    /// # Errors
    /// If its files are missing or unusable.
    pub fn open(env: &Env, dir: &Path) -> Result<Self, Error> {
        let (certificate, key) = Self::paths(dir, "ca");
        let pem = |path: &Path| -> Result<Zeroizing<String>, Error> {
            let bytes = Zeroizing::new(env.disk.read(path)?);
            let text = std::str::from_utf8(&bytes).map(str::to_owned);
            let bad = |_unused| Error::BadPem { path: path.to_owned(), reason: "not text".into() };
            text.map(Zeroizing::new).map_err(bad)
        };
        let bad = |path: &Path| {
            let path = path.to_owned();
            move |error: rcgen::Error| Error::BadPem { path, reason: error.to_string() }
        };
        let pair = KeyPair::from_pem(&pem(&key)?).map_err(bad(&key))?;
        let certificate_pem = pem(&certificate)?.to_string();
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, pair).map_err(bad(&certificate))?;
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes());
        let der = der.map_err(|error| Error::BadPem {
            path: certificate.clone(),
            reason: format!("{error:?}"),
        })?;
        Ok(Self {
            env: env.clone(),
            dir: dir.to_owned(),
            issuer,
            certificate: der,
            certificate_pem,
        })
    }

    /// Whether `dir` holds a CA.
    ///
    /// # Errors
    /// If the directory cannot be looked at.
    pub fn exists(env: &Env, dir: &Path) -> Result<bool, Error> {
        Ok(env.disk.exists(&Self::paths(dir, "ca").0)?)
    }

    /// Makes `<name>.crt` and `<name>.key` and returns their paths.
    ///
    /// # Errors
    /// If a file exists or cannot be written, or a host name is not valid in a certificate.
    pub fn issue(&self, name: &str, subject: &Subject) -> Result<(PathBuf, PathBuf), Error> {
        let (certificate, key) = self.sign(subject)?;
        write_pair(&self.env, &self.dir, name, &certificate, &key)?;
        Ok(Self::paths(&self.dir, name))
    }

    /// Replaces `<name>.crt` and `<name>.key` by new ones. Servers that follow their files take
    /// them from the next connection on.
    ///
    /// # Errors
    /// If a file cannot be written, or a host name is not valid in a certificate.
    pub fn renew(&self, name: &str, subject: &Subject) -> Result<(PathBuf, PathBuf), Error> {
        let (certificate, key) = self.sign(subject)?;
        let (certificate_path, key_path) = Self::paths(&self.dir, name);
        let pem = Zeroizing::new(key.serialize_pem());
        self.env.disk.replace(&key_path, pem.as_bytes())?;
        self.env.disk.replace(&certificate_path, certificate.as_bytes())?;
        Ok((certificate_path, key_path))
    }

    /// Its certificate.
    pub(crate) const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its certificate, PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        self.certificate_pem.clone()
    }

    /// A certificate in PEM and its key.
    fn sign(&self, subject: &Subject) -> Result<(String, KeyPair), Error> {
        let failed = issue_error(&subject.common_name);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(&failed)?;
        Ok((self.sign_key(&key, subject)?.pem(), key))
    }

    /// A certificate for a key.
    pub(crate) fn sign_key(
        &self,
        key: &impl PublicKeyData,
        subject: &Subject,
    ) -> Result<Certificate, Error> {
        let failed = issue_error(&subject.common_name);
        let mut params = params(&self.env, &subject.common_name, subject.days);
        for name in &subject.names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into().map_err(&failed)?),
            });
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match subject.usage {
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Peer | Usage::Server => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
        };
        params.use_authority_key_identifier_extension = true;
        params.signed_by(key, &self.issuer).map_err(failed)
    }

    /// Paths of the certificate and the key of a name.
    #[must_use]
    pub fn paths(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")))
    }
}

/// The failure to make a certificate.
pub(crate) fn issue_error(subject: &str) -> impl Fn(rcgen::Error) -> Error + use<> {
    let subject = subject.to_owned();
    move |error| Error::Issue { subject: subject.clone(), reason: error.to_string() }
}

/// A certificate of a common name that is valid for some days from now.
pub(crate) fn params(env: &Env, common_name: &str, days: u64) -> CertificateParams {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    let now = env.clock.wall();
    let lifetime = DAY.saturating_mul(u32::try_from(days).unwrap_or(u32::MAX));
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now.saturating_add(lifetime);
    params.serial_number = Some(serial_number(env.random.as_ref()));
    params
}

/// 127 random bits: positive, and unique without a register.
fn serial_number(random: &dyn Random) -> SerialNumber {
    let mut bytes = [0; 16];
    random.fill(&mut bytes);
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// Writes both files; a key that exists is never overwritten.
fn write_pair(
    env: &Env,
    dir: &Path,
    name: &str,
    certificate: &str,
    key: &KeyPair,
) -> Result<(), Error> {
    let (certificate_path, key_path) = Authority::paths(dir, name);
    let pem = Zeroizing::new(key.serialize_pem());
    for (path, content) in [(&key_path, pem.as_str()), (&certificate_path, certificate)] {
        let file = env.disk.create(path)?;
        file.write_all_at(content.as_bytes(), 0)?;
        file.sync()?;
    }
    env.disk.sync_dir(dir)?;
    Ok(())
}
