//! Signatures under the key of a certificate that rustls-webpki may not be able to parse.
//!
//! rustls' own helpers refuse version 1 leaves, so the public key is taken out of the certificate
//! first and used on its own; algorithms and their rules stay webpki's.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, SignatureScheme};
use rustls_pki_types::CertificateDer;
use webpki::RawPublicKeyEntity;
use x509_parser::certificate::X509Certificate;

use crate::certificate::Parsed;

/// Checks a TLS 1.3 handshake signature made with the leaf's key.
pub(crate) fn verify_tls13(
    message: &[u8],
    leaf: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let leaf = Parsed::from_der(leaf).map_err(|_unused| CertificateError::BadEncoding)?;
    verify_tls13_signature_with_raw_key(message, &leaf.spki(), signed, algorithms)
}

/// Checks a TLS 1.2 handshake signature made with the leaf's key.
pub(crate) fn verify_tls12(
    message: &[u8],
    leaf: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let candidates = algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
    let is_post_quantum = matches!(
        signed.scheme,
        SignatureScheme::ML_DSA_44 | SignatureScheme::ML_DSA_65 | SignatureScheme::ML_DSA_87
    );
    let (_, candidates) = candidates
        .filter(|_| !is_post_quantum)
        .ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
    let leaf = Parsed::from_der(leaf).map_err(|_unused| CertificateError::BadEncoding)?;
    let spki = leaf.spki();
    let key =
        RawPublicKeyEntity::try_from(&spki).map_err(|_unused| CertificateError::BadEncoding)?;
    // In TLS 1.2 a scheme does not fix the curve, so every algorithm of the scheme is tried.
    let valid = candidates
        .iter()
        .any(|algorithm| key.verify_signature(*algorithm, message, signed.signature()).is_ok());
    if valid {
        Ok(HandshakeSignatureValid::assertion())
    } else {
        Err(CertificateError::BadSignature.into())
    }
}

/// Whether `issuer`'s key signed `certificate`.
pub(crate) fn is_signed_by(
    certificate: &X509Certificate<'_>,
    issuer: &Parsed<'_>,
    algorithms: &WebPkiSupportedAlgorithms,
) -> bool {
    // The algorithm stands twice in a certificate, once outside of what is signed.
    if certificate.signature_algorithm != certificate.tbs_certificate.signature {
        return false;
    }
    let spki = issuer.spki();
    let Ok(key) = RawPublicKeyEntity::try_from(&spki) else {
        return false;
    };
    let oid = certificate.signature_algorithm.algorithm.as_bytes();
    algorithms
        .all
        .iter()
        .filter(|algorithm| has_oid(algorithm.signature_alg_id().as_ref(), oid))
        .any(|algorithm| {
            let message = certificate.tbs_certificate.as_ref();
            key.verify_signature(*algorithm, message, &certificate.signature_value.data).is_ok()
        })
}

/// Whether an encoded algorithm identifier (without its outer tag) begins with this OID.
fn has_oid(identifier: &[u8], oid: &[u8]) -> bool {
    const TAG_OID: u8 = 6;
    let Some((&[tag, len], rest)) = identifier.split_first_chunk::<2>() else {
        return false;
    };
    tag == TAG_OID && usize::from(len) == oid.len() && rest.starts_with(oid)
}
