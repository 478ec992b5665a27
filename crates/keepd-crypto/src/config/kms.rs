//! Kubernetes' rules for KMS providers. They are checked, so that a file is judged whole, and then
//! refused unless key services are allowed: the server does not talk to a KMS plugin yet, and must
//! not store plainly what was to be sealed.

use std::collections::BTreeSet;
use std::time::Duration;

use keepd_gotext::GoDuration;

use super::read::{Reader, join, shown};
use super::tree::Node;
use crate::key_service::ServiceProvider;

const FIELDS: [&str; 5] = ["apiVersion", "name", "endpoint", "timeout", "cachesize"];
/// Time limit of a call without one in the file, as in Kubernetes.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Reads a KMS provider; `None` if something is wrong with it, be it only that it is one.
pub(super) fn provider(
    reader: &mut Reader,
    path: &str,
    node: &Node,
    names: &mut BTreeSet<String>,
    is_allowed: bool,
) -> Option<ServiceProvider> {
    let errors_before = reader.errors.len();
    let remedy = "use secretbox, aesgcm or aescbc with a key from: keepd encryption keygen";
    if !is_allowed {
        reader.invalid_mapping(path, "kms providers are not supported yet by keepd", remedy);
    }
    let [version, name, endpoint, timeout, cache_size] = reader.fields(path, node, FIELDS)?;
    let at = |field: &str| join(path, field);
    let version = reader.text(&at("apiVersion"), version).map(|version| match version {
        "" => "v1",
        version => version,
    });
    if let Some(version) = version.filter(|version| !["v1", "v2"].contains(version)) {
        let detail = format!(
            "unsupported apiVersion {} for KMS provider, only v1 and v2 are supported",
            shown(version)
        );
        reader.invalid(&at("apiVersion"), version, &detail, "write v2");
    }
    let is_v2 = version == Some("v2");
    if is_allowed && version == Some("v1") {
        reader.invalid(&at("apiVersion"), "v1", "keepd supports v2 only", "write v2");
    }
    let name = reader.text(&at("name"), name);
    if let Some(name) = name {
        check_name(reader, &at("name"), name, is_v2, names);
    }
    let timeout = timeout_of(reader, &at("timeout"), timeout);
    let endpoint = reader.text(&at("endpoint"), endpoint);
    if let Some(endpoint) = endpoint {
        check_endpoint(reader, &at("endpoint"), endpoint);
    }
    if let Some(size) = reader.integer(&at("cachesize"), cache_size) {
        let written = size.to_string();
        if is_v2 {
            let detail = "cachesize is not supported in v2";
            reader.invalid(&at("cachesize"), &written, detail, "remove it");
        } else if size == 0 {
            let detail = "cachesize should be a positive value, or negative to disable";
            reader.invalid(&at("cachesize"), &written, detail, "write 1000, or -1 for none");
        }
    }
    let is_right = reader.errors.len() == errors_before;
    let (name, endpoint, timeout) = (name?.to_owned(), endpoint?.to_owned(), timeout?);
    is_right.then_some(ServiceProvider { name, endpoint, timeout })
}

fn check_name(
    reader: &mut Reader,
    path: &str,
    name: &str,
    is_v2: bool,
    names: &mut BTreeSet<String>,
) {
    if name.is_empty() {
        let detail = "name is a mandatory field for a provider";
        reader.required(path, detail, "give it a name");
        return;
    }
    if is_v2 && name.contains(':') {
        let detail = "invalid KMS provider name, must not contain ':'";
        reader.invalid(path, name, detail, "use letters, digits and dashes");
    }
    if !names.insert(name.to_owned()) {
        let detail = "duplicate KMS provider name, names must be unique";
        reader.invalid(path, name, detail, "give each provider its own name");
    }
}

/// Reads the time limit of a call; `None`, with an error, if the text is no positive duration.
fn timeout_of(reader: &mut Reader, path: &str, node: Option<&Node>) -> Option<Duration> {
    let Some(node) = node else { return Some(TIMEOUT) };
    let text = reader.text(path, Some(node))?;
    match text.parse::<GoDuration>() {
        // Go's error has the text, which may be a secret in the wrong place.
        Err(_) => {
            let detail = "not a duration";
            reader.invalid(path, text, detail, "write it as in 3s or 500ms");
            None
        }
        Ok(timeout) if timeout.nanos <= 0 => {
            let detail = "timeout should be a positive value";
            reader.invalid(path, text, detail, "write 3s, say");
            None
        }
        Ok(timeout) => Some(timeout.or_zero()),
    }
}

fn check_endpoint(reader: &mut Reader, path: &str, endpoint: &str) {
    let remedy = "write it as in unix:///run/kms.sock";
    if endpoint.is_empty() {
        let detail = "endpoint is a mandatory field for a provider";
        reader.invalid(path, endpoint, detail, remedy);
        return;
    }
    let scheme = endpoint.split_once(':').map_or("", |(scheme, _)| scheme);
    if endpoint.starts_with(':') || endpoint.chars().any(char::is_control) {
        let detail = "invalid endpoint for kms provider, error: it is not a URL";
        reader.invalid(path, endpoint, detail, remedy);
    } else if scheme != "unix" {
        let scheme = shown(scheme);
        let detail =
            format!("unsupported scheme {scheme:?} for KMS provider, only unix is supported");
        reader.invalid(path, endpoint, &detail, remedy);
    }
}
