//! An in-memory disk that behaves as badly as a real one may.
//!
//! **Durability.** Writes reach the durable image only with [`DiskFile::sync`]; creations, renames
//! and removals only with [`Disk::sync_dir`] of their directory. Renaming a directory changes its
//! parent alone: the new name is durable when the parent is synced, the names in the directory when
//! it is itself, before or after. Syncing a directory also makes its own creation and its ancestors'
//! durable, as journaling file systems do. [`SimDisk::crash`] gives the disk as it may look after a
//! power cut, [`SimDisk::kill`] as it looks to the next process after the death of this one: all that
//! was written can be read, and what was not synced may still be lost.
//!
//! **Faults.** The Nth call (of any kind, or of one) fails, once or for ever; a failed sync of a file
//! drops its unsynced writes for good, as Linux does: they are read until the power is cut, and no
//! later sync makes them durable; a failed write leaves a part behind; space runs
//! out; bytes change under the store; and [`SimDisk::crash_at`] cuts the power after the Nth change.
//! [`SimDisk::set_lying`] has syncs succeed and do nothing: a power cut then brings back the disk of that
//! moment, as if somebody had put an older copy in its place.
//!
//! Not modelled: permissions, links, sparse files, reordering of synced writes.

mod crash;
mod faults;
mod names;
mod state;

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

pub use crash::CrashMode;
pub use faults::{Call, FaultPlan};

use crate::disk::{
    DirLock, Disk, DiskDir, DiskFile, DiskSpace, FileId, Found, IoError, IoOp, LOCK_NAME,
};
use state::{Change, State};

