//! The error table: every error of the protocol, its gRPC code and its text.
//!
//! Go clients compare the text and nothing else, retry logic looks at the code; both are part of
//! the contract. The table is the only place that knows them: layers below have their own errors,
//! and the server translates each into one of these.
//!
//! Two errors travel with another code than etcd declares for them, because etcd forgets to
//! translate them. [`CodeOnWire::Observed`] is what clients of a real etcd see, and the default.
//! Texts that reach clients unmapped (lock and election failures) are not errors of this table.

use tonic::{Code, Status};

/// Which gRPC code an error travels with, where etcd declares one and sends another.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum CodeOnWire {
    /// The code a client of etcd receives.
    #[default]
    Observed,
    /// The code etcd's error table declares.
    Declared,
}

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident => $observed:ident/$declared:ident $text:literal,)*) => {
        /// An error of the protocol, named by its cause.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, thiserror::Error)]
        pub enum Error {
            $($(#[$doc])* #[error($text)] $name,)*
        }

        impl Error {
            /// Every error, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The text clients compare.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// The gRPC code of this error.
            pub const fn code(self, which: CodeOnWire) -> Code {
                let (observed, declared) = match self {
                    $(Self::$name => (Code::$observed, Code::$declared),)*
                };
                match which {
                    CodeOnWire::Observed => observed,
                    CodeOnWire::Declared => declared,
                }
            }
        }
    };
}

errors! {
    /// A request without a key.
    EmptyKey => InvalidArgument/InvalidArgument "etcdserver: key is not provided",
    /// A put that keeps the value or lease of a key that is not there, or an empty txn operation.
    KeyNotFound => InvalidArgument/InvalidArgument "etcdserver: key not found",
    /// A put that keeps the value and brings one.
    ValueProvided => InvalidArgument/InvalidArgument "etcdserver: value is provided",
    /// A put that keeps the lease and brings one.
    LeaseProvided => InvalidArgument/InvalidArgument "etcdserver: lease is provided",
    /// A txn with more operations than `--max-txn-ops`.
    TooManyOps => InvalidArgument/InvalidArgument "etcdserver: too many operations in txn request",
    /// A txn that writes one key twice.
    DuplicateKey => InvalidArgument/InvalidArgument
        "etcdserver: duplicate key given in txn request",
    /// Request metadata whose `client-api-version` is not text.
    InvalidClientApiVersion => InvalidArgument/InvalidArgument
        "etcdserver: invalid client api version",
    /// An unknown sort order or target.
    InvalidSortOption => InvalidArgument/InvalidArgument "etcdserver: invalid sort option",
    /// A revision below the compaction.
    Compacted => OutOfRange/OutOfRange "etcdserver: mvcc: required revision has been compacted",
    /// A revision above the current one.
    FutureRevision => OutOfRange/OutOfRange
        "etcdserver: mvcc: required revision is a future revision",
    /// The quota is used up or the NOSPACE alarm is raised.
    NoSpace => ResourceExhausted/ResourceExhausted "etcdserver: mvcc: database space exceeded",
    /// An unknown lease.
    LeaseNotFound => NotFound/NotFound "etcdserver: requested lease not found",
    /// A grant of a lease id in use.
    LeaseExists => FailedPrecondition/FailedPrecondition "etcdserver: lease already exists",
    /// A grant of more than nine billion seconds.
    LeaseTtlTooLarge => OutOfRange/OutOfRange "etcdserver: too large lease TTL",
    /// A watch stream whose client went away.
    WatchCanceled => Cancelled/Cancelled "etcdserver: watch canceled",
    /// A member to add whose id is in use.
    MemberExists => FailedPrecondition/FailedPrecondition "etcdserver: member ID already exist",
    /// A member to add or change whose peer URL is in use.
    PeerUrlsExist => FailedPrecondition/FailedPrecondition "etcdserver: Peer URLs already exists",
    /// A membership change that would leave too few started members for a quorum.
    NotEnoughStartedMembers => Unknown/FailedPrecondition
        "etcdserver: re-configuration failed due to not enough started members",
    /// A member to add with URLs that are none.
    BadMemberUrls => InvalidArgument/InvalidArgument "etcdserver: given member URLs are invalid",
    /// An unknown or removed member.
    MemberNotFound => NotFound/NotFound "etcdserver: member not found",
    /// A promotion of a member that votes already.
    MemberNotLearner => FailedPrecondition/FailedPrecondition
        "etcdserver: can only promote a learner member",
    /// A promotion of a learner that is too far behind.
    LearnerNotReady => FailedPrecondition/FailedPrecondition
        "etcdserver: can only promote a learner member which is in sync with leader",
    /// A learner to add beyond `--max-learners`.
    TooManyLearners => FailedPrecondition/FailedPrecondition
        "etcdserver: too many learner members in cluster",
    /// A peer of another cluster.
    ClusterIdMismatch => FailedPrecondition/FailedPrecondition "etcdserver: cluster ID mismatch",
    /// A request that is larger than `--max-request-bytes` as a Raft entry.
    RequestTooLarge => InvalidArgument/InvalidArgument "etcdserver: request is too large",
    /// A write while applying is too far behind the commit.
    TooManyRequests => Unknown/ResourceExhausted "etcdserver: too many requests",
    /// Auth to enable without a user root.
    RootUserNotExist => FailedPrecondition/FailedPrecondition
        "etcdserver: root user does not exist",
    /// Auth to enable while root lacks the role root.
    RootRoleNotExist => FailedPrecondition/FailedPrecondition
        "etcdserver: root user does not have root role",
    /// A user to add that is there.
    UserExists => FailedPrecondition/FailedPrecondition "etcdserver: user name already exists",
    /// A request without an identity while auth is on, or a user to add without a name.
    UserEmpty => InvalidArgument/InvalidArgument "etcdserver: user name is empty",
    /// An unknown user.
    UserNotFound => FailedPrecondition/FailedPrecondition "etcdserver: user name not found",
    /// A role to add that is there.
    RoleExists => FailedPrecondition/FailedPrecondition "etcdserver: role name already exists",
    /// An unknown role.
    RoleNotFound => FailedPrecondition/FailedPrecondition "etcdserver: role name not found",
    /// A role to add without a name.
    RoleEmpty => InvalidArgument/InvalidArgument "etcdserver: role name is empty",
    /// A wrong user name or password.
    AuthFailed => InvalidArgument/InvalidArgument
        "etcdserver: authentication failed, invalid user ID or password",
    /// A grant of no permission.
    PermissionNotGiven => InvalidArgument/InvalidArgument "etcdserver: permission not given",
    /// A request its user may not make.
    PermissionDenied => PermissionDenied/PermissionDenied "etcdserver: permission denied",
    /// A role to take from a user who does not have it.
    RoleNotGranted => FailedPrecondition/FailedPrecondition
        "etcdserver: role is not granted to the user",
    /// A permission to take from a role that does not have it.
    PermissionNotGranted => FailedPrecondition/FailedPrecondition
        "etcdserver: permission is not granted to the role",
    /// An authentication while auth is off.
    AuthNotEnabled => FailedPrecondition/FailedPrecondition
        "etcdserver: authentication is not enabled",
    /// A token that is unknown or too old.
    InvalidAuthToken => Unauthenticated/Unauthenticated "etcdserver: invalid auth token",
    /// A change that would break auth itself.
    InvalidAuthManagement => InvalidArgument/InvalidArgument "etcdserver: invalid auth management",
    /// A request checked against auth rules that have changed since.
    AuthOldRevision => InvalidArgument/InvalidArgument "etcdserver: revision of auth store is old",
    /// No leader is known.
    NoLeader => Unavailable/Unavailable "etcdserver: no leader",
    /// The member asked is not the leader.
    NotLeader => FailedPrecondition/FailedPrecondition "etcdserver: not leader",
    /// The leader changed while the request waited.
    LeaderChanged => Unavailable/Unavailable "etcdserver: leader changed",
    /// The cluster version lacks the request.
    NotCapable => FailedPrecondition/FailedPrecondition "etcdserver: not capable",
    /// The member shuts down.
    Stopped => Unavailable/Unavailable "etcdserver: server stopped",
    /// The request waited too long.
    TimedOut => Unavailable/Unavailable "etcdserver: request timed out",
    /// The request waited too long, begun shortly before an election.
    TimedOutLeaderFailure => Unavailable/Unavailable
        "etcdserver: request timed out, possibly due to previous leader failure",
    /// The request waited too long, without a quorum or a way to the leader.
    TimedOutConnectionLost => Unavailable/Unavailable
        "etcdserver: request timed out, possibly due to connection lost",
    /// Applying was too far behind the commit.
    TimedOutWaitApplied => Unavailable/Unavailable
        "etcdserver: request timed out, waiting for the applied index took too long",
    /// Too few members are connected for a membership change.
    Unhealthy => Unavailable/Unavailable "etcdserver: unhealthy cluster",
    /// The CORRUPT alarm is raised.
    Corrupt => DataLoss/DataLoss "etcdserver: corrupt cluster",
    /// A request a learner does not answer.
    NotSupportedForLearner => FailedPrecondition/FailedPrecondition
        "etcdserver: rpc not supported for learner",
    /// A member that cannot take over leadership.
    BadLeaderTransferee => FailedPrecondition/FailedPrecondition
        "etcdserver: bad leader transferee",
    /// A downgrade target that is no version.
    DowngradeVersionFormat => InvalidArgument/InvalidArgument
        "etcdserver: wrong downgrade target version format",
    /// A downgrade target out of reach.
    DowngradeVersionInvalid => InvalidArgument/InvalidArgument
        "etcdserver: invalid downgrade target version",
    /// A downgrade before the cluster version is known.
    DowngradeNoClusterVersion => FailedPrecondition/FailedPrecondition
        "etcdserver: cluster version not found during downgrade",
    /// A downgrade while another one runs.
    DowngradeInProcess => FailedPrecondition/FailedPrecondition
        "etcdserver: cluster has a downgrade job in progress",
    /// No downgrade runs; declared, never answered.
    DowngradeNotInProcess => FailedPrecondition/FailedPrecondition
        "etcdserver: no inflight downgrade job",
    /// The request was cancelled while it waited.
    Canceled => Cancelled/Cancelled "etcdserver: request canceled",
    /// The deadline passed; declared, never answered by its own text.
    DeadlineExceeded => DeadlineExceeded/DeadlineExceeded "etcdserver: context deadline exceeded",
}

impl Error {
    /// The error with this text, as a client finds out what it was told.
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|error| error.text() == text)
    }

    /// The answer that carries this error to the client.
    pub fn status(self) -> Status {
        Status::new(self.code(CodeOnWire::Observed), self.text())
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        error.status()
    }
}
