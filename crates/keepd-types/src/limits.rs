//! Every limit of the protocol, in one place.

use std::time::Duration;

/// `--max-request-bytes`: the largest command that may enter the log.
pub const REQUEST_BYTES_MAX: usize = 1_572_864;
/// HTTP/2 streams of one connection at once, by default; etcd has no limit. Its clients send all
/// watches over one stream; requests beyond the limit wait for each other.
pub const CONCURRENT_STREAMS_MAX: u32 = 4096;
/// The largest command, whatever `--max-request-bytes` says: the log and the store hold it in one
/// frame of 64 MiB, with what stands beside it.
pub const COMMAND_BYTES_MAX: usize = 63 * 1024 * 1024;
/// The last revision that a file may bring: far beyond what any store has counted, and so far below
/// the end of the numbers that no member reaches it.
pub const REVISION_MAX: i64 = 1 << 62;
/// Bytes that a gRPC message may have beyond the request limit.
pub const GRPC_OVERHEAD_BYTES: usize = 512 * 1024;
/// `--max-txn-ops`.
pub const TXN_OPS_MAX: usize = 128;
/// `--quota-backend-bytes` when it is 0.
pub const QUOTA_BYTES_DEFAULT: i64 = 2 * 1024 * 1024 * 1024;
/// The longest lease, in seconds.
pub const LEASE_TTL_MAX: i64 = 9_000_000_000;
/// `--heartbeat-interval`.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);
/// `--election-timeout`.
pub const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);
/// Committed entries that may wait for apply before requests are refused.
pub const APPLY_BACKLOG_MAX: u64 = 5000;
/// Responses that may wait on one watch stream.
pub const WATCH_STREAM_RESPONSES_MAX: usize = 128;
/// Revisions in one replayed watch response.
pub const WATCH_BATCH_REVISIONS_MAX: usize = 1000;
/// Blob size of `Maintenance.Snapshot`.
pub const SNAPSHOT_BLOB_BYTES: usize = 32 * 1024;
