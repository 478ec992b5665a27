//! Certificates and keys from PEM files, with errors that say what the file holds instead.
//!
//! A certificate file may hold a chain (leaf first) and, as Go allows, other sections too; a key
//! file may hold `EC PARAMETERS` before its key, as `openssl ecparam -genkey` writes it.

use std::path::{Path, PathBuf};

use keepd_env::Disk;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::certificate::Parsed;
use crate::error::Error;

/// BOUND: the largest system bundle is about 250 KiB.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The content of a set of files, read together.
pub(crate) struct Contents(Vec<(PathBuf, Zeroizing<Vec<u8>>)>);

impl Contents {
    /// Reads every file.
    pub(crate) fn read(disk: &dyn Disk, paths: &[PathBuf]) -> Result<Self, Error> {
        let mut files = Vec::with_capacity(paths.len());
        for path in paths {
            let file = disk.open(path)?;
            let len = file.len()?;
            let len = usize::try_from(len).ok().filter(|_| len <= FILE_BYTES_MAX);
            let Some(len) = len else {
                return Err(Error::TooLarge { path: path.clone(), max: FILE_BYTES_MAX });
            };
            let mut bytes = Zeroizing::new(vec![0; len]);
            file.read_exact_at(&mut bytes, 0)?;
            files.push((path.clone(), bytes));
        }
        Ok(Self(files))
    }

    /// All files in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|(_, bytes)| bytes.as_slice())
    }

    /// One file that was read.
    pub(crate) fn get(&self, path: &Path) -> &[u8] {
        let found = self.0.iter().find(|(known, _)| known == path);
        found.map(|(_, bytes)| bytes.as_slice()).expect("only files of the set are asked for")
    }
}

/// The labels of the PEM sections in `bytes`, in words for an error.
fn found(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "nothing".to_owned();
    }
    let text = String::from_utf8_lossy(bytes);
    let mut labels: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
        .collect();
    labels.dedup();
    if labels.is_empty() {
        // DER begins with a SEQUENCE and a two-byte length.
        let is_der = bytes.starts_with(&[0x30, 0x82]);
        let hint = if is_der { "DER (convert with: openssl ... -inform DER)" } else { "no PEM" };
        return hint.to_owned();
    }
    labels.join(", ")
}

/// All certificates of a PEM file, each checked to parse. etcd reads a CA whatever its label, such as
/// `X509 CERTIFICATE`.
pub(crate) fn certificates(
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let mut chain = Vec::new();
    for section in CertificateDer::pem_slice_iter(&relabelled(bytes, "CERTIFICATE")) {
        let bad = |error| Error::BadPem { path: path.to_owned(), reason: format!("{error:?}") };
        let certificate = section.map_err(bad)?;
        if let Err(reason) = Parsed::from_der(&certificate) {
            let position = chain.len() + 1;
            return Err(Error::BadCertificate { path: path.to_owned(), position, reason });
        }
        chain.push(certificate);
    }
    Ok(chain)
}

/// The certificates of a CA bundle.
pub(crate) fn ca_bundle(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bundle = certificates(path, bytes)?;
    if bundle.is_empty() {
        return Err(Error::CaMissing { path: path.to_owned(), found: found(bytes) });
    }
    Ok(bundle)
}

/// The first private key of a PEM file. What it is decides its content, not its label: Go tries
/// every form on every block whose label ends with `PRIVATE KEY`.
fn private_key(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, Error> {
    let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    if has(b"ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") {
        return Err(Error::KeyEncrypted { path: path.to_owned() });
    }
    let bytes = relabelled(bytes, "PRIVATE KEY");
    let sections = <(SectionKind, Vec<u8>) as PemObject>::pem_slice_iter(&bytes);
    for section in sections {
        let bad = |reason| Error::BadPem { path: path.to_owned(), reason };
        let (kind, der) = section.map_err(|error| bad(format!("{error:?}")))?;
        if kind == SectionKind::PrivateKey {
            let key = PrivateKeyDer::try_from(der);
            return key.map_err(|_unused| bad("tls: failed to parse private key".to_owned()));
        }
    }
    Err(Error::KeyMissing { path: path.to_owned(), found: found(&bytes) })
}

/// The file with every label that ends with `wanted` shortened to it, as in `RSA PRIVATE KEY`.
fn relabelled(bytes: &[u8], wanted: &str) -> Zeroizing<Vec<u8>> {
    // Reserved at once: growth would leave copies of a key in freed memory.
    let mut changed = Zeroizing::new(Vec::with_capacity(bytes.len()));
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let label = std::str::from_utf8(line).ok().map(str::trim).and_then(|text| {
            let (edge, rest) = ["-----BEGIN ", "-----END "]
                .iter()
                .find_map(|edge| Some((*edge, text.strip_prefix(edge)?)))?;
            let label = rest.strip_suffix("-----")?.strip_suffix(wanted)?;
            (label.is_empty() || label.ends_with(' ')).then_some(edge)
        });
        match label {
            Some(edge) => {
                for part in [edge, wanted, "-----\n"] {
                    changed.extend_from_slice(part.as_bytes());
                }
            }
            None => changed.extend_from_slice(line),
        }
    }
    changed
}

/// A certificate chain with its private key, checked to belong together.
pub(crate) fn key_pair(
    contents: &Contents,
    certificate_path: &Path,
    key_path: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, Error> {
    let (certificate_pem, key_pem) = (contents.get(certificate_path), contents.get(key_path));
    let chain = certificates(certificate_path, certificate_pem)?;
    let Some(leaf) = chain.first() else {
        if private_key(certificate_path, certificate_pem).is_ok()
            && certificates(key_path, key_pem).is_ok_and(|chain| !chain.is_empty())
        {
            return Err(Error::Swapped {
                certificate: certificate_path.to_owned(),
                key: key_path.to_owned(),
            });
        }
        let found = found(certificate_pem);
        return Err(Error::CertificateMissing { path: certificate_path.to_owned(), found });
    };
    let unsupported = |error: rustls::Error| Error::KeyUnsupported {
        path: key_path.to_owned(),
        reason: error.to_string(),
    };
    let key = provider
        .key_provider
        .load_private_key(private_key(key_path, key_pem)?)
        .map_err(unsupported)?;
    // rustls' own comparison cannot read version 1 certificates.
    let parsed = Parsed::from_der(leaf).map_err(|reason| Error::BadCertificate {
        path: certificate_path.to_owned(),
        position: 1,
        reason,
    })?;
    if key.public_key().is_some_and(|spki| spki.as_ref() != parsed.spki().as_ref()) {
        return Err(Error::KeyMismatch {
            certificate: certificate_path.to_owned(),
            key: key_path.to_owned(),
        });
    }
    Ok(CertifiedKey::new(chain, key))
}

/// The system's CA bundle: `SSL_CERT_FILE`, or the first of the places distributions use.
pub(crate) fn system_roots(disk: &dyn Disk) -> Result<Vec<CertificateDer<'static>>, Error> {
    const PLACES: [&str; 6] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/pki/tls/cacert.pem",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        "/etc/ssl/cert.pem",
    ];
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let places = named.map_or_else(|| PLACES.map(PathBuf::from).to_vec(), |named| vec![named]);
    for place in places {
        if disk.exists(&place)? {
            let contents = Contents::read(disk, std::slice::from_ref(&place))?;
            return ca_bundle(&place, contents.get(&place));
        }
    }
    Err(Error::NoSystemRoots)
}
