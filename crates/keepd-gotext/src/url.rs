//! URLs of members and clients, as etcd's flags and its Cluster service take them.

use std::fmt;

use crate::quote;

/// A URL's scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Scheme {
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
pub struct Url {
    text: String,
    scheme: Scheme,
    address: String,
}

impl Url {
    /// Whether the scheme is one with TLS.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        matches!(self.scheme, Scheme::Https | Scheme::Unixs)
    }

    /// Whether it is a unix socket.
    #[must_use]
    pub const fn is_unix(&self) -> bool {
        matches!(self.scheme, Scheme::Unix | Scheme::Unixs)
    }

    /// `host:port`, or a unix socket's path.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The host without port and brackets; empty for unix sockets.
    #[must_use]
    pub fn host(&self) -> &str {
        if self.is_unix() {
            ""
        } else {
            split_host_port(&self.address).map_or("", |(host, _)| host)
        }
    }

    /// The URL as given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Reads a URL as etcd's `types.NewURLs` does.
///
/// # Errors
/// In etcd's words and those of Go's `url.Parse`.
pub fn parse_url(text: &str) -> Result<Url, String> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
