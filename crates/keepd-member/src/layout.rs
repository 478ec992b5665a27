//! The data directory: names, and the identity that the write-ahead log carries as its metadata.
//!
//! ```text
//! <data-dir>/
//!   member/            one member's state; made as `member.partial` and renamed when whole
//!     BALLAST          reserved space without content, released when the disk is full
//!     KEYRING          wrapped data keys (only with an encryption configuration)
//!     wal/             write-ahead log segments
//!     store/           manifest, segments, checkpoints
//!     incoming/        the state of another member on its way into `store` (`install.rs`)
//!     INSTALL          says that it is to become the store
//! ```

use std::path::{Path, PathBuf};

use bytes::Bytes;
use keepd_types::{ClusterId, MemberId};

/// A new log starts after this index, in term 1: index 1 stands for the initial membership.
pub const BOOTSTRAP_INDEX: u64 = 1;
/// The term of the initial membership.
pub const BOOTSTRAP_TERM: u64 = 1;

/// The paths inside a data directory.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The directory of one member's state.
    pub member: PathBuf,
    /// The directory's name while it is being made.
    pub partial: PathBuf,
}

impl Layout {
    /// The layout below `data_dir`.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self { member: data_dir.join("member"), partial: data_dir.join("member.partial") }
    }

    /// The reserved space of a member directory.
    #[must_use]
    pub fn ballast(member_dir: &Path) -> PathBuf {
        member_dir.join("BALLAST")
    }

    /// The write-ahead log of a member directory.
    #[must_use]
    pub fn wal(member_dir: &Path) -> PathBuf {
        member_dir.join("wal")
    }

    /// The record store of a member directory.
    #[must_use]
    pub fn store(member_dir: &Path) -> PathBuf {
        member_dir.join("store")
    }

    /// The place of a state that comes from another member.
    #[must_use]
    pub fn incoming(member_dir: &Path) -> PathBuf {
        member_dir.join("incoming")
    }

    /// The record of an install that is under way.
    #[must_use]
    pub fn install(member_dir: &Path) -> PathBuf {
        member_dir.join("INSTALL")
    }
}

/// Owner of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The member.
    pub member: MemberId,
    /// Its cluster.
    pub cluster: ClusterId,
}

impl Identity {
    /// The metadata of the write-ahead log: format 1, member id, cluster id, big-endian.
    #[must_use]
    pub fn encode(self) -> Bytes {
        let mut out = Vec::with_capacity(17);
        out.push(1);
        out.extend_from_slice(&self.member.0.to_be_bytes());
        out.extend_from_slice(&self.cluster.0.to_be_bytes());
        out.into()
    }

    /// Reads the metadata of a write-ahead log.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (format, ids) = bytes.split_first()?;
        if *format != 1 || ids.len() != 16 {
            return None;
        }
        let member = u64::from_be_bytes(ids[..8].try_into().ok()?);
        let cluster = u64::from_be_bytes(ids[8..].try_into().ok()?);
        Some(Self { member: MemberId(member), cluster: ClusterId(cluster) })
    }
}
