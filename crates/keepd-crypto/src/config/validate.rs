//! Kubernetes' rules for a configuration, each with the same substance and a remedy of ours.
//!
//! The tree is read and judged in one pass, and everything wrong is collected. Rules that upstream
//! applies only when it builds the providers (masking) are applied here too.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use super::kms;
use super::read::{Reader, join, shown};
use super::rule::{ConfigRule, FileProvider, Provider};
use super::tree::Node;
use crate::cipher::{Algorithm, ProviderKey};
use crate::resource::{KEY_PREFIX, Scope};
use crate::secret::Secret;

/// Reads what Go's `base64.StdEncoding` reads, line breaks apart: bits that no byte needs are
/// ignored, whatever they are.
const LAX: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);
const KEYGEN: &str = "make one with: keepd encryption keygen";
const ONE_PROVIDER: [&str; 5] = ["aescbc", "aesgcm", "secretbox", "kms", "identity"];

/// Reads the rules of a document.
pub(super) fn document(
    reader: &mut Reader,
    root: &Node,
    allows_key_services: bool,
) -> Vec<ConfigRule<FileProvider>> {
    let Some([api_version, kind, resources]) =
        reader.fields("", root, ["apiVersion", "kind", "resources"])
    else {
        return Vec::new();
    };
    version(reader, api_version, kind);
    let Some(items) = reader.list("resources", resources) else { return Vec::new() };
    if items.is_empty() {
        let remedy = "add an entry with `resources` (such as secrets) and `providers`";
        reader.required("resources", "at least one resources is required", remedy);
        return Vec::new();
    }
    let (earlier, kms_names) = (BTreeSet::new(), BTreeSet::new());
    let mut pass = Pass { earlier, kms_names, allows_key_services };
    let mut rules = Vec::new();
    for (number, node) in items.iter().enumerate() {
        rules.extend(pass.item(reader, &format!("resources[{number}]"), node));
    }
    rules
}

fn version(reader: &mut Reader, api_version: Option<&Node>, kind: Option<&Node>) {
    let api_version = reader.text("apiVersion", api_version);
    let kind = reader.text("kind", kind);
    let (Some(api_version), Some(kind)) = (api_version, kind) else { return };
    match (api_version, kind) {
        ("apiserver.config.k8s.io/v1", "EncryptionConfiguration") | ("v1", "EncryptionConfig") => {}
        ("", _) => {
            let remedy = "add `apiVersion: apiserver.config.k8s.io/v1`";
            reader.required("apiVersion", "Object 'apiVersion' is missing", remedy);
        }
        (_, "") => {
            let remedy = "add `kind: EncryptionConfiguration`";
            reader.required("kind", "Object 'Kind' is missing", remedy);
        }
        _ => {
            let (kind, version) = (shown(kind), shown(api_version));
            let detail = format!("no kind {kind:?} is registered for version {version:?}");
            let remedy = "write `apiVersion: apiserver.config.k8s.io/v1` and \
                          `kind: EncryptionConfiguration`";
            reader.invalid("kind", &kind, &detail, remedy);
        }
    }
}

/// State of the pass over the items: what an item is judged by beside itself.
struct Pass {
    /// The names of earlier items.
    earlier: BTreeSet<Scope>,
    /// The KMS providers seen so far.
    kms_names: BTreeSet<String>,
    allows_key_services: bool,
}

impl Pass {
    fn item(
        &mut self,
        reader: &mut Reader,
        path: &str,
        node: &Node,
    ) -> Option<ConfigRule<FileProvider>> {
        let [names, providers] = reader.fields(path, node, ["resources", "providers"])?;
        let scopes = self.names(reader, &join(path, "resources"), names);
        let path = join(path, "providers");
        let entries = reader.list(&path, providers)?;
        if entries.is_empty() {
            let detail = format!("at least one {path} is required");
            reader.required(&path, &detail, "add one, such as aescbc with a key");
        }
        let providers = entries
            .iter()
            .enumerate()
            .filter_map(|(number, node)| self.provider(reader, &format!("{path}[{number}]"), node))
            .collect();
        Some(ConfigRule { scopes: scopes?, providers })
    }

