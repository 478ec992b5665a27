//! The names etcd uses for TLS versions and cipher suites, and what they are in rustls.
//!
//! Go knows more TLS 1.2 suites than rustls (CBC, static RSA, 3DES, RC4). Their names are accepted,
//! because configurations carry them, and left out, which only makes the endpoint stricter.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CipherSuite, SupportedProtocolVersion};

use crate::error::Error;

/// A TLS version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "TLS1.2",
            Self::Tls13 => "TLS1.3",
        })
    }
}

impl FromStr for TlsVersion {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "TLS1.2" => Ok(Self::Tls12),
            "TLS1.3" => Ok(Self::Tls13),
            _ => Err(Error::UnknownVersion { name: name.to_owned() }),
        }
    }
}

/// The rustls versions from `min` (TLS 1.2 if not given) to `max`.
pub(crate) fn versions(
    min: Option<TlsVersion>,
    max: Option<TlsVersion>,
) -> Result<Vec<&'static SupportedProtocolVersion>, Error> {
    let min = min.unwrap_or(TlsVersion::Tls12);
    let max = max.unwrap_or(TlsVersion::Tls13);
    if min > max {
        return Err(Error::VersionsReversed { min: min.to_string(), max: max.to_string() });
    }
    let all = [
        (TlsVersion::Tls12, &rustls::version::TLS12),
        (TlsVersion::Tls13, &rustls::version::TLS13),
    ];
    Ok(all.into_iter().filter(|(v, _)| (min..=max).contains(v)).map(|(_, v)| v).collect())
}

/// A cipher suite that etcd knows, by its IANA name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CipherSuiteName {
    name: &'static str,
    suite: Option<CipherSuite>,
}

impl CipherSuiteName {
    /// The name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it exists here.
    #[must_use]
    pub const fn is_supported(&self) -> bool {
        self.suite.is_some()
    }
}

impl FromStr for CipherSuiteName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        KNOWN
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(name, suite)| Self { name, suite: *suite })
            .ok_or_else(|| Error::UnknownCipherSuite { name: name.to_owned() })
    }
}

/// Every name Go accepts, and the rustls suite if there is one.
const KNOWN: &[(&str, Option<CipherSuite>)] = &[
    ("TLS_AES_128_GCM_SHA256", Some(CipherSuite::TLS13_AES_128_GCM_SHA256)),
    ("TLS_AES_256_GCM_SHA384", Some(CipherSuite::TLS13_AES_256_GCM_SHA384)),
    ("TLS_CHACHA20_POLY1305_SHA256", Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256)),
    (
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        Some(CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        Some(CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        Some(CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
        Some(CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
        Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", None),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256", None),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", None),
    ("TLS_ECDHE_ECDSA_WITH_RC4_128_SHA", None),
    ("TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA", None),
    ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", None),
    ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256", None),
    ("TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", None),
    ("TLS_ECDHE_RSA_WITH_RC4_128_SHA", None),
    ("TLS_RSA_WITH_3DES_EDE_CBC_SHA", None),
    ("TLS_RSA_WITH_AES_128_CBC_SHA", None),
    ("TLS_RSA_WITH_AES_128_CBC_SHA256", None),
    ("TLS_RSA_WITH_AES_128_GCM_SHA256", None),
    ("TLS_RSA_WITH_AES_256_CBC_SHA", None),
    ("TLS_RSA_WITH_AES_256_GCM_SHA384", None),
    ("TLS_RSA_WITH_RC4_128_SHA", None),
];

/// The crypto provider restricted to the named TLS 1.2 suites. As in Go, the list says nothing
/// about TLS 1.3, whose suites always stay.
pub(crate) fn provider(names: &[CipherSuiteName]) -> Result<Arc<CryptoProvider>, Error> {
    let mut provider = aws_lc_rs::default_provider();
    if names.is_empty() {
        return Ok(Arc::new(provider));
    }
    let wanted: Vec<CipherSuite> = names.iter().filter_map(|name| name.suite).collect();
    if wanted.is_empty() {
        let names = names.iter().map(|name| name.name.to_owned()).collect();
        return Err(Error::NoUsableCipherSuite { names });
    }
    provider
        .cipher_suites
        .retain(|suite| suite.tls13().is_some() || wanted.contains(&suite.suite()));
    Ok(Arc::new(provider))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_errors_read_like_etcds() {
        let error = "TLS1.1".parse::<TlsVersion>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)"
        );
        let error = versions(Some(TlsVersion::Tls13), Some(TlsVersion::Tls12)).unwrap_err();
        assert_eq!(error.to_string(), "min version (TLS1.3) is greater than max version (TLS1.2)");
        assert_eq!(versions(None, None).unwrap().len(), 2);
        assert_eq!(versions(Some(TlsVersion::Tls13), None).unwrap().len(), 1);
    }

    #[test]
    fn a_suite_list_narrows_tls12_only() {
        let error = "FOO".parse::<CipherSuiteName>().unwrap_err();
        assert_eq!(error.to_string(), "unexpected TLS cipher suite \"FOO\"");
        let names = ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_RSA_WITH_AES_128_CBC_SHA"]
            .map(|name| name.parse().unwrap());
        let provider = provider(&names).unwrap();
        assert_eq!(provider.cipher_suites.iter().filter(|s| s.tls13().is_some()).count(), 3);
        assert_eq!(provider.cipher_suites.iter().filter(|s| s.tls13().is_none()).count(), 1);
        let only_old = ["TLS_RSA_WITH_AES_128_CBC_SHA".parse().unwrap()];
        assert!(matches!(super::provider(&only_old), Err(Error::NoUsableCipherSuite { .. })));
    }
}
