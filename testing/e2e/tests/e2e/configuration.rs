//! Encryption configurations for the tests.

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

fn aesgcm(name: &str, secret: &str) -> String {
    format!("  - aesgcm:\n      keys:\n      - {{name: {name}, secret: {secret}}}\n")
}

/// Everything is sealed with one key.
pub(crate) fn sealing(name: &str, secret: &str) -> String {
    configuration(&(aesgcm(name, secret) + "  - identity: {}\n"))
}

/// What was sealed with the key can be read, and becomes plain.
pub(crate) fn unsealing(name: &str, secret: &str) -> String {
    configuration(&(String::from("  - identity: {}\n") + &aesgcm(name, secret)))
}