    fn names(
        &mut self,
        reader: &mut Reader,
        path: &str,
        node: Option<&Node>,
    ) -> Option<Vec<Scope>> {
        let entries = reader.list(path, node)?;
        if entries.is_empty() {
            let detail = format!("at least one {path} is required");
            reader.required(path, &detail, "name what to encrypt, such as `- secrets`");
        }
        let mut names = Vec::new();
        for (number, node) in entries.iter().enumerate() {
            let path = format!("{path}[{number}]");
            let Some(name) = reader.text(&path, Some(node)) else { continue };
            name_itself(reader, &path, name);
            names.push((path, name, Scope::parse(name)));
        }
        within_one_list(reader, path, &names);
        for (path, name, scope) in &names {
            if let Some(rule) = masking(scope, &self.earlier) {
                let name = shown(name);
                let detail = format!("resource {name:?} is masked by earlier rule \"{rule}\"");
                let remedy = "move this name to an entry before that rule, or remove it";
                reader.invalid(path, &name, &detail, remedy);
            }
        }
        let scopes: Vec<Scope> = names.into_iter().map(|(_, _, scope)| scope).collect();
        self.earlier.extend(scopes.iter().cloned());
        Some(scopes)
    }

    fn provider(&mut self, reader: &mut Reader, path: &str, node: &Node) -> Option<FileProvider> {
        let fields = reader.fields(path, node, ONE_PROVIDER)?;
        let mut present = ONE_PROVIDER
            .iter()
            .zip(fields)
            .filter_map(|(name, node)| node.map(|node| (*name, node)));
        let Some((name, node)) = present.next() else {
            let detail = "provider does not contain any of the expected providers: KMS, AESGCM, \
                          AESCBC, Secretbox, Identity";
            let remedy = "name one; plain storage is written `identity: {}`, with the braces";
            reader.invalid_mapping(path, detail, remedy);
            return None;
        };
        if present.next().is_some() {
            let detail = "more than one provider specified in a single element, should split \
                          into different list elements";
            reader.invalid_mapping(path, detail, "begin each provider with its own `- `");
            return None;
        }
        let path = join(path, name);
        let algorithm = Algorithm::LOCAL.into_iter().find(|algorithm| algorithm.name() == name);
        match algorithm {
            Some(algorithm) => keys(reader, &path, node, algorithm).map(FileProvider::Ready),
            None if name == "kms" => {
                let (names, is_allowed) = (&mut self.kms_names, self.allows_key_services);
                kms::provider(reader, &path, node, names, is_allowed).map(FileProvider::Service)
            }
            None => {
                let fields = reader.fields::<0>(&path, node, []);
                fields.map(|[]| FileProvider::Ready(Provider::Identity))
            }
        }
    }
}

/// Judges a name by itself; tells the first fault only, as upstream.
fn name_itself(reader: &mut Reader, path: &str, name: &str) {
    if name.starts_with(KEY_PREFIX) {
        return;
    }
    let (resource, group) = name.split_once('.').unwrap_or((name, ""));
    let (detail, remedy) = if name.is_empty() {
        ("resource name is empty", "name a resource, such as secrets")
    } else if !name.chars().all(|char| char.is_ascii_alphanumeric() || "-.*".contains(char)) {
        // Upstream takes such names for resources that do not exist and encrypts nothing.
        ("resource name has characters that no resource has", "use letters, digits, - and .")
    } else if name.chars().any(char::is_uppercase) {
        ("resource name should not contain capital letters", "write it in lower case, plural")
    } else if name == "*" {
        (
            "use '*.' to encrypt all the resources from core API group or *.* to encrypt all \
             resources",
            "write '*.*' for everything",
        )
    } else if ["apiserveripinfo", "serviceipallocations", "servicenodeportallocations"]
        .contains(&resource)
    {
        (
            "resources which do not have REST API/s cannot be encrypted",
            "remove it; `prefix:` covers such keys too",
        )
    } else if group == "events.k8s.io" {
        (
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use \
             'events' instead in the config file",
            "write events",
        )
    } else if group == "extensions" {
        (
            "'extensions' group has been removed and cannot be used for encryption",
            "name the group that the resource is in now, as in deployments.apps",
        )
    } else if group == "*" && resource != "*" {
        (
            "same resource, in different groups, cannot be encrypted",
            "name each group, or write '*.*'",
        )
    } else {
        return;
    };
    reader.invalid(path, name, detail, remedy);
}

