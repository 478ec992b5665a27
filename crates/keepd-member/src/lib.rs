//! A member's directory: its names, the identity that its log carries, and how it is made.
//!
//! A new cluster's first start, the first start of a member that joins one, and `snapshot restore`
//! all make a member. They differ in what they put into its store; everything else is here, once.
//! Invariant: a member's directory is whole or not there.

mod create;
mod initial_cluster;
pub mod install;
mod layout;

pub use create::{
    create, create_joining_log, create_log, create_log_behind, remake_dir, sync_with_parent,
};
pub use initial_cluster::{
    ClusterError, InitialCluster, InitialMember, check_advertised, difference,
};
pub use layout::{BOOTSTRAP_INDEX, BOOTSTRAP_TERM, Identity, Layout};
