//! State that all jobs share: the directory, its manifest, and the ids of its files.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use keepd_crypto::DataKeyId;
use parking_lot::Mutex;

use crate::revlog::directory::Directory;
use crate::revlog::manifest::Manifest;
use crate::revlog::reencryptor::Reencryptor;

/// The directory with what changes in it.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) dir: Directory,
    pub(crate) manifest: Mutex<Manifest>,
    /// The function that rewrites give every kept record to.
    pub(crate) reencryptor: OnceLock<Reencryptor>,
    next_id: AtomicU64,
    /// Segments with lower ids are to be rewritten, whatever their data keys.
    rewrite_below: AtomicU64,
}

impl Files {
    pub(crate) const fn new(dir: Directory, manifest: Manifest, next_id: u64) -> Self {
        Self {
            dir,
            manifest: Mutex::new(manifest),
            reencryptor: OnceLock::new(),
            next_id: AtomicU64::new(next_id),
            rewrite_below: AtomicU64::new(0),
        }
    }

    /// Asks for a rewrite of every segment that there is.
    pub(crate) fn rewrite_all(&self) {
        self.rewrite_below.store(self.next_id.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether a segment should be rewritten: it is encrypted with another key than the active
    /// one, or a rewrite of all was asked for since it was begun.
    pub(crate) fn is_stale(&self, segment: u64, data_key: DataKeyId) -> bool {
        data_key != self.dir.keys.active() || segment < self.rewrite_below.load(Ordering::Relaxed)
    }

    /// The id that the next file gets.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.load(Ordering::Relaxed)
    }

    /// An id that no file of the directory has.
    pub(crate) fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}
