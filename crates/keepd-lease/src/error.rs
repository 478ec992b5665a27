//! Errors of operations on leases. The texts are etcd's where clients see them.

use keepd_types::LeaseId;
use thiserror::Error;

/// A refused operation; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// A grant of an id that is in use.
    #[error("lease already exists")]
    Exists(LeaseId),
    /// A renewal came too late: the lease is past its deadline and its revocation is under way.
    /// The caller waits for that, then answers as for a missing lease.
    #[error("lease expired")]
    Expired(LeaseId),
    /// There is no such lease.
    #[error("requested lease not found")]
    NotFound(LeaseId),
    /// This member does not keep the deadlines.
    #[error("not a primary lessor")]
    NotPrimary,
    /// A grant of more than [`keepd_types::limits::LEASE_TTL_MAX`] seconds.
    #[error("too large lease TTL")]
    TtlTooLarge(i64),
}
