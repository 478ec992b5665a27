//! The first members as a DNS domain lists them: one SRV record each, of `_etcd-server-ssl._tcp` for
//! members with TLS and of `_etcd-server._tcp` for those without. Rules and texts are etcd's.
//!
//! A record has no name. The one whose address this member advertises is this member; the others get
//! numbers, which differ from member to member and so are not kept.

use std::net::SocketAddr;
use std::time::Duration;

use domain::base::iana::{Rcode, Rtype};
use domain::base::name::Name;
use domain::rdata::Srv;
use domain::resolv::StubResolver;
use keepd_gotext::quote;

use crate::flags::{ServerOptions, Url};

/// BOUND: time for one question to the name servers.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(20);
/// BOUND: records of one name: far more than a cluster has members.
const RECORDS_MAX: usize = 64;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    priority: u16,
    /// Without the dot at its end.
    host: String,
    port: u16,
}

/// Finds names and peer URLs of all members.
pub(super) async fn members(
    resolver: &StubResolver,
    options: &ServerOptions,
) -> Result<Vec<(String, String)>, String> {
    let mut found = Vec::new();
    let mut errors = Vec::new();
    for (scheme, service) in [("https", "etcd-server-ssl"), ("http", "etcd-server")] {
        let suffix = match options.discovery_srv_name.as_str() {
            "" => String::new(),
            name => format!("-{name}"),
        };
        let service = format!("{service}{suffix}");
        match of_service(resolver, options, scheme, &service, found.len()).await {
            Ok(mut members) => {
                tracing::info!(service, ?members, "got bootstrap from DNS for etcd-server");
                found.append(&mut members);
            }
            Err(error) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        tracing::warn!(error = errors.join("\n"), "failed to resolve during SRV discovery");
    }
    if found.is_empty() {
        return Err(format!("error setting up initial cluster: {}", errors.join("\n")));
    }
    if !found.iter().any(|(name, _)| *name == options.name) {
        return Err(format!(
            "error setting up initial cluster: cannot find local etcd member {} in SRV records",
            quote(&options.name)
        ));
    }
    Ok(found)
}

/// The members of one service; those without a name are numbered from a number on.
async fn of_service(
    resolver: &StubResolver,
    options: &ServerOptions,
    scheme: &str,
    service: &str,
    first: usize,
) -> Result<Vec<(String, String)>, String> {
    let mut own = Vec::new();
    for url in &options.initial_advertise_peer_urls {
        own.push((resolve(url.address()).await?, url));
    }
    let question = format!("_{service}._tcp.{}", options.discovery_srv);
    let failed = |error| format!("error querying DNS SRV records for _{service} {error}");
    let targets = tokio::time::timeout(LOOKUP_TIMEOUT, lookup(resolver, &question)).await;
    let targets = targets
        .unwrap_or_else(|_elapsed| Err(format!("lookup {question}: i/o timeout")))
        .map_err(failed)?;
    let (mut members, mut last_error) = (Vec::new(), None);
    for target in targets {
        match member(&target, &own, scheme, service, options, first + members.len()).await {
            Ok(member) => members.push(member),
            Err(error) => last_error = Some(error),
        }
    }
    match last_error {
        Some(error) if members.is_empty() => Err(failed(error)),
        _ => Ok(members),
    }
}

async fn member(
    target: &Target,
    own: &[(SocketAddr, &Url)],
    scheme: &str,
    service: &str,
    options: &ServerOptions,
    number: usize,
) -> Result<(String, String), String> {
    let url = format!("{scheme}://{}:{}", target.host, target.port);
    let address = resolve(&format!("{}:{}", target.host, target.port)).await?;
    let Some((_, own)) = own.iter().find(|(of_own, _)| *of_own == address) else {
        return Ok((number.to_string(), url));
    };
    if own.as_str().split_once("://").is_none_or(|(of_own, _)| of_own != scheme) {
        return Err(format!(
            "bootstrap at {url} from DNS for {service} has scheme mismatch with expected peer {own}"
        ));
    }
    Ok((options.name.clone(), url))
}

/// The address of `host:port` as the system resolves it; of several the first of IPv4, as Go takes it.
async fn resolve(address: &str) -> Result<SocketAddr, String> {
    let found = tokio::net::lookup_host(address).await;
    let found: Vec<SocketAddr> =
        found.map_err(|error| format!("lookup {address}: {error}"))?.collect();
    let of_v4 = found.iter().find(|found| found.is_ipv4());
    let best = of_v4.or_else(|| found.first()).copied();
    best.ok_or_else(|| format!("lookup {address}: no such host"))
}

/// The SRV records of a name, in the order of their priorities.
async fn lookup(resolver: &StubResolver, question: &str) -> Result<Vec<Target>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("lookup {question}: {error}");
    let name: Name<Vec<u8>> = question.parse().map_err(|_malformed| failed(&"no such host"))?;
    let answer = resolver.query((name, Rtype::SRV)).await.map_err(|error| failed(&error))?;
    match answer.header().rcode() {
        Rcode::NOERROR => {}
        Rcode::NXDOMAIN => return Err(failed(&"no such host")),
        code => return Err(failed(&format!("server misbehaving ({code})"))),
    }
    let records = answer.answer().map_err(|error| failed(&error))?;
    let mut targets = Vec::new();
    for record in records.limit_to_in::<Srv<_>>().take(RECORDS_MAX) {
        let record = record.map_err(|error| failed(&error))?;
        let (srv, host) = (record.data(), record.data().target().to_string());
        let host = host.trim_end_matches('.').to_owned();
        targets.push(Target { priority: srv.priority(), host, port: srv.port() });
    }
    if targets.is_empty() {
        return Err(failed(&"no such host"));
    }
    targets.sort();
    Ok(targets)
}

#[cfg(test)]
mod tests;
