//! Shared by tests: golden files, starting real processes, looking into directories.

#![expect(clippy::panic, reason = "what is wrong fails the test")]

pub mod files;
pub mod golden;
pub mod process;

pub use files::TempDir;
pub use process::{Keepd, Server};
