//! Handshake failures in the words etcd's logs and clients use, with the remedy added where the
//! usual cause is known. Tools grep these texts; the alert on the wire stays rustls'.

use std::net::IpAddr;
use std::sync::Arc;
use std::{fmt, io};

use rustls::{
    AlertDescription, CertificateError, Error, InvalidMessage, OtherError, PeerIncompatible,
};
use rustls_pki_types::UnixTime;

use crate::certificate::{CertificateSummary, Purpose, timestamp};

/// A refusal that rustls has no variant for, with its full text.
#[derive(Debug)]
pub(crate) struct Refusal(String);

impl Refusal {
    /// The certificate's extended key usage excludes what it was shown for.
    pub(crate) fn wrong_usage(facts: &CertificateSummary, purpose: Purpose) -> Self {
        let (usage, role) = match purpose {
            Purpose::Client => ("clientAuth", "client"),
            Purpose::Server => ("serverAuth", "server"),
        };
        Self(format!(
            "tls: failed to verify certificate: x509: certificate specifies an incompatible key \
             usage: {:?} (serial {}) was shown by a {role}, but its extended key usage lacks \
             {usage}; issue it again with it: openssl x509 -req -in {role}.csr -CA ca.crt -CAkey \
             ca.key -CAcreateserial -days 365 -out {role}.crt -extfile <(echo \
             extendedKeyUsage={usage})",
            facts.subject, facts.serial
        ))
    }

    /// The chain is fine, but neither the common name nor a host name is on the list.
    pub(crate) fn not_allowed() -> Self {
        Self("client certificate authentication failed".to_owned())
    }

    /// The server shows no chain to the certificate authority that a token names.
    pub(crate) fn other_authority() -> Self {
        Self("the server's certificate is of another CA than the token's".to_owned())
    }

    /// The server's certificate names no host at all.
    pub(crate) fn no_alternative_names(facts: &CertificateSummary, wanted: &str) -> Self {
        let subject = &facts.subject;
        let is_address = wanted.parse::<IpAddr>().is_ok();
        let reason = if is_address {
            format!(
                "x509: cannot validate certificate for {wanted} because it doesn't contain any IP \
                 SANs"
            )
        } else {
            "x509: certificate relies on legacy Common Name field, use SANs instead".to_owned()
        };
        let name = if is_address { "IP" } else { "DNS" };
        Self(format!(
            "tls: failed to verify certificate: {reason}: {subject:?} was made without subject \
             alternative names; issue it again with them: openssl x509 -req -in server.csr -CA \
             ca.crt -CAkey ca.key -CAcreateserial -days 365 -out server.crt -extfile <(echo \
             subjectAltName={name}:{wanted})"
        ))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        CertificateError::Other(OtherError(Arc::new(refusal))).into()
    }
}

/// A failed handshake in etcd's words.
#[must_use]
pub fn explain_io(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => explain(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        None => error.to_string(),
    }
}

/// A TLS error in etcd's words.
#[must_use]
pub fn explain(error: &Error) -> String {
    match error {
        Error::NoCertificatesPresented => "tls: client didn't provide a certificate".to_owned(),
        Error::InvalidCertificate(error) => explain_certificate(error),
        Error::AlertReceived(alert) => format!("remote error: tls: {}", alert_text(*alert)),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "tls: first record does not look like a TLS handshake".to_owned()
        }
        Error::InvalidMessage(_) => {
            format!("tls: first record does not look like a TLS handshake ({error})")
        }
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13,
        ) => "tls: client offered only unsupported versions".to_owned(),
        Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon) => {
            "tls: no cipher suite supported by both client and server".to_owned()
        }
        Error::NoApplicationProtocol => {
            "tls: client requested unsupported application protocols".to_owned()
        }
        other => format!("tls: {other}"),
    }
}

fn explain_certificate(error: &CertificateError) -> String {
    const FAILED: &str = "tls: failed to verify certificate: x509:";
    match error {
        CertificateError::BadEncoding => {
            "tls: failed to parse certificate from server: x509: malformed certificate".to_owned()
        }
        CertificateError::ExpiredContext { time, not_after } => format!(
            "{FAILED} certificate has expired or is not yet valid: current time {} is after {}",
            moment(*time),
            moment(*not_after)
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "{FAILED} certificate has expired or is not yet valid: current time {} is before {}",
            moment(*time),
            moment(*not_before)
        ),
        CertificateError::Expired | CertificateError::NotValidYet => {
            format!("{FAILED} certificate has expired or is not yet valid")
        }
        CertificateError::UnknownIssuer => {
            format!("{FAILED} certificate signed by unknown authority")
        }
        CertificateError::BadSignature => {
            "tls: the handshake is not signed with the certificate's key".to_owned()
        }
        CertificateError::Revoked => "transport: certificate revoked".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            format!("{FAILED} certificate specifies an incompatible key usage")
        }
        CertificateError::UnhandledCriticalExtension => {
            format!("{FAILED} unhandled critical extension")
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let expected = expected.to_str();
            let presented: Vec<String> = presented.iter().map(|name| plain_name(name)).collect();
            format!("{FAILED} certificate is valid for {}, not {expected}", presented.join(", "))
        }
        CertificateError::Other(OtherError(inner)) => match inner.downcast_ref::<Refusal>() {
            Some(refusal) => refusal.to_string(),
            None => format!("{FAILED} {inner}"),
        },
        other => format!("{FAILED} {other}"),
    }
}

/// webpki shows names as `DnsName("a")` or `IpAddress(127.0.0.1)`.
fn plain_name(name: &str) -> String {
    let inner = name.split_once('(').map_or(name, |(_, rest)| rest.trim_end_matches(')'));
    let inner = inner.trim_matches('"');
    inner.parse::<IpAddr>().map_or_else(|_| inner.to_owned(), |address| address.to_string())
}

fn moment(time: UnixTime) -> String {
    timestamp(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}

/// Go's words for an alert.
fn alert_text(alert: AlertDescription) -> String {
    let text = match alert {
        AlertDescription::AccessDenied => "access denied",
        AlertDescription::BadCertificate => "bad certificate",
        AlertDescription::BadRecordMac => "bad record MAC",
        AlertDescription::CertificateExpired => "expired certificate",
        AlertDescription::CertificateRequired => "certificate required",
        AlertDescription::CertificateRevoked => "revoked certificate",
        AlertDescription::CertificateUnknown => "unknown certificate",
        AlertDescription::DecodeError => "error decoding message",
        AlertDescription::DecryptError => "error decrypting message",
        AlertDescription::HandshakeFailure => "handshake failure",
        AlertDescription::IllegalParameter => "illegal parameter",
        AlertDescription::InternalError => "internal error",
        AlertDescription::NoApplicationProtocol => "no application protocol",
        AlertDescription::ProtocolVersion => "protocol version not supported",
        AlertDescription::UnexpectedMessage => "unexpected message",
        AlertDescription::UnknownCA => "unknown certificate authority",
        AlertDescription::UnrecognisedName => "unrecognized name",
        AlertDescription::UnsupportedCertificate => "unsupported certificate",
        other => return format!("{other:?}"),
    };
    text.to_owned()
}
