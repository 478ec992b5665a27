//! From a raw key to the Kubernetes resource it holds, and from a configured name to what it
//! covers.
//!
//! kube-apiserver stores `<prefix>/<directory>/[<namespace>/]<name>`. A directory with a dot is a
//! group and the resource follows; otherwise the table below tells the group. The table is data: a
//! directory that it lacks can be added with [`Directories::extend`], and is a resource of no known
//! group until then.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Resources or keys that a name in a configuration covers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// One resource, `secrets` or `deployments.apps`.
    Resource {
        /// Its group; empty for the core group.
        group: String,
        /// Its name.
        resource: String,
    },
    /// Every resource of a group, `*.apps` or `*.`.
    Group(String),
    /// Every resource, `*.*`.
    AllResources,
    /// Every key with this prefix, `prefix:/foo/`; keepd's own. `prefix:` is every key.
    KeyPrefix(String),
}

/// Beginning of a name that is a key prefix.
pub(crate) const KEY_PREFIX: &str = "prefix:";

impl Scope {
    /// Reads a name as Kubernetes does, at the first dot; every text means something.
    #[must_use]
    pub fn parse(name: &str) -> Self {
        if let Some(prefix) = name.strip_prefix(KEY_PREFIX) {
            return Self::KeyPrefix(prefix.to_owned());
        }
        let (resource, group) = name.split_once('.').unwrap_or((name, ""));
        match (resource, group) {
            ("*", "*") => Self::AllResources,
            ("*", group) => Self::Group(group.to_owned()),
            (resource, group) => {
                Self::Resource { group: group.to_owned(), resource: resource.to_owned() }
            }
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resource { group, resource } if group.is_empty() => f.write_str(resource),
            Self::Resource { group, resource } => write!(f, "{resource}.{group}"),
            Self::Group(group) => write!(f, "*.{group}"),
            Self::AllResources => f.write_str("*.*"),
            Self::KeyPrefix(prefix) => write!(f, "{KEY_PREFIX}{prefix}"),
        }
    }
}

/// Content of a raw key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyContent<'a> {
    /// An object of this resource.
    Resource {
        /// Its group; empty for the core group.
        group: &'a [u8],
        /// Its name.
        resource: &'a [u8],
    },
    /// An object of a directory that the table lacks: its group is not known, so group wildcards
    /// pass it by.
    UnknownDirectory(&'a [u8]),
    /// Something that no resource name covers: kube-apiserver's own bookkeeping, which it never
    /// encrypts, or a key outside its prefix.
    NoResource,
}

/// Directories in which kube-apiserver keeps its resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    /// `/registry/`, or what `--etcd-prefix` says; with a slash at both ends.
    prefix: String,
    /// Directory to group and resource, where the directory has no dot.
    table: BTreeMap<Box<[u8]>, (String, String)>,
}

impl Default for Directories {
    fn default() -> Self {
        Self::new("/registry")
    }
}

/// Directories that no REST API serves; kube-apiserver writes them unencrypted even under `*.*`.
const INTERNAL: &[&str] = &["ranges", "masterleases", "peerserverleases", "health"];

/// Directories whose name is not the resource's.
const RENAMED: &[(&str, &str, &str)] = &[
    ("minions", "nodes", ""),
    ("controllers", "replicationcontrollers", ""),
    ("ingress", "ingresses", "networking.k8s.io"),
];

