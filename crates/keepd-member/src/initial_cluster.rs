//! The first members of a cluster, as `--initial-cluster` and its sister flags name them.
//!
//! Texts are etcd's. Unlike etcd this compares URLs as they are written and does not resolve host
//! names.

use std::collections::BTreeMap;

use keepd_gotext::quote;
use keepd_types::{ClusterId, MemberId};
use thiserror::Error;

use crate::layout::Identity;

/// An error in the flags that describe a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClusterError {
    /// URLs of the cluster are not advertised.
    #[error(
        "--initial-cluster has {missing} but missing from \
         --initial-advertise-peer-urls={advertised} ({difference})"
    )]
    NotAdvertised {
        /// The local member with these URLs.
        missing: String,
        /// The advertised URLs.
        advertised: String,
        /// The first difference between the two lists.
        difference: String,
    },
    /// Advertised URLs are not in the cluster.
    #[error(
        "--initial-advertise-peer-urls has {missing} but missing from --initial-cluster={cluster}"
    )]
    NotInCluster {
        /// The URLs.
        missing: String,
        /// The local member with what it advertises.
        cluster: String,
    },
    /// Two members have one URL.
    #[error("initial cluster {0} has duplicate url")]
    DuplicateUrl(String),
    /// Two members would get one id.
    #[error("member exists with identical ID {0}")]
    DuplicateId(MemberId),
    /// The local member is not in the cluster.
    #[error("couldn't find local name {} in the initial cluster configuration", quote(.0))]
    NoLocalName(String),
    /// A URL without host and port.
    #[error("URL address does not have the form \"host:port\": {0}")]
    UrlAddress(String),
    /// A URL with a path.
    #[error("URL must not contain a path: {0}")]
    UrlPath(String),
    /// A URL of another scheme.
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    UrlScheme(String),
}

/// One of the first members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialMember {
    /// Its id.
    pub id: MemberId,
    /// Its name; empty if only the member itself knows it.
    pub name: String,
    /// Its peer URLs, sorted.
    pub peer_urls: Vec<String>,
}

/// The first members of a cluster with the ids that follow from their URLs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialCluster {
    /// In ascending order of their ids.
    pub members: Vec<InitialMember>,
    /// The local member.
    pub local: MemberId,
    /// The cluster.
    pub id: ClusterId,
}

impl InitialCluster {
    /// Reads and checks the flags: `name`, the cluster (`name=url,...`), its token, and the URLs that
    /// the local member advertises.
    ///
    /// # Errors
    /// The first fault that etcd would tell.
    pub fn parse(
        name: &str,
        cluster: &str,
        token: &str,
        advertised: &str,
    ) -> Result<Self, ClusterError> {
        let advertised = parse_urls(advertised)?;
        let urls_by_name = parse_cluster(cluster)?;
        let local_urls = urls_by_name.get(name);
        let local_urls = local_urls.ok_or_else(|| ClusterError::NoLocalName(name.to_owned()))?;
        check_advertised(name, local_urls, &advertised)?;
        Self::new(name, urls_by_name, token)
    }

    /// The cluster of the members with these names and peer URLs, `name` being the local one.
    ///
    /// # Errors
    /// If that is not one of them, or two have a URL or an id in common.
    pub fn new(
        name: &str,
        mut urls_by_name: BTreeMap<String, Vec<String>>,
        token: &str,
    ) -> Result<Self, ClusterError> {
        for urls in urls_by_name.values_mut() {
            urls.sort_unstable();
            urls.dedup();
        }
        let local_urls = urls_by_name.get(name);
        let local_urls = local_urls.ok_or_else(|| ClusterError::NoLocalName(name.to_owned()))?;
        check_distinct(&urls_by_name)?;
        let local = MemberId::from_peer_urls(local_urls, token, None);
        let mut members: Vec<InitialMember> = urls_by_name
            .into_iter()
            .map(|(name, peer_urls)| {
                let id = MemberId::from_peer_urls(&peer_urls, token, None);
                InitialMember { id, name, peer_urls }
            })
            .collect();
        members.sort_by_key(|member| member.id);
        if let Some(twin) = members.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(ClusterError::DuplicateId(twin[0].id));
        }
        let ids: Vec<MemberId> = members.iter().map(|member| member.id).collect();
        Ok(Self { members, local, id: ClusterId::from_members(&ids) })
    }

    /// A cluster of this member alone, at one URL.
    #[must_use]
    pub fn alone(name: &str, peer_url: &str, token: &str) -> Self {
        let urls = BTreeMap::from([(name.to_owned(), vec![peer_url.to_owned()])]);
        Self::new(name, urls, token).expect("one member with one URL has nothing to share")
    }

    /// The same members, whose names only they themselves know: the others learn them from what each
    /// publishes.
    #[must_use]
    pub fn without_names(mut self) -> Self {
        for member in &mut self.members {
            member.name.clear();
        }
        self
    }

    /// The local member in this cluster.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        Identity { member: self.local, cluster: self.id }
    }

    /// The peer URLs of all members but the local one, sorted: where to ask for a cluster that runs.
    #[must_use]
    pub fn remote_urls(&self) -> Vec<String> {
        let others = self.members.iter().filter(|member| member.id != self.local);
        let mut urls: Vec<String> =
            others.flat_map(|member| member.peer_urls.iter().cloned()).collect();
        urls.sort_unstable();
        urls
    }
}