/// An in-memory disk; clones share it.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The disk after a power cut now: a new, healthy one without locks or
    /// open files. This one goes on as it is.
    #[must_use]
    pub fn crash(&self, mode: CrashMode) -> Self {
        let image = crash::image(&self.state.lock(), mode);
        Self { state: Arc::new(Mutex::new(image)) }
    }

    /// The disk as the next process finds it after this one was killed now: every change is seen, and
    /// those that were not synced still are not. Locks and open files are gone, and so are the
    /// planned faults. This one goes on as it is, and neither touches the other.
    #[must_use]
    pub fn kill(&self) -> Self {
        let left = crash::left_by_process(&self.state.lock());
        Self { state: Arc::new(Mutex::new(left)) }
    }

    /// Makes a call fail; see [`FaultPlan`]. Plans add up until [`SimDisk::heal`].
    pub fn fail(&self, plan: FaultPlan) {
        self.state.lock().faults.add(plan);
    }

    /// Has every sync succeed and make nothing durable, or no longer. The death of a process changes
    /// nothing about it; the disk after a power cut is an honest one.
    pub fn set_lying(&self, lies: bool) {
        self.state.lock().lies = lies;
    }

    /// Cuts the power after the `mutations`th changing call counted from the disk's creation: every
    /// later call fails. [`SimDisk::crash`] then gives the image.
    pub fn crash_at(&self, mutations: u64) {
        self.state.lock().faults.crash_at = Some(mutations);
    }

    /// Removes all planned faults, the capacity limit included.
    pub fn heal(&self) {
        self.state.lock().faults.heal();
    }

    /// Limits the sum of all files' lengths; beyond it writes fail with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        let faults = &mut self.state.lock().faults;
        (faults.capacity, faults.refusals) = (bytes, None);
    }

    /// As [`SimDisk::set_capacity`], until so many calls have found no space: who waits for space in the
    /// thread that would have to make it gets some.
    pub fn set_capacity_until(&self, bytes: u64, refusals: u64) {
        let faults = &mut self.state.lock().faults;
        (faults.capacity, faults.refusals) = (Some(bytes), Some(refusals.max(1)));
    }

    /// Makes every opening and creation of a file, and the opening of a directory for its sync, fail
    /// for want of file descriptors.
    pub fn withhold_descriptors(&self, is_withheld: bool) {
        self.state.lock().faults.lacks_descriptors = is_withheld;
    }

    /// The sum of all files' lengths.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used_bytes()
    }

    /// The number of calls so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state.lock().faults.calls
    }

    /// The number of calls so far that change something or make it durable.
    #[must_use]
    pub fn mutations(&self) -> u64 {
        self.state.lock().faults.mutations
    }

    /// Starts keeping a list of all calls.
    pub fn record_calls(&self) {
        self.state.lock().faults.log.get_or_insert_default();
    }

    /// The calls since [`SimDisk::record_calls`].
    #[must_use]
    pub fn recorded_calls(&self) -> Vec<Call> {
        self.state.lock().faults.log.clone().unwrap_or_default()
    }

    /// All files, sorted.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.state.lock().files()
    }

    /// The bytes of a file, without any fault or count.
    #[must_use]
    pub fn peek(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let inode = state.file(path)?;
        Some(state.inodes.get(&inode)?.current.clone())
    }

    /// Replaces the bytes of a file without the store's knowledge, durably; creates it if need be.
    pub fn poke(&self, path: &Path, bytes: &[u8]) {
        self.state.lock().poke(path, bytes);
    }

    /// Flips bits of one byte of a file without the store's knowledge; `false` if there is none there.
    #[must_use]
    pub fn flip(&self, path: &Path, offset: u64, mask: u8) -> bool {
        let Some(mut bytes) = self.peek(path) else { return false };
        let Some(byte) = usize::try_from(offset).ok().and_then(|at| bytes.get_mut(at)) else {
            return false;
        };
        *byte ^= mask;
        self.poke(path, &bytes);
        true
    }

    /// The first file that holds `needle`, now or in its durable image.
    #[must_use]
    pub fn find(&self, needle: &[u8]) -> Option<PathBuf> {
        self.state.lock().find(needle)
    }

    fn run<T>(
        &self,
        op: IoOp,
        path: &Path,
        call: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> Result<T, IoError> {
        let mut state = self.state.lock();
        state.faults.admit(op, path).and_then(|()| call(&mut state)).map_err(|source| IoError {
            op,
            path: path.to_owned(),
            source,
        })
    }

    fn handle(
        &self,
        state: &mut State,
        inode: u64,
        path: &Path,
        writable: bool,
    ) -> Box<dyn DiskFile> {
        state.inode(inode).handles += 1;
        Box::new(SimFile { disk: self.clone(), inode, path: path.to_owned(), writable })
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, path: &Path) -> Result<(), IoError> {
        self.run(IoOp::Create, path, |state| state.names.create_dir(path))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>, IoError> {
        self.run(IoOp::Create, path, |state| {
            let inode = state.create_file(path)?;
            Ok(self.handle(state, inode, path, true))
        })
    }

    fn open(&self, path: &Path) -> Result<Box<dyn DiskFile>, IoError> {
        self.run(IoOp::Open, path, |state| {
            let inode = state.file(path).ok_or(ErrorKind::NotFound)?;
            Ok(self.handle(state, inode, path, false))
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), IoError> {
        self.run(IoOp::Rename, from, |state| state.names.rename(from, to))
    }

    fn cut(&self, path: &Path, len: u64) -> Result<(), IoError> {
        let file = self.run(IoOp::Open, path, |state| {
            let inode = state.file(path).ok_or(ErrorKind::NotFound)?;
            Ok(self.handle(state, inode, path, true))
        })?;
        file.set_len(len)
    }

    fn remove(&self, path: &Path) -> Result<(), IoError> {
        self.run(IoOp::Remove, path, |state| state.names.remove_file(path))
    }

    fn remove_dir_all(&self, path: &Path) -> Result<(), IoError> {
        self.run(IoOp::Remove, path, |state| state.names.remove_dir_all(path))
    }

    fn list(&self, path: &Path) -> Result<Vec<String>, IoError> {
        self.run(IoOp::Stat, path, |state| Ok(state.names.list(path)))
    }

    fn exists(&self, path: &Path) -> Result<bool, IoError> {
        self.run(IoOp::Stat, path, |state| Ok(state.names.get(path).is_some()))
    }

    fn probe(&self, path: &Path) -> Result<Option<Found>, IoError> {
        self.run(IoOp::Stat, path, |state| {
            if let Some(inode) = state.file(path) {
                let len = u64::try_from(state.inode(inode).current.len());
                let len = len.map_err(io::Error::other)?;
                let (is_dir, is_own_file) = (false, true);
                return Ok(Some(Found { is_dir, is_own_file, len, reserved_bytes: len }));
            }
            let is_dir = state.names.get(path).is_some();
            let dir = Found { is_dir, is_own_file: false, len: 0, reserved_bytes: 0 };
            Ok(is_dir.then_some(dir))
        })
    }

    fn identity(&self, path: &Path) -> Result<Option<FileId>, IoError> {
        self.run(IoOp::Stat, path, |state| Ok(state.names.get(path).map(|node| node.identity())))
    }

    fn sync_dir(&self, path: &Path) -> Result<(), IoError> {
        // The directory is opened for it.
        let lacks_descriptors = self.state.lock().faults.lacks_descriptors;
        let op = if lacks_descriptors { IoOp::Open } else { IoOp::Sync };
        self.run(op, path, |state| state.sync_dir(path))
    }

    fn open_dir(&self, path: &Path) -> Result<Box<dyn DiskDir>, IoError> {
        self.run(IoOp::Open, path, |_| Ok(()))?;
        Ok(Box::new(SimDir { disk: self.clone(), path: path.to_owned() }))
    }

    fn space(&self, path: &Path) -> Result<DiskSpace, IoError> {
        self.run(IoOp::Stat, path, |state| {
            let total_bytes = state.faults.capacity.unwrap_or(u64::MAX);
            let available_bytes = total_bytes.saturating_sub(state.used_bytes());
            Ok(DiskSpace { total_bytes, available_bytes })
        })
    }

    fn lock_dir(&self, path: &Path) -> Result<Box<dyn DirLock>, IoError> {
        let path = path.join(LOCK_NAME);
        self.run(IoOp::Lock, &path, |state| {
            if state.file(&path).is_none() {
                state.create_file(&path)?;
            }
            if !state.locks.insert(path.clone()) {
                return Err(ErrorKind::WouldBlock.into());
            }
            Ok(())
        })?;
        Ok(Box::new(SimLock { disk: self.clone(), path }))
    }
}

/// An open file of a [`SimDisk`]. It stays usable when its name goes away.
#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: u64,
    path: PathBuf,
    writable: bool,
}

impl SimFile {
    fn change(&self, op: IoOp, change: Change) -> Result<(), IoError> {
        let mut state = self.disk.state.lock();
        let admitted = if self.writable {
            state.faults.admit(op, &self.path)
        } else {
            Err(ErrorKind::PermissionDenied.into())
        };
        let result = admitted.and_then(|()| state.reserve(self.inode, &change));
        if result.is_ok() {
            state.inode(self.inode).apply(change);
        } else if state.faults.is_powered() && self.writable {
            // A write that fails may still have begun.
            if let Change::Write { offset, mut bytes } = change {
                bytes.truncate(bytes.len() / 2);
                let part = Change::Write { offset, bytes };
                if state.reserve(self.inode, &part).is_ok() {
                    state.inode(self.inode).apply(part);
                }
            }
        }
        result.map_err(|source| IoError { op, path: self.path.clone(), source })
    }
}

impl DiskFile for SimFile {
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), IoError> {
        self.disk.run(IoOp::Read, &self.path, |state| {
            let start = usize::try_from(offset).map_err(io::Error::other)?;
            let source = start
                .checked_add(bytes.len())
                .and_then(|end| state.inode(self.inode).current.get(start..end))
                .ok_or(ErrorKind::UnexpectedEof)?;
            bytes.copy_from_slice(source);
            Ok(())
        })
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<(), IoError> {
        let offset = usize::try_from(offset).expect("a simulated file fits into memory");
        self.change(IoOp::Write, Change::Write { offset, bytes: bytes.to_vec() })
    }

    fn sync(&self) -> Result<(), IoError> {
        let mut state = self.disk.state.lock();
        let result = state.faults.admit(IoOp::Sync, &self.path);
        if result.is_ok() {
            state.sync_file(self.inode);
        } else if state.faults.is_powered() {
            state.inode(self.inode).unsynced.clear();
        }
        result.map_err(|source| IoError { op: IoOp::Sync, path: self.path.clone(), source })
    }

    fn len(&self) -> Result<u64, IoError> {
        self.disk.run(IoOp::Stat, &self.path, |state| {
            u64::try_from(state.inode(self.inode).current.len()).map_err(io::Error::other)
        })
    }

    fn set_len(&self, len: u64) -> Result<(), IoError> {
        let len = usize::try_from(len).expect("a simulated file fits into memory");
        self.change(IoOp::Resize, Change::Resize { len })
    }

    fn allocate(&self, len: u64) -> Result<(), IoError> {
        let len = usize::try_from(len).expect("a simulated file fits into memory");
        self.change(IoOp::Resize, Change::Allocate { len })
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        state.inode(self.inode).handles -= 1;
        state.collect();
    }
}

/// A held lock of a [`SimDisk`].
#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

/// An open directory.
#[derive(Debug)]
struct SimDir {
    disk: SimDisk,
    path: PathBuf,
}

impl DiskDir for SimDir {
    fn sync(&self) -> Result<(), IoError> {
        self.disk.run(IoOp::Sync, &self.path, |state| state.sync_dir(&self.path))
    }
}

impl DirLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.state.lock().locks.remove(&self.path);
    }
}

#[cfg(test)]
mod tests;
