//! The protocol: etcd's messages and services, generated from our own `.proto` files, and the
//! errors and versions clients match on.
//!
//! The edges (`keepd-server`, the command line, the tests) speak through these types; nothing
//! below them does. The crate holds no behaviour and reads no clock, disk or network. Package,
//! message and field names and numbers are etcd 3.7's; the Raft-internal messages are left out,
//! because a keepd member never sends them.
//!
//! Field names follow prost: `ID` is `id`, `grantedTTL` is `granted_ttl`, and, less prettily,
//! `peerURLs` is `peer_ur_ls`. Readers that need the names as declared (the JSON gateway) take
//! them from [`DESCRIPTORS`].

mod generated;
mod status;
mod txn_request;

pub use keepd_types::version::{API_VERSION, CLUSTER_VERSION, SERVER_VERSION, STORAGE_VERSION};

pub use generated::{authpb, etcdserverpb, health, mvccpb, v3electionpb, v3lockpb};
pub use status::{CodeOnWire, Error};
pub use txn_request::TXN_DEPTH_MAX;

/// The encoded `FileDescriptorSet` of every `.proto` file of this crate, imports included.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
