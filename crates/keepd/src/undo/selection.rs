//! The keys that are compared: below prefixes, or those of a Kubernetes namespace.

use bytes::Bytes;
use keepd_types::KeyRange;

/// BOUND: prefixes on a command line.
const PREFIXES_MAX: usize = 64;

/// The keys that are looked at, on a command line.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct SelectionArguments {
    /// Look at the keys below a prefix; more than once for more.
    #[arg(long, value_name = "PREFIX")]
    prefix: Vec<String>,
    /// Look at a namespace of Kubernetes: the namespace itself and all that is in it.
    #[arg(long, value_name = "NAME", conflicts_with = "prefix")]
    namespace: Option<String>,
    /// The prefix that kube-apiserver keeps its objects below.
    #[arg(long, value_name = "PREFIX", default_value = "/registry", requires = "namespace")]
    etcd_prefix: String,
}

/// Keys that are looked at.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    /// In order, and none within another one.
    ranges: Vec<KeyRange>,
    namespace: Option<Namespace>,
}

#[derive(Clone, Debug)]
struct Namespace {
    /// kube-apiserver's prefix with a slash at its end.
    root: String,
    name: String,
}

impl SelectionArguments {
    /// Reads it; without any word all keys.
    pub(super) fn read(&self) -> anyhow::Result<Selection> {
        anyhow::ensure!(self.prefix.len() <= PREFIXES_MAX, "at most {PREFIXES_MAX} prefixes");
        let Some(name) = self.namespace.clone() else {
            let all = [String::new()];
            return Ok(Selection::of_prefixes(if self.prefix.is_empty() {
                &all
            } else {
                &self.prefix
            }));
        };
        anyhow::ensure!(
            !name.is_empty() && !name.contains('/'),
            "{name:?} is no name of a namespace"
        );
        let root = format!("{}/", self.etcd_prefix.trim_end_matches('/'));
        let ranges = vec![below(root.as_bytes())];
        Ok(Selection { ranges, namespace: Some(Namespace { root, name }) })
    }

    /// Whether it names any keys.
    pub(super) fn is_given(&self) -> bool {
        !self.prefix.is_empty() || self.namespace.is_some()
    }
}

impl Selection {
    /// All keys below any of these.
    pub(super) fn of_prefixes(prefixes: &[String]) -> Self {
        let mut all: Vec<Bytes> = prefixes.iter().map(|it| it.clone().into()).collect();
        all.sort_unstable();
        all.dedup_by(|later, earlier| later.starts_with(earlier));
        Self { ranges: all.iter().map(|prefix| below(prefix)).collect(), namespace: None }
    }

    /// The namespace itself, if it is one.
    pub(super) fn of_namespace_alone(&self) -> Option<Self> {
        let key = self.namespace_key()?;
        Some(Self { ranges: vec![KeyRange::point(key)], namespace: None })
    }

    /// Ranges in order that hold all its keys, none twice.
    pub(super) fn ranges(&self) -> Vec<KeyRange> {
        self.ranges.clone()
    }

    /// Whether a key of the ranges belongs to it.
    pub(super) fn has(&self, key: &[u8]) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| namespace.has(key))
    }

    /// The key of the namespace, which is put back before what is in it.
    pub(super) fn namespace_key(&self) -> Option<Bytes> {
        self.namespace.as_ref().map(|it| format!("{}namespaces/{}", it.root, it.name).into())
    }
}

impl Namespace {
    /// Whether kube-apiserver keeps an object of the namespace there. Its keys are `RESOURCE/NAMESPACE/NAME`,
    /// with two words for the resources of a group of its own and for services; those of objects without a
    /// namespace are a word shorter.
    fn has(&self, key: &[u8]) -> bool {
        let text = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(&self.root));
        let Some(text) = text else { return false };
        let words: Vec<&str> = text.split('/').collect();
        match words[..] {
            ["namespaces", name] => name == self.name,
            [first, _, namespace, _] if first.contains('.') || first == "services" => {
                namespace == self.name
            }
            [first, namespace, _] if !first.contains('.') && first != "services" => {
                namespace == self.name
            }
            _ => false,
        }
    }
}

/// The range below a prefix; below an empty one are all keys.
fn below(prefix: &[u8]) -> KeyRange {
    // No key is empty, and no request may name an empty one.
    let first: &[u8] = if prefix.is_empty() { &[0] } else { prefix };
    KeyRange::from_request(Bytes::copy_from_slice(first), keepd_cli::prefix_end(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_its_object_and_what_is_in_it() {
        let root = "/registry/".to_owned();
        let namespace = Namespace { root, name: "shop".to_owned() };
        for key in [
            "/registry/namespaces/shop",
            "/registry/configmaps/shop/settings",
            "/registry/deployments/shop/web",
            "/registry/services/specs/shop/web",
            "/registry/services/endpoints/shop/web",
            "/registry/example.com/widgets/shop/one",
        ] {
            assert!(namespace.has(key.as_bytes()), "{key}");
        }
        for key in [
            "/registry/namespaces/shop2",
            "/registry/configmaps/default/shop",
            "/registry/configmaps/shop",
            "/registry/clusterroles/shop",
            "/registry/example.com/shop/one",
            "/registry/services/shop/web",
            "/registry/apiregistration.k8s.io/apiservices/shop",
            "/other/configmaps/shop/settings",
        ] {
            assert!(!namespace.has(key.as_bytes()), "{key}");
        }
    }

    #[test]
    fn prefixes_within_others_are_looked_at_once() {
        let selection = Selection::of_prefixes(&["/b/".into(), "/a/x".into(), "/a".into()]);
        let range = |prefix: &'static str, end: &'static str| {
            KeyRange::from_request(prefix.into(), end.into())
        };
        assert_eq!(selection.ranges(), [range("/a", "/b"), range("/b/", "/b0")]);
        let all = Selection::of_prefixes(&["/b/".into(), String::new()]);
        assert_eq!(all.ranges(), [range("\0", "\0")]);
    }
}
