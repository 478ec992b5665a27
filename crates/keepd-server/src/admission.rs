//! Admission of requests: what has to be free before one of them may go on.
//!
//! Writes need space within the quota, and let pass a transaction that has starved ([`contention`]).
//! Reads of many records and hashes of the whole store need a permit, so that they leave processors
//! and disk to the others.

mod contention;
pub(crate) mod quota;

use keepd_node::Handle;
use tonic::Status;

pub(crate) use self::contention::CompareQueues;
use crate::blocking::Limiter;

/// BOUND: reads of many records at once. More would only share the same disk and processors.
const LARGE_READS_MAX: usize = 16;
/// BOUND: hashes of the whole store at once, which requests of a few bytes ask for.
const HASHES_MAX: usize = 1;
/// BOUND: counts of the stored values by their keys at once.
const VALUE_COUNTS_MAX: usize = 1;

/// Admission to one member.
#[derive(Debug)]
pub(crate) struct Admission {
    node: Handle,
    /// Transactions whose compared values keep changing.
    pub(crate) compare_queues: CompareQueues,
    /// Reads of many records.
    pub(crate) large_reads: Limiter,
    /// Hashes of the whole store.
    pub(crate) hashes: Limiter,
    /// Counts of the stored values.
    pub(crate) value_counts: Limiter,
}

impl Admission {
    pub(crate) fn new(node: Handle) -> Self {
        Self {
            node,
            compare_queues: CompareQueues::default(),
            large_reads: Limiter::new(LARGE_READS_MAX),
            hashes: Limiter::new(HASHES_MAX),
            value_counts: Limiter::new(VALUE_COUNTS_MAX),
        }
    }

    /// Admits a write of this cost in bytes, or refuses it for want of space.
    pub(crate) async fn write(&self, cost: i64) -> Result<(), Status> {
        self.compare_queues.yield_to_starved().await;
        quota::check(&self.node, cost).await
    }
}
