//! The revoked serial numbers of a CRL file.
//!
//! As in etcd the list is matched by serial number against every certificate a client sends; its
//! issuer, signature and dates are not checked, so a stale or foreign list errs on refusing. PEM
//! is accepted besides etcd's DER.

use std::collections::BTreeSet;
use std::path::Path;

use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::certificate::Parsed;
use crate::error::Error;

/// Serial numbers, big endian without leading zeros.
#[derive(Debug, Default)]
pub(crate) struct Revoked(BTreeSet<Vec<u8>>);

impl Revoked {
    /// Reads a list in DER, or every list of a PEM file.
    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let bad = |reason: String| Error::BadCrl { path: path.to_owned(), reason };
        let mut serials = BTreeSet::new();
        if bytes.starts_with(b"-----BEGIN") {
            let mut is_empty = true;
            for list in CertificateRevocationListDer::pem_slice_iter(bytes) {
                let list = list.map_err(|error| bad(format!("{error:?}")))?;
                add(list.as_ref(), &mut serials).map_err(bad)?;
                is_empty = false;
            }
            if is_empty {
                return Err(bad("no X509 CRL section".to_owned()));
            }
        } else {
            add(bytes, &mut serials).map_err(bad)?;
        }
        Ok(Self(serials))
    }

    /// Whether a certificate's serial number is on the list.
    pub(crate) fn contains(&self, certificate: &Parsed<'_>) -> bool {
        self.0.contains(&trimmed(certificate.0.raw_serial()))
    }
}

fn add(der: &[u8], serials: &mut BTreeSet<Vec<u8>>) -> Result<(), String> {
    let (rest, list) = CertificateRevocationList::from_der(der).map_err(|e| e.to_string())?;
    if !rest.is_empty() {
        return Err("trailing data".to_owned());
    }
    serials.extend(list.iter_revoked_certificates().map(|revoked| trimmed(revoked.raw_serial())));
    Ok(())
}

fn trimmed(serial: &[u8]) -> Vec<u8> {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    serial.iter().skip(zeros).copied().collect()
}
