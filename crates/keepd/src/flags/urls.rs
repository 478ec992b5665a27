//! URL lists as etcd's flags take them.

use std::fmt;
use std::net::IpAddr;

use keepd_gotext::quote;

/// A URL's scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Scheme {
    /// Plain TCP.
    Http,
    /// TLS over TCP.
    Https,
    /// A plain unix socket.
    Unix,
    /// TLS over a unix socket.
    Unixs,
}

/// A URL to listen on or to advertise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Url {
    text: String,
    scheme: Scheme,
    address: String,
}

impl Url {
    /// Whether the scheme is one with TLS.
    #[must_use]
    pub(crate) const fn is_tls(&self) -> bool {
        matches!(self.scheme, Scheme::Https | Scheme::Unixs)
    }

    /// Whether it is a unix socket.
    #[must_use]
    pub(crate) const fn is_unix(&self) -> bool {
        matches!(self.scheme, Scheme::Unix | Scheme::Unixs)
    }

    /// `host:port`, or a unix socket's path.
    #[must_use]
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The host without port and brackets; empty for unix sockets.
    #[must_use]
    pub(crate) fn host(&self) -> &str {
        if self.is_unix() {
            ""
        } else {
            split_host_port(&self.address).map_or("", |(host, _)| host)
        }
    }

    /// The URL as given.
    #[must_use]
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A comma-separated list: sorted, each URL once.
pub(super) fn parse_urls(text: &str) -> Result<Vec<Url>, String> {
    let mut urls = text.split(',').map(parse_url).collect::<Result<Vec<_>, _>>()?;
    urls.sort();
    urls.dedup();
    Ok(urls)
}

/// One URL; the errors are etcd's and those of Go's `url.Parse`.
pub(super) fn parse_url(text: &str) -> Result<Url, String> {
    let text = text.trim();
    let Some((scheme, rest)) = split_scheme(text) else {
        let first = text.split('/').next().unwrap_or_default();
        if first.contains(':') {
            return Err(format!(
                "parse {}: first path segment in URL cannot contain colon",
                quote(text)
            ));
        }
        return Err(format!("URL scheme must be http, https, unix, or unixs: {text}"));
    };
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        "unix" => Scheme::Unix,
        "unixs" => Scheme::Unixs,
        _ => return Err(format!("URL scheme must be http, https, unix, or unixs: {text}")),
    };
    let rest = rest.strip_prefix("//");
    if matches!(scheme, Scheme::Unix | Scheme::Unixs) {
        let address = rest.unwrap_or_default().to_owned();
        return Ok(Url { text: text.to_owned(), scheme, address });
    }
    let rest = rest.unwrap_or_default();
    let (address, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    if split_host_port(address).is_none() {
        return Err(format!("URL address does not have the form \"host:port\": {text}"));
    }
    if !path.is_empty() {
        return Err(format!("URL must not contain a path: {text}"));
    }
    Ok(Url { text: text.to_owned(), scheme, address: address.to_owned() })
}

fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let starts_well = scheme.starts_with(|c: char| c.is_ascii_alphabetic());
    let is_scheme = scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    (starts_well && is_scheme).then_some((scheme, rest))
}

/// Go's `net.SplitHostPort`: brackets around IPv6 are mandatory and taken off.
fn split_host_port(address: &str) -> Option<(&str, &str)> {
    if let Some(inner) = address.strip_prefix('[') {
        let (host, rest) = inner.split_once(']')?;
        return rest.strip_prefix(':').map(|port| (host, port));
    }
    let (host, port) = address.rsplit_once(':')?;
    (!host.contains(':')).then_some((host, port))
}

/// Whether listening needs no name lookup.
pub(super) fn check_bind(urls: &[Url]) -> Result<(), String> {
    let is_bindable = |url: &&Url| {
        url.is_unix() || url.host() == "localhost" || url.host().parse::<IpAddr>().is_ok()
    };
    match urls.iter().find(|url| !is_bindable(url)) {
        Some(url) => Err(format!("expected IP in URL for binding ({url})")),
        None => Ok(()),
    }
}

/// Whether every URL to advertise names a host.
pub(super) fn check_host(urls: &[Url]) -> Result<(), String> {
    match urls.iter().find(|url| !url.is_unix() && url.host().is_empty()) {
        Some(url) => Err(format!("unexpected empty host ({url})")),
        None => Ok(()),
    }
}

/// The URLs joined by commas.
pub(super) fn joined(urls: &[Url]) -> String {
    urls.iter().map(Url::as_str).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_and_unique() {
        let urls = parse_urls("http://127.0.0.1:2, http://127.0.0.1:1,http://127.0.0.1:2").unwrap();
        assert_eq!(joined(&urls), "http://127.0.0.1:1,http://127.0.0.1:2");
        assert_eq!((urls[0].host(), urls[0].address()), ("127.0.0.1", "127.0.0.1:1"));
    }

    #[test]
    fn unix_sockets_may_be_relative_or_absolute() {
        assert_eq!(parse_url("unix:///run/etcd.sock").unwrap().address(), "/run/etcd.sock");
        assert_eq!(parse_url("unixs://localhost:m1").unwrap().address(), "localhost:m1");
        assert!(parse_url("unixs://localhost:m1").unwrap().is_tls());
    }

    #[test]
    fn ipv6_hosts_lose_their_brackets() {
        let url = parse_url("https://[::1]:2379").unwrap();
        assert_eq!((url.host(), url.address()), ("::1", "[::1]:2379"));
    }

    #[test]
    fn errors_are_etcds() {
        for (text, error) in [
            ("foo", "URL scheme must be http, https, unix, or unixs: foo"),
            ("localhost:2379", "URL scheme must be http, https, unix, or unixs: localhost:2379"),
            (
                "127.0.0.1:2379",
                "parse \"127.0.0.1:2379\": first path segment in URL cannot contain colon",
            ),
            ("http://host", "URL address does not have the form \"host:port\": http://host"),
            ("http://::1:5", "URL address does not have the form \"host:port\": http://::1:5"),
            ("http://h:1/x", "URL must not contain a path: http://h:1/x"),
        ] {
            assert_eq!(parse_url(text), Err(error.to_owned()));
        }
        let bind = parse_urls("http://example.com:1").unwrap();
        assert_eq!(
            check_bind(&bind),
            Err("expected IP in URL for binding (http://example.com:1)".to_owned())
        );
        assert!(check_bind(&parse_urls("http://localhost:1,unix://a").unwrap()).is_ok());
        let host = parse_urls("http://:1").unwrap();
        assert_eq!(check_host(&host), Err("unexpected empty host (http://:1)".to_owned()));
    }
}
