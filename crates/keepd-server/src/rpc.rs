//! The table of RPCs: everything in which they differ, one row for each.
//!
//! A row names the path, the kind of call, the function that answers it, the permission that its
//! callers need, and whether the end of the server ends it. Dispatch, metrics and the guard of the
//! browser edge read this table and no other. A row without a permission does not compile: neither
//! the macro nor the struct takes one. A test compares the table with the protocol's descriptors.

use crate::authorization::Permission;
use crate::grpc::{self, Answering, Kind, Opened};
use crate::{auth, cluster, health, kv, lease, maintenance, versions, watch};

/// One RPC.
#[derive(Debug)]
pub(crate) struct Rpc {
    pub(crate) path: &'static str,
    pub(crate) kind: Kind,
    pub(crate) permission: Permission,
    /// Whether the end of the server ends its stream of answers, which never ends by itself. The
    /// streams of Watch are ended by the hub, after what is queued.
    pub(crate) ends_at_shutdown: bool,
    /// Whether a learner answers it.
    pub(crate) is_for_learners: bool,
    serve: fn(Opened) -> Answering,
}

impl Rpc {
    /// Answers a call.
    pub(crate) fn serve(&self, call: Opened) -> Answering {
        (self.serve)(call)
    }

    /// The service's full name.
    pub(crate) fn service(&self) -> &'static str {
        self.path[1..].split_once('/').expect("a path has two parts").0
    }
}

/// Rows: `kind path: permission => handler`; a row ends in `until shutdown` if it does, and in `on
/// learners` if learners answer it.
macro_rules! rpcs {
    (@kind unary) => { Kind::Unary };
    (@kind server_stream) => { Kind::ServerStream };
    (@kind bidi) => { Kind::Bidi };
    (@ends until shutdown) => { true };
    (@ends $($other:ident)*) => { false };
    (@learns on learners) => { true };
    (@learns $($other:ident)*) => { false };
    ($($kind:ident $path:literal: $permission:ident => $handler:path $([$($ends:ident)+])?;)+) => {
        &[$(Rpc {
            path: $path,
            kind: rpcs!(@kind $kind),
            permission: Permission::$permission,
            ends_at_shutdown: rpcs!(@ends $($($ends)+)?),
            is_for_learners: rpcs!(@learns $($($ends)+)?),
            serve: |call| grpc::$kind(call, $handler),
        }),+]
    };
}

