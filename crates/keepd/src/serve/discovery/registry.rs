//! A cluster's keys at a discovery service, and the members that they name.

use keepd_api::mvccpb::KeyValue;
use keepd_types::MemberId;

/// The keys of one cluster and one member.
#[derive(Clone, Debug)]
pub(super) struct Registry {
    prefix: String,
    local: MemberId,
}

impl Registry {
    /// Keys of the cluster with a token.
    pub(super) fn new(token: &str, local: MemberId) -> Self {
        Self { prefix: joined(token), local }
    }

    /// The key of the cluster's size.
    pub(super) fn size_key(&self) -> String {
        format!("{}/_config/size", self.prefix)
    }

    /// The prefix of all members.
    pub(super) fn members_prefix(&self) -> String {
        format!("{}/members", self.prefix)
    }

    /// The key of this member.
    pub(super) fn own_key(&self) -> String {
        format!("{}/{}", self.members_prefix(), self.local)
    }
}

/// `/_etcd/registry/TOKEN`, with the token's `.`, `..` and empty parts taken as Go's `path.Join` takes
/// them.
fn joined(token: &str) -> String {
    let mut parts = vec!["_etcd", "registry"];
    for part in token.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The number of members that somebody wrote.
pub(super) fn size(value: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(value).ok()?;
    let size = keepd_gotext::parse_int(text, 10).ok()?;
    usize::try_from(size).ok().filter(|size| *size > 0)
}

/// A member that registered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Registered {
    create_revision: i64,
    key: String,
    /// `name=url`, several with commas.
    urls: String,
}

/// Members that registered, the earliest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Members(Vec<Registered>);

impl Members {
    /// Adds a member, unless its key or value is none of a member or it is known.
    pub(super) fn add(&mut self, registry: &Registry, kv: &KeyValue) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let (key, urls) = (text(&kv.key), text(&kv.value));
        let problem = if !key.starts_with(&registry.members_prefix()) {
            "invalid peer registry key"
        } else if !urls.contains('=') {
            "invalid peer info returned from discovery service"
        } else if self.0.iter().any(|known| known.key == key) {
            "found duplicate peer from discovery service"
        } else {
            tracing::info!(key, member = urls, "found peer from discovery service");
            self.0.push(Registered { create_revision: kv.create_revision, key, urls });
            self.0.sort_by_key(|member| member.create_revision);
            return;
        };
        tracing::warn!(key, member = urls, "{problem}");
    }

    /// The number of members.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a cluster of this size has no place for the member with a key: so many others came
    /// before it.
    pub(super) fn is_full_without(&self, key: &str, size: usize) -> bool {
        let before = self.0.iter().take_while(|member| member.key != key).count();
        before >= size
    }

    /// The names and URLs that the first members wrote.
    pub(super) fn first(&self, size: usize) -> Vec<String> {
        self.0.iter().take(size).map(|member| member.urls.clone()).collect()
    }
}
