//! End-to-end tests: the real `keepd` binary, real files, real signals.
//!
//! `cargo build --release -p keepd` comes first (`cargo xtask test` sees to it), or `KEEPD_BIN`
//! names a binary.

#![expect(clippy::unwrap_used, reason = "a failure fails the test")]

mod any_moment;
mod backup_failpoints;
mod backups;
mod cluster;
mod configuration;
mod crash;
mod discovery;
mod dump_log;
mod encryption;
mod failpoints;
mod forged;
mod invitation;
mod joining;
mod keys;
mod leases;
mod memory;
mod permissions;
mod quickstart;
mod rebuilding;
mod recovery;
mod reencryption;
mod restore;
mod scheduled;
mod sealed;
mod slow_watcher;
mod start;
mod storms;
mod strangers;
mod undo;
mod upgrade;
