//! TLS of an enrolment: a machine that knows no more of a cluster than the digest of its CA meets a
//! member that has the CA's key, and leaves with a certificate.
//!
//! The newcomer trusts one certificate authority: the one whose certificate has the digest. The inviter
//! shows a certificate of it that lives as long as the process, with the authority's own behind it. Both
//! prove that they know the invitation's secret by a MAC over what only this session knows (RFC 5705):
//! the secret itself is never sent, and a proof is worth nothing in another session.

use std::sync::Arc;

use aws_lc_rs::{digest, hmac};
use keepd_env::Env;
use rcgen::{CertificateParams, CertificateSigningRequestParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, ServerConfig, SignatureScheme,
    WantsVersions,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use zeroize::Zeroizing;

use crate::authority::{Authority, Subject, issue_error};
use crate::error::Error;
use crate::explain::Refusal;
use crate::server::WallTime;
use crate::signature;
use crate::suites;
use crate::trust::TrustStore;
use crate::verifier::ServerCheck;

/// Bytes of a digest, of a proof and of what a session exports.
pub const DIGEST_LEN: usize = 32;
/// The label of what a session exports for the proofs.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-keepd-join-1";
/// The application protocol, so that no other TLS server is taken for an inviter.
const PROTOCOL: &[u8] = b"keepd-join/1";
/// Days of the inviter's certificate: it is used for minutes.
const INVITER_DAYS: u64 = 1;

/// The side that proves to know the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The member that invites.
    Inviter,
    /// The machine that joins.
    Newcomer,
}

impl Side {
    const fn word(self) -> &'static [u8] {
        match self {
            Self::Inviter => b"inviter",
            Self::Newcomer => b"newcomer",
        }
    }
}

/// A key and the request for a certificate for it, both PEM. The request says nothing but the key: what a
/// certificate says is the authority's to decide.
///
/// # Errors
/// If a key cannot be made.
pub fn certificate_request() -> Result<(Zeroizing<String>, String), Error> {
    let failed = issue_error("request");
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(&failed)?;
    let request = request_for(&key)?;
    Ok((Zeroizing::new(key.serialize_pem()), request))
}

/// The request for a certificate for a key that was made before, PEM.
///
/// # Errors
/// If it is no key.
pub fn certificate_request_for(key_pem: &str) -> Result<String, Error> {
    let key = KeyPair::from_pem(key_pem).map_err(issue_error("request"))?;
    request_for(&key)
}

fn request_for(key: &KeyPair) -> Result<String, Error> {
    let failed = issue_error("request");
    let request = CertificateParams::default().serialize_request(key).map_err(&failed)?;
    request.pem().map_err(failed)
}

/// The proof of one side that it knows the secret, for a session that exported this.
#[must_use]
pub fn proof(secret: &[u8], side: Side, exported: &[u8; DIGEST_LEN]) -> [u8; DIGEST_LEN] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let mut context = hmac::Context::with_key(&key);
    context.update(side.word());
    context.update(exported);
    let mut proof = [0; DIGEST_LEN];
    proof.copy_from_slice(context.sign().as_ref());
    proof
}

/// Whether a proof is the other side's; takes the same time for each wrong one.
#[must_use]
pub fn is_proof(secret: &[u8], side: Side, exported: &[u8; DIGEST_LEN], found: &[u8]) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let message = [side.word(), exported.as_slice()].concat();
    hmac::verify(&key, &message, found).is_ok()
}

fn digest_of(certificate: &CertificateDer<'_>) -> [u8; DIGEST_LEN] {
    let mut out = [0; DIGEST_LEN];
    out.copy_from_slice(digest::digest(&digest::SHA256, certificate.as_ref()).as_ref());
    out
}

impl Authority {
    /// The SHA-256 of its certificate.
    #[must_use]
    pub fn digest(&self) -> [u8; DIGEST_LEN] {
        digest_of(self.certificate())
    }

    /// Signs a certificate for the key of a request, which proves to have it. Everything else in the
    /// request is ignored: the subject is the authority's to say.
    ///
    /// # Errors
    /// If the request is malformed or not signed by its key, or a host name is not valid in a
    /// certificate.
    pub fn sign_request(&self, request_pem: &str, subject: &Subject) -> Result<String, Error> {
        let failed = issue_error(&subject.common_name);
        let request = CertificateSigningRequestParams::from_pem(request_pem).map_err(&failed)?;
        Ok(self.sign_key(&request.public_key, subject)?.pem())
    }

