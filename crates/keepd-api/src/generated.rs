//! The generated code, one module per protobuf package.
//!
//! The modules are siblings, because generated code refers to another package as
//! `super::<package>`. Nothing here is written by hand; see `build.rs`.

macro_rules! package {
    ($(#[$doc:meta])* $module:ident, $package:literal $(, $by_hand:path)*) => {
        $(#[$doc])*
        #[allow(
            missing_docs,
            unreachable_pub,
            unused_qualifications,
            trivial_numeric_casts,
            clippy::all,
            clippy::allow_attributes,
            clippy::allow_attributes_without_reason,
            clippy::implicit_clone,
            clippy::large_futures,
            clippy::missing_docs_in_private_items,
            clippy::or_fun_call,
            clippy::redundant_clone,
            clippy::semicolon_if_nothing_returned,
            clippy::str_to_string,
            clippy::too_many_lines,
            clippy::unused_async,
            clippy::use_self,
            clippy::wildcard_imports,
            reason = "generated code follows its generator's style, not ours"
        )]
        pub mod $module {
            tonic::include_proto!($package);
            $(pub use $by_hand;)*
        }
    };
}

package!(
    /// Keys, values and change events.
    mvccpb, "mvccpb"
);
package!(
    /// Users, roles and permissions.
    authpb, "authpb"
);
package!(
    /// The client services KV, Watch, Lease, Cluster, Maintenance and Auth.
    etcdserverpb, "etcdserverpb", crate::txn_request::TxnRequest
);
package!(
    /// The lock service.
    v3lockpb, "v3lockpb"
);
package!(
    /// The election service.
    v3electionpb, "v3electionpb"
);
package!(
    /// The standard health service, `grpc.health.v1`.
    health, "grpc.health.v1"
);
