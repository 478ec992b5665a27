//! Access of web browsers: the hosts that a plain request may name, and the origins that may read the
//! answers.
//!
//! A page can have its visitor's browser send requests to any address, also under a host name of its
//! own that suddenly means that address (DNS rebinding). `--host-whitelist` closes that for plain
//! connections; TLS closes it by itself, since no certificate is valid for the page's name. By
//! default that list allows every host, as etcd's does; keepd's own paths then still take only hosts
//! that no page of another origin can have. Only requests that are not gRPC come here: a browser
//! cannot speak gRPC without CORS, which is granted for HTTP endpoints alone.

use std::collections::BTreeSet;
use std::net::IpAddr;

use http::header::{ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS};
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, HOST, ORIGIN};
use http::{HeaderValue, Request, Response};

/// The entry that stands for all hosts or origins.
const ANY: &str = "*";

/// `--cors` and `--host-whitelist`. An empty list allows all, as `*` in it does.
#[derive(Clone, Debug, Default)]
pub struct AccessControl {
    /// Origins that may read answers.
    pub origins: BTreeSet<String>,
    /// Host names that a plain request may name.
    pub hosts: BTreeSet<String>,
    /// Host names that the member listens on or advertises.
    pub own_hosts: BTreeSet<String>,
}

fn allows(list: &BTreeSet<String>, name: &str) -> bool {
    list.is_empty() || list.contains(ANY) || list.contains(name)
}

impl AccessControl {
    /// The host that a plain request names, if the list does not allow it.
    pub(crate) fn refused_host<B>(&self, request: &Request<B>) -> Option<String> {
        let host = named_host(request);
        (!allows(&self.hosts, &host)).then_some(host)
    }

    /// The host that a plain request names, if a page of another origin could have named it: it is
    /// neither an address, nor a name of this machine or member, nor listed by the operator.
    pub(crate) fn foreign_host<B>(&self, request: &Request<B>) -> Option<String> {
        let host = named_host(request);
        let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        let is_named = |name: &String| name != ANY && name.eq_ignore_ascii_case(&host);
        let is_ours = is_address
            || host.eq_ignore_ascii_case("localhost")
            || self.own_hosts.iter().chain(&self.hosts).any(is_named);
        (!is_ours).then_some(host)
    }

    /// Lets a page of an allowed origin read the answer.
    pub(crate) fn allow_origin<A, B>(&self, request: &Request<A>, response: &mut Response<B>) {
        let origin = if allows(&self.origins, ANY) {
            HeaderValue::from_static(ANY)
        } else {
            let origin = request.headers().get(ORIGIN);
            let listed = origin.filter(|it| it.to_str().is_ok_and(|it| allows(&self.origins, it)));
            let Some(origin) = listed else { return };
            origin.clone()
        };
        let headers = response.headers_mut();
        let methods = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let allowed = HeaderValue::from_static("accept, content-type, authorization");
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    }
}

/// The host that a request names, without its port.
fn named_host<B>(request: &Request<B>) -> String {
    match request.uri().authority() {
        Some(authority) => host_name(authority.as_str()).to_owned(),
        None => {
            let named = request.headers().get(HOST).map(HeaderValue::as_bytes);
            host_name(&String::from_utf8_lossy(named.unwrap_or_default())).to_owned()
        }
    }
}

/// The host without its port, as Go's `net.SplitHostPort` splits it; all of it if that fails.
fn host_name(named: &str) -> &str {
    if let Some(inner) = named.strip_prefix('[') {
        return match inner.split_once("]:") {
            Some((host, port)) if !port.contains([':', '[', ']']) => host,
            _ => named,
        };
    }
    match named.split_once(':') {
        Some((host, port)) if !port.contains(':') => host,
        _ => named,
    }
}

/// The body of the refusal of keepd's own paths.
pub(crate) fn refusal_of_own_path(host: &str) -> String {
    format!(
        "keepd shows this over plain HTTP only under an IP address, localhost, a host name that it \
         listens on or advertises, or one of --host-whitelist: a web page could have named \
         {host:?}\n"
    )
}

/// The body of the refusal, etcd's word for word.
pub(crate) fn refusal(host: &str) -> String {
    format!(
        "\netcd received your request, but the Host header was unrecognized.\n\n\
         To fix this, choose one of the following options:\n\
         - Enable TLS, then any HTTPS request will be allowed.\n\
         - Add the hostname you want to use to the whitelist in settings.\n  \
         - e.g. etcd --host-whitelist {host:?}\n\n\
         This requirement has been added to help prevent \"DNS Rebinding\" attacks \
         (CVE-2018-5702).\n\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_taken_apart_as_in_go() {
        for (named, host) in [
            ("localhost:2379", "localhost"),
            ("localhost", "localhost"),
            ("[::1]:2379", "::1"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            ("a:b:c", "a:b:c"),
            ("", ""),
            (":1", ""),
        ] {
            assert_eq!(host_name(named), host, "{named}");
        }
    }

    #[test]
    fn lists_allow_what_they_name_and_empty_ones_all() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let some = AccessControl {
            origins: set(&["http://a:1"]),
            hosts: set(&["localhost"]),
            own_hosts: set(&[]),
        };
        let request = |host: &str, origin: &str| {
            Request::builder().uri("/").header(HOST, host).header(ORIGIN, origin).body(()).unwrap()
        };
        let foreign = request("evil.example:2379", "http://evil.example");
        assert_eq!(some.refused_host(&foreign).as_deref(), Some("evil.example"));
        assert_eq!(some.refused_host(&request("localhost:2379", "")), None);
        let origin = |access: &AccessControl, request: &Request<()>| {
            let mut response = Response::new(());
            access.allow_origin(request, &mut response);
            let allowed = response.headers().get(ACCESS_CONTROL_ALLOW_ORIGIN);
            allowed.map(|origin| origin.to_str().unwrap().to_owned())
        };
        assert_eq!(origin(&some, &foreign), None);
        let known = request("localhost", "http://a:1");
        assert_eq!(origin(&some, &known).as_deref(), Some("http://a:1"));
        let all = AccessControl::default();
        assert_eq!(all.refused_host(&foreign), None);
        assert_eq!(origin(&all, &foreign).as_deref(), Some("*"));
    }

    #[test]
    fn a_rebound_name_is_foreign_whatever_the_list_allows() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let access = AccessControl {
            origins: set(&[]),
            hosts: set(&["*", "listed.example"]),
            own_hosts: set(&["etcd.svc"]),
        };
        let is_foreign = |host: &str| {
            let request = Request::builder().uri("/").header(HOST, host).body(()).unwrap();
            access.foreign_host(&request).is_some()
        };
        for ours in [
            "127.0.0.1:2379",
            "10.0.0.1",
            "[::1]:2379",
            "[fe80::1]",
            "localhost:2379",
            "LOCALHOST",
            "etcd.svc:2379",
            "ETCD.svc",
            "listed.example",
        ] {
            assert!(!is_foreign(ours), "{ours}");
        }
        for foreign in ["", "*", "evil.example", "localhost.evil.example", "127.0.0.1.evil", "svc"]
        {
            assert!(is_foreign(foreign), "{foreign}");
        }
    }
}
