//! The one map from what goes wrong below to what clients are told.

use keepd_api::Error as Api;
use keepd_machine::ApplyError;
use keepd_mvcc::RangeError;
use tonic::Status;

/// The protocol's error for a request that did not get through the node.
pub(crate) fn node(error: keepd_node::Error) -> Status {
    use keepd_node::Error;
    match error {
        Error::Stopped => Api::Stopped.into(),
        Error::NoLeader | Error::TimedOut => Api::TimedOut.into(),
        Error::LeaderChanged => Api::LeaderChanged.into(),
        // etcd lets this one through unmapped.
        Error::ProposalDropped => Status::unknown("raft proposal dropped"),
        Error::TooManyRequests => Api::TooManyRequests.into(),
        Error::TooLarge => Api::RequestTooLarge.into(),
    }
}

/// The protocol's error for a command that was applied and refused.
pub(crate) fn apply(error: ApplyError) -> Status {
    match error {
        ApplyError::KeyNotFound => Api::KeyNotFound.into(),
        ApplyError::LeaseNotFound => Api::LeaseNotFound.into(),
        ApplyError::LeaseExists => Api::LeaseExists.into(),
        ApplyError::LeaseTtlTooLarge => Api::LeaseTtlTooLarge.into(),
        ApplyError::Compacted => Api::Compacted.into(),
        ApplyError::FutureRevision => Api::FutureRevision.into(),
        ApplyError::NoSpace => Api::NoSpace.into(),
        ApplyError::Corrupt => Api::Corrupt.into(),
        // Tried again until the time for it is up; see `kv::txn`.
        ApplyError::GuardMissed => Api::TimedOut.into(),
        // No command of a client has a term.
        ApplyError::OtherTerm => Api::LeaderChanged.into(),
    }
}

/// The protocol's error for a revision that cannot be read.
pub(crate) fn range(error: RangeError) -> Status {
    match error {
        RangeError::Compacted { .. } => Api::Compacted.into(),
        RangeError::Future { .. } => Api::FutureRevision.into(),
    }
}

/// A read that failed inside the store. Damage is never served, so the client gets an error; the
/// place goes to the log and not to the client.
pub(crate) fn store(error: keepd_mvcc::Error) -> Status {
    if let keepd_mvcc::Error::Range(error) = error {
        return range(error);
    }
    if error.is_damage() {
        // The node tells each damaged place once; clients may read it again and again.
        tracing::debug!(%error, "a read needs a damaged part of the store");
    } else {
        tracing::error!(%error, "a read from the store failed");
    }
    Status::data_loss("keepd: the store could not be read; see the server's log")
}

/// Work that ran apart from its request and did not come to its end.
pub(crate) fn task(error: tokio::task::JoinError) -> Status {
    Status::internal(format!("keepd: a read failed: {error}"))
}

/// A value that could not be opened: never answered with ciphertext, never skipped.
pub(crate) fn open(key: &[u8], error: &keepd_crypto::OpenError) -> Status {
    tracing::error!(key = %key.escape_ascii(), %error, "a sealed value could not be opened");
    Status::internal(format!("keepd: the sealed value of a key could not be opened: {error}"))
}

/// A value that could not be sealed: never written plain instead.
pub(crate) fn seal(error: &keepd_crypto::SealError) -> Status {
    tracing::error!(%error, "a value could not be sealed");
    Status::internal(format!("keepd: the value could not be sealed: {error}"))
}

/// A record that does not decode although its seal was intact.
pub(crate) fn record(error: keepd_types::DecodeError) -> Status {
    tracing::error!(%error, "a stored record is malformed");
    Status::data_loss("keepd: a stored record is malformed; see the server's log")
}