/// Reads a comma-separated list of URLs; sorted, each once.
fn parse_urls(list: &str) -> Result<Vec<String>, ClusterError> {
    let mut urls = list.split(',').map(parse_url).collect::<Result<Vec<_>, _>>()?;
    urls.sort_unstable();
    urls.dedup();
    Ok(urls)
}

fn parse_url(url: &str) -> Result<String, ClusterError> {
    let url = url.trim();
    match url.split_once("://") {
        Some(("http" | "https", address)) => {
            let host = address.split('/').next().unwrap_or_default();
            if !has_port(host) {
                return Err(ClusterError::UrlAddress(url.to_owned()));
            }
            if host.len() != address.len() {
                return Err(ClusterError::UrlPath(url.to_owned()));
            }
            Ok(url.to_owned())
        }
        Some(("unix" | "unixs", _)) => Ok(url.to_owned()),
        _ => Err(ClusterError::UrlScheme(url.to_owned())),
    }
}

/// Whether `host` is `host:port`, where an IPv6 address stands in brackets.
fn has_port(host: &str) -> bool {
    host.rsplit_once(':').is_some_and(|(name, _port)| {
        !name.contains(':') || (name.starts_with('[') && name.ends_with(']'))
    })
}

fn parse_cluster(cluster: &str) -> Result<BTreeMap<String, Vec<String>>, ClusterError> {
    let mut urls_by_name: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for member in cluster.split(',').filter(|member| !member.is_empty()) {
        let (name, url) = member.split_once('=').unwrap_or((member, ""));
        urls_by_name.entry(name.to_owned()).or_default().push(parse_url(url)?);
    }
    for urls in urls_by_name.values_mut() {
        urls.sort_unstable();
        urls.dedup();
    }
    Ok(urls_by_name)
}

/// Compares the URLs that the cluster has for the local member with those that the member
/// advertises, both ways, as etcd does. Both lists are sorted.
///
/// # Errors
/// If they differ.
pub fn check_advertised(
    name: &str,
    in_cluster: &[String],
    advertised: &[String],
) -> Result<(), ClusterError> {
    let named = |urls: &[String]| {
        urls.iter().map(|url| format!("{name}={url}")).collect::<Vec<_>>().join(",")
    };
    let without = |urls: &[String], others: &[String]| -> Vec<String> {
        urls.iter().filter(|url| !others.contains(url)).cloned().collect()
    };
    let missing = without(in_cluster, advertised);
    if !missing.is_empty() {
        return Err(ClusterError::NotAdvertised {
            missing: named(&missing),
            advertised: advertised.join(","),
            difference: difference(advertised, in_cluster),
        });
    }
    let missing = without(advertised, in_cluster);
    if !missing.is_empty() {
        let (missing, cluster) = (missing.join(","), named(advertised));
        return Err(ClusterError::NotInCluster { missing, cluster });
    }
    Ok(())
}

/// The first difference between two sorted lists of URLs that differ, in the words of etcd's
/// comparison.
///
/// # Panics
/// If they are equal.
#[must_use]
pub fn difference(one: &[String], other: &[String]) -> String {
    if one.len() != other.len() {
        let list = |urls: &[String]| {
            let quoted: Vec<String> = urls.iter().map(quote).collect();
            quoted.join(" ")
        };
        return format!("len([{}]) != len([{}])", list(one), list(other));
    }
    let mut pairs = one.iter().zip(other);
    let (one, other) = pairs.find(|(one, other)| one != other).expect("the lists differ");
    format!("resolved urls: {} != {}", quote(one), quote(other))
}

