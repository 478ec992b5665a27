//! The texts of `keepd help` and `keepd version`.

use keepd_cli::output;

/// The commit that the binary was built from, as `cargo xtask dist` records it.
pub(crate) const COMMIT: &str = match option_env!("KEEPD_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// Prints text as it is.
pub(crate) fn print(text: &str) {
    output::print(text.as_bytes());
}

/// `keepd version`.
pub(crate) fn version() {
    output::line(&format!("keepd Version: {}", env!("CARGO_PKG_VERSION")));
    output::line(&format!("Git SHA: {COMMIT}"));
    let etcd = keepd_api::SERVER_VERSION;
    output::line(&format!("etcd Version: {etcd} (the version it speaks like)"));
    output::line(&format!("API version: {}", keepd_api::API_VERSION));
}

/// `keepd help`.
pub(crate) fn overview() {
    output::line(&format!(
        "\
keepd {} - a key-value store that takes etcd's place and protects what it stores

Usage:
  keepd quickstart               a secured member in the foreground: CA, certificates, encryption
  keepd server [flags]           the server, with etcd's flags (also: keepd --FLAG, or named etcd)
  keepd ctl COMMAND              etcdctl's commands (also: named etcdctl or keepctl)
  keepd utl COMMAND              etcdutl's commands (also: named etcdutl)
  keepd backup COMMAND           backups elsewhere, sealed and proven: now, list, restore, drill, ...
  keepd history KEY              the versions of a key that are still there, in backups too
  keepd diff A B                 what differs between two revisions, backups, or now
  keepd undo --to STATE          puts back what was deleted or changed since
  keepd cluster invite           a token with which an empty machine joins: keepd server --join TOKEN
  keepd member rebuild           a corrupt or damaged member gets the state of the others
  keepd recover DIR...           a new cluster from what is left when the majority is gone for good
  keepd pki                      certificates: make, renew, inspect
  keepd encryption keygen        a key for an EncryptionConfiguration
  keepd encryption status        what is sealed, and under which keys
  keepd encryption verify FILE   checks an EncryptionConfiguration
  keepd debug dump-log           what a member's write-ahead log holds
  keepd version                  versions
  keepd help                     this text

Help on the parts: keepd server --help, keepd ctl --help, keepd utl --help",
        env!("CARGO_PKG_VERSION")
    ));
}