    /// The TLS of an inviter that is reached by these names.
    ///
    /// # Errors
    /// If a name is not valid in a certificate.
    pub fn inviter(&self, env: &Env, names: &[String]) -> Result<Arc<ServerConfig>, Error> {
        let subject = Subject { days: INVITER_DAYS, ..Subject::server("keepd-inviter", names) };
        let failed = issue_error(&subject.common_name);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(&failed)?;
        let leaf = self.sign_key(&key, &subject)?.der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = suites::provider(&[])?;
        let time = Arc::new(WallTime(env.clock.clone()));
        let mut config = only_tls13(ServerConfig::builder_with_details(provider, time))?
            .with_no_client_auth()
            .with_single_cert(vec![leaf, self.certificate().clone()], key)?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        // BOUND: nothing is kept of a session.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

/// The TLS of a newcomer: only an authority whose certificate has this digest is trusted.
///
/// # Errors
/// If TLS 1.3 is not to be had.
pub fn newcomer(env: &Env, digest: [u8; DIGEST_LEN]) -> Result<Arc<ClientConfig>, Error> {
    let provider = suites::provider(&[])?;
    let algorithms = provider.signature_verification_algorithms;
    let time = Arc::new(WallTime(env.clock.clone()));
    let mut config = only_tls13(ClientConfig::builder_with_details(provider, time))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedCheck { digest, algorithms }))
        .with_no_client_auth();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

fn only_tls13<S: rustls::ConfigSide>(
    builder: ConfigBuilder<S, WantsVersions>,
) -> Result<ConfigBuilder<S, rustls::WantsVerifier>, Error> {
    Ok(builder.with_protocol_versions(&[&rustls::version::TLS13])?)
}

/// Accepts servers whose chain leads to the certificate with the digest, which they show themselves.
#[derive(Debug)]
struct PinnedCheck {
    digest: [u8; DIGEST_LEN],
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PinnedCheck {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates.iter().find(|shown| digest_of(shown) == self.digest);
        let pinned = pinned.ok_or_else(|| rustls::Error::from(Refusal::other_authority()))?;
        let trust = TrustStore::new(vec![pinned.clone().into_owned()], self.algorithms);
        ServerCheck::new(trust, None).verify_server_cert(
            end_entity,
            &[],
            server_name,
            ocsp_response,
            now,
        )
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        signature::verify_tls12(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        signature::verify_tls13(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use rustls::{ClientConnection, ServerConnection};
    use testkit::TempDir;

    use super::*;
    use crate::certificate::CertificateSummary;

    fn shake_hands(
        client: Arc<ClientConfig>,
        server: Arc<ServerConfig>,
        name: &str,
    ) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(client, name)?;
        let mut server = ServerConnection::new(server)?;
        for _ in 0..10 {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut bytes.as_slice()).unwrap();
            server.process_new_packets()?;
            let mut bytes = Vec::new();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut bytes.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        Ok((client, server))
    }

    #[test]
    fn only_the_authority_of_the_digest_is_met_and_each_session_has_its_proof() {
        let (dir, env) = (TempDir::new("enrolment"), Env::real());
        let ours = Authority::create(&env, &dir.join("ours"), "ca").unwrap();
        let theirs = Authority::create(&env, &dir.join("theirs"), "ca").unwrap();
        let names = ["127.0.0.1".to_owned()];
        let server = ours.inviter(&env, &names).unwrap();
        let client = newcomer(&env, ours.digest()).unwrap();
        let (mut client_end, mut server_end) =
            shake_hands(client.clone(), server.clone(), "127.0.0.1").unwrap();
        client_end.writer().write_all(b"hello").unwrap();
        let mut bytes = Vec::new();
        client_end.write_tls(&mut bytes).unwrap();
        server_end.read_tls(&mut bytes.as_slice()).unwrap();
        server_end.process_new_packets().unwrap();
        let mut hello = [0; 5];
        server_end.reader().read_exact(&mut hello).unwrap();

        let exported = client_end.export_keying_material([0; 32], EXPORTER_LABEL, None).unwrap();
        let seen = server_end.export_keying_material([0; 32], EXPORTER_LABEL, None).unwrap();
        assert_eq!(exported, seen);
        let told = proof(b"secret", Side::Newcomer, &exported);
        assert!(is_proof(b"secret", Side::Newcomer, &seen, &told));
        assert!(!is_proof(b"secret", Side::Inviter, &seen, &told), "it is not said back");
        assert!(!is_proof(b"other", Side::Newcomer, &seen, &told));
        assert!(!is_proof(b"secret", Side::Newcomer, &seen, &told[..31]));
        let (other, _) = shake_hands(client.clone(), server.clone(), "127.0.0.1").unwrap();
        let elsewhere = other.export_keying_material([0; 32], EXPORTER_LABEL, None).unwrap();
        assert!(!is_proof(b"secret", Side::Newcomer, &elsewhere, &told), "of another session");

        let wrong = newcomer(&env, theirs.digest()).unwrap();
        let error = shake_hands(wrong, server.clone(), "127.0.0.1").unwrap_err();
        let text = crate::explain(&error);
        assert!(text.contains("another CA than the token's"), "{text}");
        shake_hands(client.clone(), server, "127.0.0.2").unwrap_err();
        let impostor = theirs.inviter(&env, &names).unwrap();
        shake_hands(client, impostor, "127.0.0.1").unwrap_err();
    }

    #[test]
    fn a_request_gets_what_the_authority_says_and_only_with_its_key() {
        let (dir, env) = (TempDir::new("enrolment-sign"), Env::real());
        let authority = Authority::create(&env, &dir.join("pki"), "ca").unwrap();
        let (key, request) = certificate_request().unwrap();
        let subject = Subject::peer("m1", &["10.0.0.1".to_owned()]);
        let pem = authority.sign_request(&request, &subject).unwrap();
        let facts = CertificateSummary::from_pem(pem.as_bytes()).unwrap();
        assert_eq!(facts.common_name.as_deref(), Some("m1"));
        assert_eq!(facts.ip_addresses, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
        assert!(facts.purposes.allows_server() && facts.purposes.allows_client() && !facts.is_ca);
        let again = certificate_request_for(&key).unwrap();
        authority.sign_request(&again, &subject).unwrap();
        authority.sign_request("", &subject).unwrap_err();
        // A changed request is not signed by its key any more.
        let other = certificate_request().unwrap().1;
        let mut lines: Vec<&str> = request.lines().collect();
        let foreign: Vec<&str> = other.lines().collect();
        lines[2] = foreign[2];
        authority.sign_request(&lines.join("\n"), &subject).unwrap_err();
    }
}
