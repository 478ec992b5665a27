//! The wishes that an invited machine may have, checked against the invitation and the cluster.
//!
//! The certificate of a member lets whoever has its key speak as that member, so a newcomer gets none for
//! a name or a host that another member has.

use std::collections::BTreeSet;
use std::net::IpAddr;

use keepd_api::etcdserverpb as pb;
use keepd_gotext::{Url, parse_url};

use super::message::JoinRequest;
use crate::admin::sorted;

/// BOUND: characters of a name, which becomes the common name of a certificate.
const NAME_LEN_MAX: usize = 63;
/// Names that mean somebody else: etcd's root, and what `quickstart` and `pki` call their certificates.
const RESERVED: [&str; 6] =
    ["root", "ca", "keepd-ca", "keepd-inviter", "kube-apiserver-etcd-client", "default"];
/// Hosts that every member's certificate has, for clients on its own machine.
pub(super) const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The limits that an invitation sets.
#[derive(Clone, Debug, Default)]
pub(super) struct Limits {
    /// The only name that is let in, if there is one.
    pub(super) name: Option<String>,
    /// Hosts that a newcomer may have although another member has them.
    pub(super) allowed_hosts: BTreeSet<String>,
}

/// A key that the cluster writes under: its check value in hex, and its name.
pub(super) type Key = (String, String);

/// Checks name and URLs; the hosts that its certificate gets, or the reason for a refusal.
pub(super) fn check(
    wish: &JoinRequest,
    limits: &Limits,
    members: &[pb::Member],
) -> Result<Vec<String>, String> {
    check_name(&wish.name, limits, members)?;
    let peer_urls = urls(&wish.peer_urls, "--initial-advertise-peer-urls")?;
    let client_urls = urls(&wish.client_urls, "--advertise-client-urls")?;
    let used = members.iter().flat_map(|member| &member.peer_ur_ls);
    if let Some(url) = used.into_iter().find(|url| wish.peer_urls.contains(url)) {
        let own = members.iter().find(|it| sorted(&it.peer_ur_ls) == sorted(&wish.peer_urls));
        // Left over from a machine that was invited before and never started.
        if !own.is_some_and(|own| own.is_learner && own.name.is_empty()) {
            return Err(format!("another member has the peer URL {url}"));
        }
    }
    let taken: BTreeSet<String> = members
        .iter()
        .filter(|member| sorted(&member.peer_ur_ls) != sorted(&wish.peer_urls))
        .flat_map(|member| member.peer_ur_ls.iter().chain(&member.client_ur_ls))
        .filter_map(|url| Some(parse_url(url).ok()?.host().to_lowercase()))
        .collect();
    let mut hosts: Vec<String> = LOCAL_HOSTS.map(str::to_owned).to_vec();
    for url in peer_urls.iter().chain(&client_urls) {
        let host = url.host().to_lowercase();
        check_host(&host)?;
        if taken.contains(&host) && !is_local(&host) && !limits.allowed_hosts.contains(&host) {
            return Err(format!(
                "another member is reached at {host}, and a certificate for it would let this \
                 machine speak as that member; if both run there, invite with --allow-host {host}"
            ));
        }
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    Ok(hosts)
}

fn check_name(name: &str, limits: &Limits, members: &[pb::Member]) -> Result<(), String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !begins || name.len() > NAME_LEN_MAX || !name.chars().all(is_plain) {
        return Err(format!(
            "the name {name:?} is none for a member: letters, digits, `-`, `.` and `_`, \
             {NAME_LEN_MAX} at most; give another --name"
        ));
    }
    if RESERVED.contains(&name.to_lowercase().as_str()) {
        return Err(format!("the name {name:?} is reserved; give another --name"));
    }
    if let Some(only) = limits.name.as_ref().filter(|only| *only != name) {
        return Err(format!("this invitation is for {only}, not for {name}"));
    }
    if members.iter().any(|member| member.name.eq_ignore_ascii_case(name)) {
        return Err(format!("the cluster has a member of the name {name}; give another --name"));
    }
    Ok(())
}

fn urls(texts: &[String], flag: &str) -> Result<Vec<Url>, String> {
    if texts.is_empty() {
        return Err(format!("{flag} names no URL"));
    }
    let urls: Result<Vec<Url>, String> = texts.iter().map(|text| parse_url(text)).collect();
    let urls = urls.map_err(|error| format!("{flag}: {error}"))?;
    match urls.iter().find(|url| !url.is_tls() || url.is_unix()) {
        Some(url) => Err(format!(
            "{flag} has {url}: a member that joins by invitation is reached over TLS, at https:// and \
             an address that the others reach"
        )),
        None => Ok(urls),
    }
}

