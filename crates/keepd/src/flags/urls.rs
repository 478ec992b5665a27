//! URL lists as etcd's flags take them.

use std::net::IpAddr;

pub(crate) use keepd_gotext::{Url, parse_url};

/// A comma-separated list: sorted, each URL once.
pub(super) fn parse_urls(text: &str) -> Result<Vec<Url>, String> {
    let mut urls = text.split(',').map(parse_url).collect::<Result<Vec<_>, _>>()?;
    urls.sort();
    urls.dedup();
    Ok(urls)
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
    fn refusals_are_etcds() {
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
