//! The versions keepd answers with: those of the etcd release it speaks like.
//!
//! Clients decide on features by them (kube-apiserver reads the server version of every member
//! before it trusts progress requests), so they name etcd's release and not keepd's.

/// The server's version, as Status and `/version` give it.
pub const SERVER_VERSION: &str = "3.7.1";
/// The version all members agree on, as `/version` writes it.
pub const CLUSTER_VERSION: &str = "3.7.0";
/// The version of the storage schema, in Status and in snapshot files.
pub const STORAGE_VERSION: &str = "3.7.0";
/// The major and minor version of the protocol, as clients send it in `client-api-version`.
pub const API_VERSION: &str = "3.7";
