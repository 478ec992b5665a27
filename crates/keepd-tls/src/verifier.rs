//! The three verifiers given to rustls: of clients by a server, of servers by a client, and of
//! nobody (`--insecure-skip-tls-verify`).

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::EndEntityCert;

use crate::certificate::{Parsed, Purpose};
use crate::explain::Refusal;
use crate::names;
use crate::revocation::Revoked;
use crate::signature;
use crate::trust::{TrustStore, translate};

/// Which verified clients are let in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Allowed {
    /// Common names; empty means any.
    pub(crate) cns: Vec<String>,
    /// Host names; empty means any.
    pub(crate) hostnames: Vec<String>,
}

impl Allowed {
    fn lets_in(&self, leaf: &Parsed<'_>) -> bool {
        let facts = leaf.facts();
        if !self.cns.is_empty() {
            return self.cns.contains(&facts.common_name.unwrap_or_default());
        }
        self.hostnames.is_empty()
            || self.hostnames.iter().any(|host| names::match_any(&facts, host))
    }
}

/// A server's check of its clients; a certificate is mandatory.
#[derive(Debug)]
pub(crate) struct ClientCheck {
    trust: TrustStore,
    allowed: Allowed,
    revoked: Revoked,
    sends_hints: bool,
}

impl ClientCheck {
    /// Lets in clients whose chain `trust` accepts. `sends_hints` names the CAs in the request,
    /// which a private CA wants and the system's hundred roots do not.
    pub(crate) const fn new(
        trust: TrustStore,
        allowed: Allowed,
        revoked: Revoked,
        sends_hints: bool,
    ) -> Self {
        Self { trust, allowed, revoked, sends_hints }
    }

    fn check_revocation(&self, chain: &[&CertificateDer<'_>]) -> Result<(), Error> {
        for der in chain {
            let parsed = Parsed::from_der(der).map_err(|_unused| CertificateError::BadEncoding)?;
            if self.revoked.contains(&parsed) {
                let facts = parsed.facts();
                // The error of the handshake cannot carry the serial beside the right alert.
                let (serial, subject) = (facts.serial, facts.subject);
                tracing::info!(serial, subject, "refused a revoked certificate");
                return Err(CertificateError::Revoked.into());
            }
        }
        Ok(())
    }
}

impl ClientCertVerifier for ClientCheck {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        if self.sends_hints { self.trust.subjects() } else { &[] }
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.trust.verify(end_entity, intermediates, now, Purpose::Client)?;
        let chain: Vec<_> = std::iter::once(end_entity).chain(intermediates).collect();
        self.check_revocation(&chain)?;
        let parsed =
            Parsed::from_der(end_entity).map_err(|_unused| CertificateError::BadEncoding)?;
        if !self.allowed.lets_in(&parsed) {
            return Err(Refusal::not_allowed().into());
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature::verify_tls12(message, cert, dss, self.trust.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature::verify_tls13(message, cert, dss, self.trust.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms().supported_schemes()
    }
}

/// A client's check of its server.
#[derive(Debug)]
pub(crate) struct ServerCheck {
    trust: TrustStore,
    /// Checked instead of the name dialled.
    name: Option<ServerName<'static>>,
}

impl ServerCheck {
    /// Accepts servers whose chain `trust` accepts and which are valid for the name.
    pub(crate) const fn new(trust: TrustStore, name: Option<ServerName<'static>>) -> Self {
        Self { trust, name }
    }
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.trust.verify(end_entity, intermediates, now, Purpose::Server)?;
        let name = self.name.as_ref().unwrap_or(server_name);
        let parsed =
            Parsed::from_der(end_entity).map_err(|_unused| CertificateError::BadEncoding)?;
        let facts = parsed.facts();
        let is_address = matches!(name, ServerName::IpAddress(_));
        if facts.dns_names.is_empty() && (facts.ip_addresses.is_empty() || !is_address) {
            return Err(Refusal::no_alternative_names(&facts, &name.to_str()).into());
        }
        EndEntityCert::try_from(end_entity)
            .and_then(|leaf| leaf.verify_is_valid_for_subject_name(name))
            .map_err(translate)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature::verify_tls12(message, cert, dss, self.trust.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature::verify_tls13(message, cert, dss, self.trust.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms().supported_schemes()
    }
}

/// Accepts any server that holds the key of the certificate it shows, whoever it is.
#[derive(Debug)]
pub(crate) struct DangerouslyAcceptAnyServer(WebPkiSupportedAlgorithms);

impl DangerouslyAcceptAnyServer {
    /// For `--insecure-skip-tls-verify` only.
    pub(crate) fn new(algorithms: WebPkiSupportedAlgorithms) -> Arc<Self> {
        Arc::new(Self(algorithms))
    }
}

impl ServerCertVerifier for DangerouslyAcceptAnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature::verify_tls12(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature::verify_tls13(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