/// Every RPC that is served.
pub(crate) static RPCS: &[Rpc] = rpcs! {
    unary "/etcdserverpb.KV/Range": Read => kv::range [on learners];
    server_stream "/etcdserverpb.KV/RangeStream": Read => kv::range_stream;
    unary "/etcdserverpb.KV/Put": Write => kv::put;
    unary "/etcdserverpb.KV/DeleteRange": Write => kv::delete_range;
    unary "/etcdserverpb.KV/Txn": Write => kv::txn;
    unary "/etcdserverpb.KV/Compact": Root => kv::compact;

    bidi "/etcdserverpb.Watch/Watch": Read => watch::watch;

    unary "/etcdserverpb.Lease/LeaseGrant": Identity => lease::grant;
    unary "/etcdserverpb.Lease/LeaseRevoke": WriteLeased => lease::revoke;
    bidi "/etcdserverpb.Lease/LeaseKeepAlive": WriteLeased => lease::keep_alive [until shutdown];
    unary "/etcdserverpb.Lease/LeaseTimeToLive": ReadLeased => lease::time_to_live;
    unary "/etcdserverpb.Lease/LeaseLeases": ReadLeased => lease::leases;

    unary "/etcdserverpb.Cluster/MemberAdd": Root => cluster::member_add;
    unary "/etcdserverpb.Cluster/MemberRemove": Root => cluster::member_remove;
    unary "/etcdserverpb.Cluster/MemberUpdate": Root => cluster::member_update;
    unary "/etcdserverpb.Cluster/MemberList": Identity => cluster::member_list;
    unary "/etcdserverpb.Cluster/MemberPromote": Root => cluster::member_promote;

    unary "/etcdserverpb.Maintenance/Alarm": RootToChange => maintenance::alarm;
    unary "/etcdserverpb.Maintenance/Status": Identity => maintenance::status [on learners];
    unary "/etcdserverpb.Maintenance/Defragment": Root => maintenance::defragment;
    unary "/etcdserverpb.Maintenance/Hash": Root => maintenance::hash;
    unary "/etcdserverpb.Maintenance/HashKV": Root => maintenance::hash_kv;
    server_stream "/etcdserverpb.Maintenance/Snapshot": Root => maintenance::snapshot [on learners];
    unary "/etcdserverpb.Maintenance/MoveLeader": Root => maintenance::move_leader;
    unary "/etcdserverpb.Maintenance/Downgrade": Root => versions::downgrade;

    unary "/etcdserverpb.Auth/AuthEnable": Root => auth::enable;
    unary "/etcdserverpb.Auth/AuthDisable": Root => auth::disable;
    unary "/etcdserverpb.Auth/AuthStatus": None => auth::status;
    unary "/etcdserverpb.Auth/Authenticate": None => auth::authenticate;
    unary "/etcdserverpb.Auth/UserAdd": Root => auth::user_add;
    unary "/etcdserverpb.Auth/UserGet": OwnUser => auth::user_get;
    unary "/etcdserverpb.Auth/UserList": Root => auth::user_list;
    unary "/etcdserverpb.Auth/UserDelete": Root => auth::user_delete;
    unary "/etcdserverpb.Auth/UserChangePassword": Root => auth::user_change_password;
    unary "/etcdserverpb.Auth/UserGrantRole": Root => auth::user_grant_role;
    unary "/etcdserverpb.Auth/UserRevokeRole": Root => auth::user_revoke_role;
    unary "/etcdserverpb.Auth/RoleAdd": Root => auth::role_add;
    unary "/etcdserverpb.Auth/RoleGet": OwnRole => auth::role_get;
    unary "/etcdserverpb.Auth/RoleList": Root => auth::role_list;
    unary "/etcdserverpb.Auth/RoleDelete": Root => auth::role_delete;
    unary "/etcdserverpb.Auth/RoleGrantPermission": Root => auth::role_grant_permission;
    unary "/etcdserverpb.Auth/RoleRevokePermission": Root => auth::role_revoke_permission;

    unary "/grpc.health.v1.Health/List": None => health::list;
    unary "/grpc.health.v1.Health/Check": None => health::check;
    server_stream "/grpc.health.v1.Health/Watch": None => health::watch [until shutdown];
};

#[cfg(test)]
mod tests {
    use keepd_api::DESCRIPTORS;
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// Services that are not built, with all their RPCs.
    const UNBUILT: [&str; 2] = ["v3lockpb.Lock", "v3electionpb.Election"];

    #[test]
    fn the_table_is_the_protocol() {
        let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
        let mut declared = Vec::new();
        for file in &files {
            for service in &file.service {
                let service_name = format!("{}.{}", file.package(), service.name());
                if UNBUILT.contains(&service_name.as_str()) {
                    continue;
                }
                for method in &service.method {
                    let kind = match (method.client_streaming(), method.server_streaming()) {
                        (false, false) => Kind::Unary,
                        (false, true) => Kind::ServerStream,
                        (true, _) => Kind::Bidi,
                    };
                    declared.push((format!("/{service_name}/{}", method.name()), kind));
                }
            }
        }
        let mut served: Vec<_> = RPCS.iter().map(|rpc| (rpc.path.to_owned(), rpc.kind)).collect();
        declared.sort_by(|a, b| a.0.cmp(&b.0));
        served.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(served, declared);
    }

    /// As in etcd, which on a learner refuses the health service too.
    #[test]
    fn learners_answer_few_rpcs() {
        let answered: Vec<_> =
            RPCS.iter().filter(|rpc| rpc.is_for_learners).map(|rpc| rpc.path).collect();
        assert_eq!(
            answered,
            [
                "/etcdserverpb.KV/Range",
                "/etcdserverpb.Maintenance/Status",
                "/etcdserverpb.Maintenance/Snapshot",
            ]
        );
    }

    /// Whoever adds a row here opens an RPC to callers without a name.
    #[test]
    fn few_rpcs_ask_nothing_of_their_callers() {
        let open = RPCS.iter().filter(|rpc| rpc.permission == Permission::None);
        let open: Vec<_> = open.map(|rpc| rpc.path).collect();
        assert_eq!(
            open,
            [
                "/etcdserverpb.Auth/AuthStatus",
                "/etcdserverpb.Auth/Authenticate",
                "/grpc.health.v1.Health/List",
                "/grpc.health.v1.Health/Check",
                "/grpc.health.v1.Health/Watch",
            ]
        );
    }
}