fn check_distinct(urls_by_name: &BTreeMap<String, Vec<String>>) -> Result<(), ClusterError> {
    let mut all: Vec<&String> = urls_by_name.values().flatten().collect();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    if all.len() == count {
        return Ok(());
    }
    let pairs = urls_by_name
        .iter()
        .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")));
    Err(ClusterError::DuplicateUrl(pairs.collect::<Vec<_>>().join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(name: &str, cluster: &str, advertised: &str, text: &str) {
        let error = InitialCluster::parse(name, cluster, "etcd-cluster", advertised).unwrap_err();
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn the_default_cluster_has_etcds_ids() {
        let url = "http://localhost:2380";
        let cluster =
            InitialCluster::parse("default", &format!("default={url}"), "etcd-cluster", url)
                .unwrap();
        assert_eq!(cluster.local, MemberId(0x8e9e_05c5_2164_694d));
        assert_eq!(cluster.id, ClusterId(0xcdf8_1819_4e3a_8c32));
        assert_eq!(cluster.members.len(), 1);
    }

    #[test]
    fn members_are_in_order_of_their_ids() {
        let text = "c=http://c:1,a=http://a:1,b=http://b:1,b=http://b:2";
        let cluster = InitialCluster::parse("a", text, "t", "http://a:1").unwrap();
        assert!(cluster.members.is_sorted_by_key(|member| member.id));
        let b = cluster.members.iter().find(|member| member.name == "b").unwrap();
        assert_eq!(b.peer_urls, ["http://b:1", "http://b:2"]);
    }

    #[test]
    fn the_others_are_asked_in_order_of_their_urls() {
        let text = "c=http://c:1,a=http://a:1,b=http://b:2,b=http://b:1";
        let cluster = InitialCluster::parse("a", text, "t", "http://a:1").unwrap();
        assert_eq!(cluster.remote_urls(), ["http://b:1", "http://b:2", "http://c:1"]);
        assert_eq!(InitialCluster::alone("a", "http://a:1", "t").remote_urls(), [""; 0]);
    }

    #[test]
    fn faults_are_told_in_etcds_words() {
        refused(
            "foo",
            "m1=http://a:1",
            "http://a:1",
            "couldn't find local name \"foo\" in the initial cluster configuration",
        );
        refused(
            "m1",
            "m1=http://a:1",
            "http://b:1",
            "--initial-cluster has m1=http://a:1 but missing from \
             --initial-advertise-peer-urls=http://b:1 \
             (resolved urls: \"http://b:1\" != \"http://a:1\")",
        );
        refused(
            "m1",
            "m1=http://a:1,m1=http://a:2",
            "http://a:1",
            "--initial-cluster has m1=http://a:2 but missing from \
             --initial-advertise-peer-urls=http://a:1 \
             (len([\"http://a:1\"]) != len([\"http://a:1\" \"http://a:2\"]))",
        );
        refused(
            "m1",
            "m1=http://a:1",
            "http://a:1,http://b:1",
            "--initial-advertise-peer-urls has http://b:1 but missing from \
             --initial-cluster=m1=http://a:1,m1=http://b:1",
        );
        refused(
            "a",
            "a=http://a:1,b=http://a:1",
            "http://a:1",
            "initial cluster a=http://a:1,b=http://a:1 has duplicate url",
        );
        refused("a", "a=foo", "http://a:1", "URL scheme must be http, https, unix, or unixs: foo");
        refused(
            "a",
            "a=http://a",
            "http://a:1",
            "URL address does not have the form \"host:port\": http://a",
        );
        refused("a", "a=http://a:1/x", "http://a:1", "URL must not contain a path: http://a:1/x");
        for list in ["", "http://a:1,"] {
            let text = "URL scheme must be http, https, unix, or unixs: ";
            refused("a", "a=http://a:1", list, text);
        }
    }

    #[test]
    fn addresses_of_all_kinds_are_known() {
        assert!(parse_urls("http://[::1]:2380, unix:///tmp/a.sock").is_ok());
        assert!(parse_urls("http://::1").is_err());
    }
}
