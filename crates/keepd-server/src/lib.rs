//! The edges: gRPC services, health, metrics, HTTP.
//!
//! Receives connections, hands commands and reads to `keepd-node`, and is the only place that opens
//! sealed values for clients and that knows etcd's codes and texts.
#![deny(clippy::wildcard_enum_match_arm)]

mod access;
mod admission;
mod answer_places;
mod auth;
mod authorization;
mod auto_compaction;
mod blocking;
mod client_requests;
mod cluster;
mod connection_executor;
mod context;
mod corruption;
mod dispatch;
mod encoded_message;
mod encryption_status;
mod errors;
mod gathered;
mod grpc;
mod health;
mod http2;
mod http_edge;
mod kv;
mod leader_watch;
mod lease;
mod listener;
mod maintenance;
mod metrics;
mod peer;
mod proc_fs;
mod promotions;
mod protobuf;
mod response_stream;
mod rpc;
mod server;
mod shutdown;
mod slow_calls;
mod snapshot;
mod stream_failures;
#[cfg(test)]
mod testing;
mod unfinished;
mod unread;
mod versions;
mod watch;

/// The warning of a member that syncs nothing (`--unsafe-no-fsync`).
pub const UNSYNCED: &str =
    "keepd: --unsafe-no-fsync: nothing is synced, a power cut loses acknowledged writes";

pub use access::AccessControl;
pub use auto_compaction::AutoCompaction;
pub use context::{Context, Limits};
pub use corruption::{CorruptionChecks, check_initially};
pub use http_edge::HttpScope;
pub use listener::{
    Accept, Accepting, Bind, BindError, ConnectionOptions, Endpoint, Listener,
    RESERVED_DESCRIPTORS, Stream, TrafficBytes,
};
pub use metrics::{BackupFacts, BackupMetrics, BackupPlace, BackupStep};
pub use server::Server;