/// Whether a certificate may name a host.
fn check_host(host: &str) -> Result<(), String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return if address.is_unspecified() || address.is_multicast() {
            Err(format!("{host} is no address that others reach"))
        } else {
            Ok(())
        };
    }
    let is_label = |label: &str| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        !label.is_empty() && label.len() <= 63 && label.chars().all(is_plain)
    };
    if host.len() <= 253 && host.split('.').all(is_label) {
        return Ok(());
    }
    Err(format!("{host:?} is no host name for a certificate"))
}

fn is_local(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Refuses a machine that could not read what the members write; `is_sent` if it gets the configuration.
pub(super) fn check_keys(
    keys: Option<&[String]>,
    needed: &[Key],
    is_sent: bool,
) -> Result<(), String> {
    let has = |id: &String| keys.is_some_and(|keys| keys.contains(id));
    let lacking: Vec<String> = needed
        .iter()
        .filter(|(id, _)| !has(id))
        .map(|(id, name)| format!("{name} (id {id})"))
        .collect();
    if lacking.is_empty() || (is_sent && keys.is_none()) {
        return Ok(());
    }
    Err(format!(
        "the cluster seals what it stores under {}, which this machine {}; copy the members' \
         EncryptionConfiguration to it and name it with --encryption-provider-config, or invite with \
         --with-encryption-config FILE, which sends it",
        lacking.join(", "),
        if keys.is_none() { "has no configuration for" } else { "lacks" }
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members() -> Vec<pb::Member> {
        let member = |name: &str, host: &str| pb::Member {
            name: name.to_owned(),
            peer_ur_ls: vec![format!("https://{host}:2380")],
            client_ur_ls: vec![format!("https://{host}:2379")],
            ..Default::default()
        };
        vec![member("a", "10.0.0.1"), member("b", "b.example")]
    }

    fn wish(name: &str, host: &str) -> JoinRequest {
        JoinRequest {
            name: name.to_owned(),
            peer_urls: vec![format!("https://{host}:2380")],
            client_urls: vec![format!("https://{host}:2379")],
            request: String::new(),
            keys: None,
        }
    }

    fn refused(wish: &JoinRequest) -> String {
        check(wish, &Limits::default(), &members()).unwrap_err()
    }

    #[test]
    fn a_newcomer_gets_a_certificate_for_its_own_hosts() {
        let hosts = check(&wish("c", "C.example"), &Limits::default(), &members()).unwrap();
        assert_eq!(hosts, ["localhost", "127.0.0.1", "::1", "c.example"]);
        check(&wish("c", "127.0.0.1"), &Limits::default(), &members()).unwrap();
    }

    #[test]
    fn nobody_gets_the_name_or_the_host_of_another() {
        for name in ["a", "A", "root", "Root", "kube-apiserver-etcd-client", "", "-x", "a b", "*"] {
            refused(&wish(name, "10.0.0.3"));
        }
        assert!(refused(&wish("c", "10.0.0.1")).contains("has the peer URL"));
        let mut other_port = wish("c", "B.EXAMPLE");
        other_port.peer_urls = vec!["https://B.example:2390".to_owned()];
        assert!(refused(&other_port).contains("--allow-host b.example"));
        let allowed_hosts = ["b.example".to_owned()].into();
        let limits = Limits { allowed_hosts, ..Limits::default() };
        check(&other_port, &limits, &members()).unwrap();
        let limits = Limits { name: Some("c".to_owned()), ..Limits::default() };
        let error = check(&wish("d", "10.0.0.3"), &limits, &members()).unwrap_err();
        assert!(error.contains("this invitation is for c"), "{error}");
    }

    #[test]
    fn hosts_that_a_certificate_must_not_have_are_refused() {
        for host in ["*.example", "0.0.0.0", "[::]", "a_b", "x..y", "224.0.0.1"] {
            refused(&wish("c", host));
        }
        let mut plain = wish("c", "10.0.0.3");
        plain.peer_urls = vec!["http://10.0.0.3:2380".to_owned()];
        assert!(refused(&plain).contains("over TLS"));
        plain.peer_urls = vec![];
        assert!(refused(&plain).contains("names no URL"));
    }

    #[test]
    fn a_machine_that_was_invited_and_never_started_may_come_again() {
        let mut members = members();
        members.push(pb::Member {
            peer_ur_ls: vec!["https://10.0.0.3:2380".to_owned()],
            is_learner: true,
            ..Default::default()
        });
        check(&wish("c", "10.0.0.3"), &Limits::default(), &members).unwrap();
    }

    #[test]
    fn keys_are_brought_or_sent_and_named_if_they_lack() {
        let needed = [("0a".to_owned(), "aesgcm:key1".to_owned())];
        check_keys(None, &[], false).unwrap();
        check_keys(Some(&["0a".to_owned()]), &needed, false).unwrap();
        check_keys(None, &needed, true).unwrap();
        let error = check_keys(None, &needed, false).unwrap_err();
        assert!(error.contains("aesgcm:key1 (id 0a)"), "{error}");
        check_keys(Some(&[]), &needed, true).unwrap_err();
    }
}
