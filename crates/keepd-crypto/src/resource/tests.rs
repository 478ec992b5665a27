//! Keys of a real control plane, and names that no key can have.

use super::*;

fn check(key: &str, expected: &str) {
    let directories = Directories::default();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let found = match directories.content_of(key.as_bytes()) {
        KeyContent::Resource { group, resource } => {
            Scope::Resource { group: text(group), resource: text(resource) }.to_string()
        }
        KeyContent::UnknownDirectory(directory) => format!("unknown {}", text(directory)),
        KeyContent::NoResource => "none".to_owned(),
    };
    assert_eq!(found, expected, "{key}");
}

#[test]
fn keys_hold_what_kubernetes_keeps_there() {
    check("/registry/secrets/default/s1", "secrets");
    check("/registry/services/specs/default/kubernetes", "services");
    check("/registry/services/endpoints/default/kubernetes", "endpoints");
    check("/registry/minions/node-1", "nodes");
    check("/registry/controllers/default/rc", "replicationcontrollers");
    check("/registry/ingress/default/web", "ingresses.networking.k8s.io");
    check("/registry/ingressclasses/nginx", "ingressclasses.networking.k8s.io");
    check("/registry/deployments/kube-system/coredns", "deployments.apps");
    check("/registry/clusterroles/system:node", "clusterroles.rbac.authorization.k8s.io");
    check("/registry/poddisruptionbudgets/a/b", "poddisruptionbudgets.policy");
    check("/registry/pandas.example.com/pandas/ns/p", "pandas.pandas.example.com");
    check(
        "/registry/apiregistration.k8s.io/apiservices/v1.apps",
        "apiservices.apiregistration.k8s.io",
    );
    check("/registry/events/default/a.17", "events");
    check("/registry/demo", "unknown demo");
}

#[test]
fn bookkeeping_and_foreign_keys_hold_no_resource() {
    check("/registry/ranges/servicenodeports", "none");
    check("/registry/ranges/serviceips", "none");
    check("/registry/masterleases/10.0.0.1", "none");
    check("/registry/peerserverleases/apiserver-x", "none");
    check("/registry/health", "none");
    check("/registry/", "none");
    check("/registry", "none");
    check("/registry2/secrets/a/b", "none");
    check("compact_rev_key", "none");
    check("/bootstrap/abc", "none");
    check("", "none");
}

#[test]
fn another_prefix_and_further_directories() {
    let mut directories = Directories::new("uuid/registry/");
    let key = b"/uuid/registry/widgets/a";
    assert_eq!(directories.content_of(key), KeyContent::UnknownDirectory(b"widgets"));
    directories.extend("widgets", "widgets.apps");
    assert_eq!(
        directories.content_of(key),
        KeyContent::Resource { group: b"apps", resource: b"widgets" }
    );
    assert_eq!(directories.content_of(b"/registry/secrets/a"), KeyContent::NoResource);
}

#[test]
fn the_table_has_every_kind_of_kubernetes_1_37() {
    let kinds: usize = BUILT_IN.iter().map(|(_, resources)| resources.len()).sum();
    // Plus the renamed ones, endpoints and the dotted two; minus podsecuritypolicies of old.
    assert_eq!(kinds + RENAMED.len() + 1 + DOTTED.len() - 1, 70);
}

#[test]
fn names_that_no_key_can_have_are_known() {
    let directories = Directories::default();
    for (name, possible) in [
        ("secrets", true),
        ("endpoints", true),
        ("secret", false),
        ("deployments", false),
        ("deployments.apps", true),
        ("deployment.apps", false),
        ("pandas.example.com", true),
        ("apiservices.apiregistration.k8s.io", true),
        ("*.", true),
        ("*.app", false),
        ("*.example.com", true),
        ("*.*", true),
        ("prefix:/x", true),
    ] {
        assert_eq!(directories.can_produce(&Scope::parse(name)), possible, "{name}");
        assert_eq!(Scope::parse(name).to_string(), name);
    }
}
