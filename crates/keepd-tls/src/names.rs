//! Match of a certificate's names with a host that the operator allows, by Go's `VerifyHostname`.
//!
//! webpki has no answer for a name that is no host, such as `*.example.com` itself or a label with
//! a space; Go compares such a name as it is.

use std::net::IpAddr;

use crate::certificate::CertificateSummary;

/// Whether one of the certificate's alternative names is valid for `host`. The common name is not
/// looked at.
pub(crate) fn match_any(facts: &CertificateSummary, host: &str) -> bool {
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Ok(address) = inner.unwrap_or(host).parse::<IpAddr>() {
        let address = address.to_canonical();
        return facts.ip_addresses.iter().any(|known| known.to_canonical() == address);
    }
    let is_host = is_hostname(host.strip_suffix('.').unwrap_or(host), false);
    facts.dns_names.iter().any(|pattern| {
        if is_host && is_hostname(pattern, true) {
            matches_pattern(pattern, host.strip_suffix('.').unwrap_or(host))
        } else {
            !matches!(host, "" | ".") && pattern.eq_ignore_ascii_case(host)
        }
    })
}

/// Whether labels consist of letters, digits, `-` (not first) and `_`; the first label of a pattern
/// may be `*`, unless it is the only one.
fn is_hostname(name: &str, is_pattern: bool) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name != "*"
        && name.split('.').enumerate().all(|(position, label)| {
            (is_pattern && position == 0 && label == "*") || is_label(label)
        })
}

/// Label by label; `*` in front stands for one label.
fn matches_pattern(pattern: &str, host: &str) -> bool {
    let (mut wanted, mut given) = (pattern.split('.').enumerate(), host.split('.'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some((position, pattern)), Some(label))
                if (position == 0 && pattern == "*") || pattern.eq_ignore_ascii_case(label) => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::match_any;
    use crate::certificate::{CertificateSummary, Purposes};

    // The answers are those of Go's `VerifyHostname`; `TestAllowedHostnames` in testing/interop asks
    // etcd and crypto/x509 about the same pairs.
    #[test]
    fn names_are_compared_as_go_does() {
        for (name, host, expected) in [
            ("*.example.com", "*.example.com", true),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", false),
            ("*.example.com", "example.com", false),
            ("a.example.com", "*.example.com", false),
            ("A.Example.com", "a.eXample.com", true),
            ("a.example.com", "a.example.com.", true),
            ("a.example.com.", "a.example.com.", true),
            ("a.example.com.", "a.example.com", false),
            ("a*.example.com", "ab.example.com", false),
            ("a*.example.com", "a*.example.com", true),
            ("*", "*", true),
            ("*", "a", false),
            ("a b", "a b", true),
            ("under_score", "under_score", true),
            ("-a.example.com", "-a.example.com", true),
            ("", "", false),
            ("10.0.0.1", "10.0.0.1", false),
        ] {
            let facts = facts(&[name], &[]);
            assert_eq!(match_any(&facts, host), expected, "{name} for {host}");
        }
        let facts = facts(&[], &["10.0.0.1", "2001:db8::1"]);
        for (host, expected) in [
            ("10.0.0.1", true),
            ("[10.0.0.1]", true),
            ("::ffff:10.0.0.1", true),
            ("2001:DB8::1", true),
            ("[2001:db8::1]", true),
            ("10.0.0.2", false),
        ] {
            assert_eq!(match_any(&facts, host), expected, "{host}");
        }
    }

    fn facts(names: &[&str], addresses: &[&str]) -> CertificateSummary {
        CertificateSummary {
            subject: String::new(),
            issuer: String::new(),
            common_name: Some("localhost".to_owned()),
            serial: String::new(),
            not_before: 0,
            not_after: 0,
            is_v1: false,
            is_ca: false,
            purposes: Purposes::Unrestricted,
            dns_names: names.iter().map(|&name| name.to_owned()).collect(),
            ip_addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }
}
