//! Authorization: what an RPC asks of its caller, and who decides whether the caller may.
//!
//! Every call passes through [`authorize`], once, after its metadata and (if it has one message) its
//! message are known and before its handler runs: a handler takes a [`Call`](crate::grpc::call::Call),
//! and a call can only be made of an [`Authorized`], which only [`authorize`] makes. Users are not
//! built, so the only [`Authorizer`] is [`Everyone`]. Permissions on single keys depend on users that
//! may change until a command is applied; as in etcd they will be asked where it is applied.

use std::fmt;

use http::HeaderValue;
use tonic::Status;

use crate::peer::Peer;

/// The permission that a caller needs once authentication is on, as in etcd 3.7. The role `root` has
/// all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permission {
    /// Nothing.
    None,
    /// To be a user, any user.
    Identity,
    /// The role `root`.
    Root,
    /// To be a user; the role `root` for everything but reading.
    RootToChange,
    /// The role `root`, unless the request names the caller.
    OwnUser,
    /// The role `root`, unless the request names a role of the caller.
    OwnRole,
    /// READ on the keys that the request names; on a watch stream, for each watcher.
    Read,
    /// WRITE on the keys that the request names, READ on those whose previous values it asks for. A
    /// put with a lease: WRITE on all keys of the lease. A transaction: all of this for both branches.
    Write,
    /// READ on all keys of the leases whose keys the answer shows.
    ReadLeased,
    /// WRITE on all keys of the lease.
    WriteLeased,
}

/// The caller of an RPC, as far as the connection and the metadata tell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'a> {
    /// The other end of the connection, with its verified certificate.
    #[cfg_attr(not(test), expect(dead_code, reason = "read once users are built"))]
    pub(crate) peer: &'a Peer,
    /// The token that `Authenticate` gave out, unverified.
    #[cfg_attr(not(test), expect(dead_code, reason = "read once users are built"))]
    pub(crate) token: Option<&'a HeaderValue>,
}

/// Decides who may call which RPC.
pub(crate) trait Authorizer: fmt::Debug + Send + Sync {
    /// Lets a caller call the RPC of this path, or says why it may not.
    fn authorize(
        &self,
        path: &'static str,
        permission: Permission,
        caller: Caller<'_>,
    ) -> Result<(), Status>;
}

/// Lets everyone call everything, as etcd does while authentication is off.
#[derive(Debug)]
pub(crate) struct Everyone;

impl Authorizer for Everyone {
    fn authorize(
        &self,
        _path: &'static str,
        _permission: Permission,
        _caller: Caller<'_>,
    ) -> Result<(), Status> {
        Ok(())
    }
}

/// The proof that a call was authorized.
#[derive(Debug)]
pub(crate) struct Authorized(());

/// Asks whether a caller may call an RPC.
pub(crate) fn authorize(
    authorizer: &dyn Authorizer,
    path: &'static str,
    permission: Permission,
    caller: Caller<'_>,
) -> Result<Authorized, Status> {
    authorizer.authorize(path, permission, caller).map(Authorized)
}
