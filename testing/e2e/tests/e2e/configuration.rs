//! Encryption configurations for the tests.

use std::path::Path;

/// Two keys of 32 bytes in base64.
pub(crate) const FIRST: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
/// The other one.
pub(crate) const SECOND: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";

fn configuration(providers: &str) -> String {
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\n\
         kind: EncryptionConfiguration\n\
         resources:\n\
         - resources: [\"*.*\"]\n  \
           providers:\n{providers}"
    )
}

fn aesgcm(keys: &[(&str, &str)]) -> String {
    let key =
        |(name, secret): &(&str, &str)| format!("      - {{name: {name}, secret: {secret}}}\n");
    format!("  - aesgcm:\n      keys:\n{}", keys.iter().map(key).collect::<String>())
}

/// Everything is sealed with one key.
pub(crate) fn sealing(name: &str, secret: &str) -> String {
    changing(&[(name, secret)])
}

/// Everything is sealed with one key, and nothing plain is read.
pub(crate) fn only_sealing(name: &str, secret: &str) -> String {
    let all = configuration(&aesgcm(&[(name, secret)]));
    all.replace("[\"*.*\"]", "[\"*.*\", \"prefix:\"]")
}

/// What was sealed with the key can be read, and becomes plain.
pub(crate) fn unsealing(name: &str, secret: &str) -> String {
    configuration(&(String::from("  - identity: {}\n") + &aesgcm(&[(name, secret)])))
}

/// The first key seals, all of them open.
pub(crate) fn changing(keys: &[(&str, &str)]) -> String {
    configuration(&(aesgcm(keys) + "  - identity: {}\n"))
}

/// Puts another configuration in the place of the one that a member watches.
pub(crate) fn reload(path: &Path, config: &str) {
    // As editors and Kubernetes do it: the new file takes the old one's place.
    let new = path.with_extension("new");
    std::fs::write(&new, config).unwrap();
    std::fs::rename(new, path).unwrap();
}
