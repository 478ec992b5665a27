//! A disk that can be closed behind whoever uses it.
//!
//! A store that gives its directory up to another one has jobs out, which create, rename and remove
//! files by name: in the directory of the new store, once that has the name. So each store has a gate
//! of its own in front of the disk. Files that are open stay usable: they are the old store's wherever
//! their names lead.

use std::io;
use std::path::Path;
use std::sync::Arc;

use keepd_env::{DirLock, Disk, DiskDir, DiskFile, DiskSpace, FileId, Found, IoError, IoOp};
use parking_lot::RwLock;

/// The disk, until it is closed.
#[derive(Debug)]
pub(crate) struct Gate {
    disk: Arc<dyn Disk>,
    /// A call by name holds it for reading as long as it takes.
    is_closed: RwLock<bool>,
}

impl Gate {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, is_closed: RwLock::new(false) }
    }

    /// The disk itself.
    pub(crate) fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk)
    }

    /// Has every later call by name fail, once those that are under way have ended.
    pub(crate) fn close(&self) {
        *self.is_closed.write() = true;
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.is_closed.read()
    }

    fn pass<T>(
        &self,
        op: IoOp,
        path: &Path,
        call: impl FnOnce(&dyn Disk) -> Result<T, IoError>,
    ) -> Result<T, IoError> {
        let is_closed = self.is_closed.read();
        if *is_closed {
            let source = io::Error::other("another store has taken the directory over");
            return Err(IoError { op, path: path.to_owned(), source });
        }
        call(&*self.disk)
    }
}

impl Disk for Gate {
    fn create_dir(&self, path: &Path) -> Result<(), IoError> {
        self.pass(IoOp::Create, path, |disk| disk.create_dir(path))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>, IoError> {
        self.pass(IoOp::Create, path, |disk| disk.create(path))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn DiskFile>, IoError> {
        self.pass(IoOp::Open, path, |disk| disk.open(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), IoError> {
        self.pass(IoOp::Rename, from, |disk| disk.rename(from, to))
    }

    fn cut(&self, path: &Path, len: u64) -> Result<(), IoError> {
        self.pass(IoOp::Resize, path, |disk| disk.cut(path, len))
    }

    fn remove(&self, path: &Path) -> Result<(), IoError> {
        self.pass(IoOp::Remove, path, |disk| disk.remove(path))
    }

    fn remove_dir_all(&self, path: &Path) -> Result<(), IoError> {
        self.pass(IoOp::Remove, path, |disk| disk.remove_dir_all(path))
    }

    fn list(&self, path: &Path) -> Result<Vec<String>, IoError> {
        self.pass(IoOp::Stat, path, |disk| disk.list(path))
    }

    fn exists(&self, path: &Path) -> Result<bool, IoError> {
        self.pass(IoOp::Stat, path, |disk| disk.exists(path))
    }

    fn is_synced(&self) -> bool {
        self.disk.is_synced()
    }

    fn probe(&self, path: &Path) -> Result<Option<Found>, IoError> {
        self.pass(IoOp::Stat, path, |disk| disk.probe(path))
    }

    fn identity(&self, path: &Path) -> Result<Option<FileId>, IoError> {
        self.pass(IoOp::Stat, path, |disk| disk.identity(path))
    }

    fn sync_dir(&self, path: &Path) -> Result<(), IoError> {
        self.pass(IoOp::Sync, path, |disk| disk.sync_dir(path))
    }

    fn open_dir(&self, path: &Path) -> Result<Box<dyn DiskDir>, IoError> {
        self.pass(IoOp::Open, path, |disk| disk.open_dir(path))
    }

    fn space(&self, path: &Path) -> Result<DiskSpace, IoError> {
        self.pass(IoOp::Stat, path, |disk| disk.space(path))
    }

    fn lock_dir(&self, path: &Path) -> Result<Box<dyn DirLock>, IoError> {
        self.pass(IoOp::Lock, path, |disk| disk.lock_dir(path))
    }
}
