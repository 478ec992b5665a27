//! Encryption of a running member, in four steps:
//!
//! 1. *reload*: a changed file becomes the configuration of this member (`reload.rs`);
//! 2. *activate*: the cluster agrees on the keys that values are sealed under (`activate.rs`);
//! 3. *re-encrypt*: stored values and files that are not as the configuration wants them are
//!    rewritten in the background (`reencrypt.rs`);
//! 4. *retire*: a data key that encrypts no file any more leaves the keyring (`reencrypt.rs`).
//!
//! `state.rs` holds what the member's threads and tasks share of this, `status.rs` tells it,
//! `key_check.rs` refuses a start without the keys that stored values need.

mod activate;
pub(crate) mod key_check;
pub(crate) mod own_keys;
pub(crate) mod reencrypt;
mod reload;
pub(crate) mod state;
mod status;

pub use activate::ActivationError;
pub use state::{FileCounts, Reloads};
pub use status::ValueCounts;
