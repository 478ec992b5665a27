//! Content of a certificate: for error texts, expiry metrics and the identity of a client.
//!
//! Parsing is x509-parser's, because rustls-webpki neither reads version 1 certificates nor shows
//! names. Nothing here decides whether a certificate is trusted.

use std::net::IpAddr;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use x509_parser::x509::{X509Name, X509Version};

/// A certificate, parsed in place.
pub(crate) struct Parsed<'a>(pub(crate) X509Certificate<'a>);

impl<'a> Parsed<'a> {
    /// Parses the whole of `der`.
    pub(crate) fn from_der(der: &'a CertificateDer<'_>) -> Result<Self, String> {
        match X509Certificate::from_der(der.as_ref()) {
            Ok(([], certificate)) => Ok(Self(certificate)),
            Ok(_) => Err("trailing data".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The public key as it stands in the certificate.
    pub(crate) fn spki(&self) -> SubjectPublicKeyInfoDer<'a> {
        SubjectPublicKeyInfoDer::from(self.0.tbs_certificate.subject_pki.raw)
    }

    /// Whether it has no extensions, hence no usage and no alternative names: version 1.
    pub(crate) fn is_v1(&self) -> bool {
        self.0.tbs_certificate.version != X509Version::V3
    }

    /// Whether the serial number is negative: Go does not read such a certificate at all.
    pub(crate) fn has_negative_serial(&self) -> bool {
        self.0.raw_serial().first().is_some_and(|byte| byte & 0x80 != 0)
    }

    /// Whether basic constraints name it a CA.
    pub(crate) fn is_ca(&self) -> bool {
        self.basic_constraints().is_some_and(|constraints| constraints.0)
    }

    /// CA or not, and the longest path below it; `None` if not said.
    pub(crate) fn basic_constraints(&self) -> Option<(bool, Option<u32>)> {
        let found = self.0.tbs_certificate.basic_constraints().ok()??;
        Some((found.value.ca, found.value.path_len_constraint))
    }

    /// Whether its key may sign certificates: a key usage that is absent or names nothing says
    /// yes, as in Go.
    pub(crate) fn may_sign_certificates(&self) -> bool {
        match self.0.tbs_certificate.key_usage() {
            Ok(None) => true,
            Ok(Some(usage)) => usage.value.flags == 0 || usage.value.key_cert_sign(),
            Err(_) => false,
        }
    }

    /// The extended key usage.
    pub(crate) fn purposes(&self) -> Purposes {
        match self.0.tbs_certificate.extended_key_usage() {
            Ok(None) => Purposes::Unrestricted,
            Ok(Some(usage)) if usage.value.any => Purposes::Unrestricted,
            Ok(Some(usage)) => {
                Purposes::Only { client: usage.value.client_auth, server: usage.value.server_auth }
            }
            Err(_) => Purposes::Only { client: false, server: false },
        }
    }

    /// Seconds since 1970 of the first and the last moment.
    pub(crate) fn validity(&self) -> (i64, i64) {
        let validity = self.0.tbs_certificate.validity();
        (validity.not_before.timestamp(), validity.not_after.timestamp())
    }

    /// Everything in owned form.
    pub(crate) fn facts(&self) -> CertificateSummary {
        let tbs = &self.0.tbs_certificate;
        let (not_before, not_after) = self.validity();
        let (dns_names, ip_addresses) = self.alternative_names();
        CertificateSummary {
            subject: tbs.subject.to_string(),
            issuer: tbs.issuer.to_string(),
            common_name: common_name(&tbs.subject),
            serial: tbs.serial.to_string(),
            not_before,
            not_after,
            is_v1: self.is_v1(),
            is_ca: self.is_ca(),
            purposes: self.purposes(),
            dns_names,
            ip_addresses,
        }
    }

    fn alternative_names(&self) -> (Vec<String>, Vec<IpAddr>) {
        let (mut dns, mut ips) = (Vec::new(), Vec::new());
        if let Ok(Some(names)) = self.0.tbs_certificate.subject_alternative_name() {
            for name in &names.value.general_names {
                match name {
                    GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => ips.extend(ip_address(bytes)),
                    _ => {}
                }
            }
        }
        (dns, ips)
    }
}

/// The last common name, which is the one Go reports.
fn common_name(name: &X509Name<'_>) -> Option<String> {
    let last = name.iter_common_name().last()?;
    last.as_str().ok().map(str::to_owned)
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// Purpose that a certificate is shown for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// By a client, to a server.
    Client,
    /// By a server, to a client.
    Server,
}

impl Purpose {
    /// Whether an extended key usage allows it.
    pub(crate) const fn is_allowed_by(self, purposes: Purposes) -> bool {
        match self {
            Self::Client => purposes.allows_client(),
            Self::Server => purposes.allows_server(),
        }
    }
}

/// Purposes that a certificate's extended key usage allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purposes {
    /// No extended key usage, or `anyExtendedKeyUsage`.
    Unrestricted,
    /// Only what it lists.
    Only {
        /// `clientAuth` is listed.
        client: bool,
        /// `serverAuth` is listed.
        server: bool,
    },
}

impl Purposes {
    /// Whether a client may show it.
    #[must_use]
    pub const fn allows_client(self) -> bool {
        matches!(self, Self::Unrestricted | Self::Only { client: true, .. })
    }