/// Groups and their resources, as of Kubernetes 1.37; the directory is the resource's name.
const BUILT_IN: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "configmaps",
            "events",
            "limitranges",
            "namespaces",
            "persistentvolumeclaims",
            "persistentvolumes",
            "pods",
            "podtemplates",
            "resourcequotas",
            "secrets",
            "serviceaccounts",
            "services",
        ],
    ),
    (
        "admissionregistration.k8s.io",
        &[
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicybindings",
            "mutatingwebhookconfigurations",
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
            "validatingwebhookconfigurations",
        ],
    ),
    ("apps", &["controllerrevisions", "daemonsets", "deployments", "replicasets", "statefulsets"]),
    ("autoscaling", &["horizontalpodautoscalers"]),
    ("batch", &["cronjobs", "jobs"]),
    (
        "certificates.k8s.io",
        &["certificatesigningrequests", "clustertrustbundles", "podcertificaterequests"],
    ),
    ("coordination.k8s.io", &["leases", "leasecandidates"]),
    ("discovery.k8s.io", &["endpointslices"]),
    ("flowcontrol.apiserver.k8s.io", &["flowschemas", "prioritylevelconfigurations"]),
    ("internal.apiserver.k8s.io", &["storageversions"]),
    ("lifecycle.k8s.io", &["evictionrequests", "evictions"]),
    ("networking.k8s.io", &["ingressclasses", "ipaddresses", "networkpolicies", "servicecidrs"]),
    ("node.k8s.io", &["runtimeclasses"]),
    ("policy", &["poddisruptionbudgets", "podsecuritypolicies"]),
    (
        "rbac.authorization.k8s.io",
        &["clusterrolebindings", "clusterroles", "rolebindings", "roles"],
    ),
    (
        "resource.k8s.io",
        &[
            "deviceclasses",
            "devicetaintrules",
            "resourceclaims",
            "resourceclaimtemplates",
            "resourcepoolstatusrequests",
            "resourceslices",
        ],
    ),
    ("scheduling.k8s.io", &["compositepodgroups", "podgroups", "priorityclasses", "workloads"]),
    (
        "storage.k8s.io",
        &[
            "csidrivers",
            "csinodes",
            "csistoragecapacities",
            "storageclasses",
            "volumeattachments",
            "volumeattributesclasses",
        ],
    ),
    ("storagemigration.k8s.io", &["storageversionmigrations"]),
];

/// Groups that are dotted directories although they are built in.
const DOTTED: &[(&str, &str)] = &[
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "apiservices"),
];

impl Directories {
    /// The built-in table under kube-apiserver's `--etcd-prefix`.
    #[must_use]
    pub fn new(etcd_prefix: &str) -> Self {
        let trimmed = etcd_prefix.trim_matches('/');
        let prefix = if trimmed.is_empty() { "/".to_owned() } else { format!("/{trimmed}/") };
        let mut table = BTreeMap::new();
        let plain = BUILT_IN.iter().flat_map(|(group, resources)| {
            resources.iter().map(move |resource| (*resource, *resource, *group))
        });
        for (directory, resource, group) in plain.chain(RENAMED.iter().copied()) {
            let old =
                table.insert(directory.as_bytes().into(), (group.to_owned(), resource.to_owned()));
            assert!(old.is_none(), "a directory stands in the table once");
        }
        Self { prefix, table }
    }

    /// Adds or changes a directory: `name` is `resource` or `resource.group`.
    pub fn extend(&mut self, directory: &str, name: &str) {
        let (resource, group) = name.split_once('.').unwrap_or((name, ""));
        self.table.insert(directory.as_bytes().into(), (group.to_owned(), resource.to_owned()));
    }

    /// The content of `key`.
    #[must_use]
    pub fn content_of<'a>(&'a self, key: &'a [u8]) -> KeyContent<'a> {
        let Some(path) = key.strip_prefix(self.prefix.as_bytes()) else {
            return KeyContent::NoResource;
        };
        let mut segments = path.split(|byte| *byte == b'/');
        let directory = segments.next().unwrap_or_default();
        if directory.is_empty() || INTERNAL.iter().any(|name| name.as_bytes() == directory) {
            return KeyContent::NoResource;
        }
        let second = segments.next().unwrap_or_default();
        if directory.contains(&b'.') {
            return KeyContent::Resource { group: directory, resource: second };
        }
        if directory == b"services" && second == b"endpoints" {
            return KeyContent::Resource { group: b"", resource: b"endpoints" };
        }
        match self.table.get(directory) {
            Some((group, resource)) => {
                KeyContent::Resource { group: group.as_bytes(), resource: resource.as_bytes() }
            }
            None => KeyContent::UnknownDirectory(directory),
        }
    }

    /// Whether some key can hold what `scope` names. A group with a dot may be a custom one, of
    /// which nothing is known.
    #[must_use]
    pub fn can_produce(&self, scope: &Scope) -> bool {
        let known: BTreeSet<(&str, &str)> = self
            .table
            .values()
            .map(|(group, resource)| (group.as_str(), resource.as_str()))
            .chain(DOTTED.iter().copied())
            .chain([("", "endpoints")])
            .collect();
        let group_is_known = |group: &str| known.iter().any(|(known, _)| *known == group);
        match scope {
            Scope::Resource { group, resource } => {
                known.contains(&(group.as_str(), resource.as_str()))
                    || (group.contains('.') && !group_is_known(group))
            }
            Scope::Group(group) => group.contains('.') || group_is_known(group),
            Scope::AllResources | Scope::KeyPrefix(_) => true,
        }
    }
}

#[cfg(test)]
mod tests;
