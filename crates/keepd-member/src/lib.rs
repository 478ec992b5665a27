//! A member's directory: its names, the identity that its log carries, and how it is made.
//!
//! A new cluster's first start and `snapshot restore` both make a member. They differ in what they
//! put into its store; everything else is here, once. Invariant: a member's directory is whole or
//! not there.

mod create;
mod layout;

pub use create::{create, create_log, remake_dir, sync_with_parent};
pub use layout::{BOOTSTRAP_INDEX, BOOTSTRAP_TERM, Identity, Layout};
