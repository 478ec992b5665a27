//! Backups elsewhere: sealed objects with sidecars in a destination, and the proof that they restore.
//!
//! A backup is etcd's snapshot ([`keepd_backup`]), compressed and sealed whole ([`mod@format`], [`age`]),
//! under a [`name`] in a [`destination`], with a [`sidecar`] that tells what it is. [`prove`] restores it into
//! a [`scratch`] folder ([`unpacked`]) and compares it with its source; [`catalog`] reads what a destination has,
//! [`retention`] and [`schedule`] decide what goes and when the next one is due. [`log`] is what was committed
//! between them, shipped as it comes.
//!
//! Layouts: `docs/formats/backup.md`. Everything blocks; what goes over a network runs on the runtime whose
//! handle the destination was given.
//!
//! Invariants:
//! - Nothing is written plain but to a destination, and there only if the caller said so in words: what
//!   lies in a scratch folder is sealed under a key that is only in memory.
//! - Memory does not grow with the backup.
//! - Objects are hostile: they lead to an [`Error`], never to a panic.

pub mod age;
pub mod catalog;
pub mod destination;
mod digest;
mod error;
pub mod format;
pub mod log;
mod moment;
pub mod name;
pub mod prove;
pub mod retention;
pub mod schedule;
pub mod scratch;
pub mod sidecar;
mod stage;
pub mod unpacked;
pub mod upload;

pub use error::{Error, Remedy};
pub use moment::Moment;