/// Names that repeat or cover one another within one list.
fn within_one_list(reader: &mut Reader, path: &str, names: &[(String, &str, Scope)]) {
    let mut seen = BTreeSet::new();
    for (path, name, _) in names {
        if !seen.insert(*name) {
            let detail = "the same resource cannot be specified multiple times";
            reader.invalid(path, name, detail, "remove the repetition");
        }
    }
    let scopes: BTreeSet<&Scope> = names.iter().map(|(_, _, scope)| scope).collect();
    let overlap = scopes.iter().any(|scope| match scope {
        Scope::Resource { group, .. } => {
            scopes.contains(&Scope::Group(group.clone())) || scopes.contains(&Scope::AllResources)
        }
        Scope::Group(_) => scopes.contains(&Scope::AllResources),
        Scope::AllResources | Scope::KeyPrefix(_) => false,
    });
    if overlap {
        let detail = "using overlapping resources such as 'secrets' and '*.' in the same \
                      resource list is not allowed as they will be masked";
        let remedy = "keep the wildcard only, or move the single name to an earlier entry";
        reader.invalid_mapping(path, detail, remedy);
    }
}

/// The wildcard of an earlier item that leaves nothing of `scope`.
fn masking(scope: &Scope, earlier: &BTreeSet<Scope>) -> Option<Scope> {
    let wildcard = match scope {
        Scope::Resource { group, .. } | Scope::Group(group) => Scope::Group(group.clone()),
        Scope::AllResources => Scope::AllResources,
        Scope::KeyPrefix(_) => return None,
    };
    [wildcard, Scope::AllResources].into_iter().find(|wildcard| earlier.contains(wildcard))
}

fn keys(reader: &mut Reader, path: &str, node: &Node, algorithm: Algorithm) -> Option<Provider> {
    let [keys] = reader.fields(path, node, ["keys"])?;
    let path = join(path, "keys");
    let entries = reader.list(&path, keys)?;
    if entries.is_empty() {
        reader.required(&path, "at least one keys is required", KEYGEN);
    }
    let keys = entries
        .iter()
        .enumerate()
        .filter_map(|(number, node)| key(reader, &format!("{path}[{number}]"), node, algorithm))
        .map(Arc::new)
        .collect();
    Some(Provider::Keyed { algorithm, keys })
}

/// A secret's bytes. Line breaks count for nothing wherever they are, as in Go: a block of YAML or
/// `echo KEY | base64` leaves them.
fn decoded(text: &str) -> Result<Zeroizing<Vec<u8>>, base64::DecodeError> {
    // Reserved at once: growth would leave copies of the secret in freed memory.
    let mut digits = Zeroizing::new(Vec::with_capacity(text.len()));
    digits.extend(text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')));
    let mut bytes = Zeroizing::new(Vec::with_capacity(digits.len()));
    LAX.decode_vec(&*digits, &mut bytes).map(|()| bytes)
}

fn key(reader: &mut Reader, path: &str, node: &Node, algorithm: Algorithm) -> Option<ProviderKey> {
    let [name, secret] = reader.fields(path, node, ["name", "secret"])?;
    let name_path = join(path, "name");
    let name = reader.text(&name_path, name);
    if name == Some("") {
        let detail = "name is a mandatory field for a key";
        reader.required(&name_path, detail, "call it key1, say");
    }
    let path = join(path, "secret");
    let text = reader.text(&path, secret)?;
    if text.is_empty() {
        reader.required(&path, "secret is a mandatory field for a key", KEYGEN);
        return None;
    }
    let Ok(bytes) = decoded(text) else {
        let remedy = if text.starts_with('<') {
            "replace the placeholder with a key; make one with: keepd encryption keygen"
        } else {
            KEYGEN
        };
        reader.invalid(&path, "REDACTED", "secrets must be base64 encoded", remedy);
        return None;
    };
    let found = bytes.len();
    let key = ProviderKey::new(algorithm, name.unwrap_or_default(), Secret::new(bytes.to_vec()));
    if key.is_none() {
        let lens: Vec<String> = algorithm.secret_lens().iter().map(usize::to_string).collect();
        let detail = format!(
            "secret is not of the expected length, got {found}, expected one of [{}]",
            lens.join(" ")
        );
        reader.invalid(&path, "REDACTED", &detail, KEYGEN);
    }
    key.filter(|key| !key.name.name.is_empty())
}
