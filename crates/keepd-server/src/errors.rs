//! The one map from errors of the layers below to the status that clients get.

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
        // As etcd, whose proposal waits for a leader until its context ends.
        Error::NotProposed => deadline_exceeded(),
        Error::LeaderChanged => Api::LeaderChanged.into(),
        // etcd lets this one through unmapped.
        Error::ProposalDropped => Status::unknown("raft proposal dropped"),
        Error::TooManyRequests => Api::TooManyRequests.into(),
        Error::TooLarge => Api::RequestTooLarge.into(),
        error @ Error::FeatureLevel { .. } => Status::internal(format!("keepd: {error}")),
        Error::TimedOutByElection => Api::TimedOutLeaderFailure.into(),
        Error::TimedOutByConnection => Api::TimedOutConnectionLost.into(),
        Error::NotLeader => Api::NotLeader.into(),
        Error::NotVoter => Api::BadLeaderTransferee.into(),
        // As the dropped proposal.
        Error::TransferTimedOut => {
            Status::unknown("etcdserver: request timed out, leader transfer took too long")
        }
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
        // `kv::txn` tries it again until the request timeout.
        ApplyError::GuardMissed => Api::TimedOut.into(),
        // It was sealed again, and again the keys had changed: some member lacks the rule's key.
        ApplyError::KeyNotActive => Status::unavailable(
            "keepd: the value's encryption key cannot be read by every member yet; give all members \
             the same encryption configuration",
        ),
        // No command of a client has a term.
        ApplyError::OtherTerm => Api::LeaderChanged.into(),
        ApplyError::MemberRemoved | ApplyError::MemberNotFound => Api::MemberNotFound.into(),
        ApplyError::MemberExists => Api::MemberExists.into(),
        ApplyError::MemberNotLearner => Api::MemberNotLearner.into(),
        ApplyError::PeerUrlExists => Api::PeerUrlsExist.into(),
        ApplyError::TooManyLearners => Api::TooManyLearners.into(),
        // Nobody would be left to vote, unless snapshots were mixed up by hand.
        ApplyError::ChangeDoesNotFit => Api::NotEnoughStartedMembers.into(),
    }
}

/// The protocol's error for a revision that cannot be read.
pub(crate) fn range(error: RangeError) -> Status {
    match error {
        RangeError::Compacted { .. } => Api::Compacted.into(),
        RangeError::Future { .. } => Api::FutureRevision.into(),
    }
}

/// The answer to a call whose client's deadline has passed.
pub(crate) fn deadline_exceeded() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

/// The answer to a read that failed inside the store. Damage is never served, so the client gets an
/// error; the damaged place is named in the log only.
pub(crate) fn store(error: keepd_mvcc::Error) -> Status {
    if let keepd_mvcc::Error::Range(error) = error {
        return range(error);
    }
    if error.is_damage() {
        // The node logs each damaged place once; clients may read it again and again.
        tracing::debug!(%error, "a read needs a damaged part of the store");
    } else {
        tracing::error!(%error, "a read from the store failed; check the disk");
    }
    Status::data_loss("keepd: the store could not be read; see the server's log")
}

/// The answer to a request whose work ran in another task or thread and did not end.
pub(crate) fn task(error: tokio::task::JoinError) -> Status {
    Status::internal(format!("keepd: the request failed in the server: {error}"))
}

/// The answer where a value could not be opened: never ciphertext, and never without the value.
pub(crate) fn open(key: &[u8], error: &keepd_crypto::OpenError) -> Status {
    tracing::error!(key = %key.escape_ascii(), %error, "a sealed value could not be opened; if its key has left the encryption configuration, put it back");
    Status::internal(format!("keepd: the sealed value of a key could not be opened: {error}"))
}

/// The answer where a value could not be sealed: it is never written plain instead.
pub(crate) fn seal(error: &keepd_crypto::SealError) -> Status {
    tracing::error!(%error, "a value could not be sealed");
    Status::internal(format!("keepd: the value could not be sealed: {error}"))
}

/// The answer where a record does not decode although its checksum was right.
pub(crate) fn record(error: keepd_types::DecodeError) -> Status {
    tracing::error!(%error, "a stored record is malformed");
    Status::data_loss("keepd: a stored record is malformed; see the server's log")
}