    /// Whether a server may show it.
    #[must_use]
    pub const fn allows_server(self) -> bool {
        matches!(self, Self::Unrestricted | Self::Only { server: true, .. })
    }
}

/// Summary of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSummary {
    /// The subject's distinguished name.
    pub subject: String,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// The subject's common name.
    pub common_name: Option<String>,
    /// The serial number, decimal.
    pub serial: String,
    /// First second of validity, since 1970.
    pub not_before: i64,
    /// Last second of validity, since 1970.
    pub not_after: i64,
    /// Not a version 3 certificate.
    pub is_v1: bool,
    /// Named a CA by its basic constraints.
    pub is_ca: bool,
    /// Its extended key usage.
    pub purposes: Purposes,
    /// Host names it is valid for.
    pub dns_names: Vec<String>,
    /// Addresses it is valid for.
    pub ip_addresses: Vec<IpAddr>,
}

impl CertificateSummary {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// If it does not parse; the text is the parser's.
    pub fn from_der(der: &[u8]) -> Result<Self, String> {
        Parsed::from_der(&CertificateDer::from(der)).map(|parsed| parsed.facts())
    }

    /// Reads the first certificate of a PEM file's content.
    ///
    /// # Errors
    /// If there is none or it does not parse.
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let der = CertificateDer::from_pem_slice(pem).map_err(|error| format!("{error:?}"))?;
        Self::from_der(der.as_ref())
    }

    /// The last moment of validity as `2026-11-24T05:03:09Z`.
    #[must_use]
    pub fn not_after_text(&self) -> String {
        timestamp(self.not_after)
    }

    /// The first moment of validity as `2026-11-24T05:03:09Z`.
    #[must_use]
    pub fn not_before_text(&self) -> String {
        timestamp(self.not_before)
    }
}

/// Identity of the peer of a connection, by its verified leaf certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The common name; with `--client-cert-auth` and authentication on, the user.
    pub common_name: Option<String>,
    /// Host names of the certificate.
    pub dns_names: Vec<String>,
    /// Addresses of the certificate.
    pub ip_addresses: Vec<IpAddr>,
    /// The serial number, decimal.
    pub serial: String,
}

impl PeerIdentity {
    /// The identity in a connection's peer certificates; `None` without any.
    #[must_use]
    pub fn from_chain(chain: Option<&[CertificateDer<'_>]>) -> Option<Self> {
        let facts = Parsed::from_der(chain?.first()?).ok()?.facts();
        Some(Self {
            common_name: facts.common_name,
            dns_names: facts.dns_names,
            ip_addresses: facts.ip_addresses,
            serial: facts.serial,
        })
    }
}

/// Seconds since 1970 as RFC 3339 in UTC, as Go prints a certificate's dates.
pub(crate) fn timestamp(seconds: i64) -> String {
    let Ok(time) = ASN1Time::from_timestamp(seconds) else {
        return format!("{seconds} s after 1970");
    };
    let time = time.to_datetime();
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}
