//! The check that a certificate was issued for the address from which it is shown: of members, and of
//! whoever asks a metrics port. Rules and texts are etcd's.
//!
//! An address among the certificate's addresses is enough. Else a name is: one that the address has, or
//! that has the address. `*.example.com` stands for every name that ends so.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use domain::resolv::StubResolver;
use keepd_gotext::quote;
use keepd_tls::PeerIdentity;
use tokio::time::timeout;

/// BOUND: names of a certificate that are looked up.
const NAMES_MAX: usize = 64;
/// Time limit for one question to the name servers.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// The answers of the name servers.
pub(super) trait Names {
    /// The names of an address, without the dot at their end.
    async fn of_address(&self, address: IpAddr) -> Result<Vec<String>, String>;

    /// The addresses of a name.
    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, String>;
}

/// The name servers of this machine.
pub(super) struct System;

impl Names for System {
    async fn of_address(&self, address: IpAddr) -> Result<Vec<String>, String> {
        let resolver = StubResolver::new();
        let found = within_limit(address, resolver.lookup_addr(address)).await?;
        Ok(found.iter().map(|name| name.to_string().trim_end_matches('.').to_owned()).collect())
    }

    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        let found = within_limit(name, tokio::net::lookup_host((name, 0))).await?;
        Ok(found.map(|address| address.ip().to_canonical()).collect())
    }
}

async fn within_limit<T>(
    what: impl fmt::Display,
    lookup: impl Future<Output = std::io::Result<T>>,
) -> Result<T, String> {
    match timeout(LOOKUP_TIMEOUT, lookup).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(format!("lookup {what}: {error}")),
        Err(_elapsed) => Err(format!("lookup {what}: i/o timeout")),
    }
}

/// Checks the certificate of whoever connects from an address; one without names or addresses, and one
/// that comes over a unix socket, is not compared with anything.
pub(super) async fn check(
    identity: &PeerIdentity,
    from: &str,
    names: &impl Names,
) -> Result<(), String> {
    let (dns_names, own) = (&identity.dns_names, &identity.ip_addresses);
    let Ok(from) = from.parse::<SocketAddr>() else { return Ok(()) };
    let from = from.ip().to_canonical();
    if own.iter().any(|address| address.to_canonical() == from) {
        return Ok(());
    }
    if dns_names.is_empty() {
        if own.is_empty() {
            return Ok(());
        }
        let own: Vec<String> = own.iter().map(ToString::to_string).collect();
        return Err(format!("x509: certificate is valid for {}, not {from}", own.join(", ")));
    }
    let mut failure = String::new();
    for name in dns_names.iter().filter(|name| !name.starts_with("*.")).take(NAMES_MAX) {
        match names.addresses(name).await {
            Ok(found) if found.contains(&from) => return Ok(()),
            Ok(_) => {}
            Err(error) => failure = format!(" ({error})"),
        }
    }
    match names.of_address(from).await {
        Ok(found) if found.iter().any(|name| is_among(name, dns_names)) => return Ok(()),
        Ok(_) => {}
        Err(error) if failure.is_empty() => failure = format!(" ({error})"),
        Err(_) => {}
    }
    let dns_names: Vec<String> = dns_names.iter().map(quote).collect();
    let (from, dns_names) = (quote(from.to_string()), dns_names.join(" "));
    Err(format!("tls: {from} does not match any of DNSNames [{dns_names}]{failure}"))
}

fn is_among(name: &str, dns_names: &[String]) -> bool {
    dns_names.iter().any(|pattern| match pattern.strip_prefix('*') {
        Some(end) if end.starts_with('.') => name.ends_with(end),
        Some(_) | None => name == pattern,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `10.0.0.1` is `a.x.example` and the other way round, `10.0.0.2` has a name that has no address,
    /// `10.0.0.3` has no name.
    struct Made;

    impl Names for Made {
        async fn of_address(&self, address: IpAddr) -> Result<Vec<String>, String> {
            match address.to_string().as_str() {
                "10.0.0.1" => Ok(vec!["a.x.example".to_owned()]),
                "10.0.0.2" => Ok(vec!["b.x.example".to_owned()]),
                _ => Err(format!("lookup {address}: no such host")),
            }
        }

        async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, String> {
            match name {
                "a.x.example" => Ok(vec!["10.0.0.1".parse().unwrap()]),
                "c.x.example" => Ok(vec!["10.0.0.3".parse().unwrap()]),
                _ => Err(format!("lookup {name}: no such host")),
            }
        }
    }

    #[tokio::test]
    async fn a_certificate_is_for_the_address_that_shows_it() {
        for (names, addresses, from, refusal) in [
            (vec![], vec![], "10.9.9.9:1", None),
            (vec![], vec!["10.0.0.1"], "@", None),
            (vec![], vec!["10.0.0.1"], "10.0.0.1:1", None),
            (vec![], vec!["10.0.0.1"], "[::ffff:10.0.0.1]:1", None),
            (
                vec![],
                vec!["10.0.0.1", "10.0.0.2"],
                "10.9.9.9:1",
                Some("x509: certificate is valid for 10.0.0.1, 10.0.0.2, not 10.9.9.9"),
            ),
            (vec!["a.x.example"], vec!["10.0.0.2"], "10.0.0.1:1", None),
            (vec!["b.x.example"], vec![], "10.0.0.2:1", None),
            (vec!["c.x.example"], vec![], "10.0.0.3:1", None),
            (vec!["*.x.example"], vec![], "10.0.0.2:1", None),
            (
                vec!["*.y.example"],
                vec![],
                "10.0.0.2:1",
                Some(r#"tls: "10.0.0.2" does not match any of DNSNames ["*.y.example"]"#),
            ),
            (
                vec!["a.x.example", "d.x.example"],
                vec![],
                "10.0.0.3:1",
                Some(
                    r#"tls: "10.0.0.3" does not match any of DNSNames ["a.x.example" "d.x.example"] (lookup d.x.example: no such host)"#,
                ),
            ),
        ] {
            let identity = PeerIdentity {
                dns_names: names.iter().map(|&name| name.to_owned()).collect(),
                ip_addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
                ..PeerIdentity::default()
            };
            let checked = check(&identity, from, &Made).await;
            assert_eq!(checked.err().as_deref(), refusal, "{names:?} {addresses:?} from {from}");
        }
    }
}
