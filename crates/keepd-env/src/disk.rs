//! Files, as the store needs them: whole-file creation, positioned reads and writes, explicit sync
//! of data and of directories. Nothing else exists, so that a simulation can be exact.

use std::fmt::{self, Debug};
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The kind of a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoOp {
    /// Creating a file or directory.
    Create,
    /// Opening a file.
    Open,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Syncing a file or directory.
    Sync,
    /// Renaming.
    Rename,
    /// Removing.
    Remove,
    /// Listing a directory or asking for a length.
    Stat,
    /// Changing a file's length.
    Resize,
    /// Locking.
    Lock,
}

impl fmt::Display for IoOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Rename => "rename",
            Self::Remove => "remove",
            Self::Stat => "stat",
            Self::Resize => "resize",
            Self::Lock => "lock",
        })
    }
}

/// A failed call, with the file it concerned.
#[derive(Debug, Error)]
#[error("{op} {}: {source}", path.display())]
pub struct IoError {
    /// The call.
    pub op: IoOp,
    /// The file or directory.
    pub path: PathBuf,
    /// The system's reason.
    pub source: io::Error,
}

impl IoError {
    /// Whether the disk is full, and the same call may be made again once it is not. A failed sync
    /// never is: the system may have dropped what it could not write.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        let kind = self.source.kind();
        let is_full = matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        is_full && self.op != IoOp::Sync
    }

    /// Whether a resource ran out that may come back: space or file descriptors. The same call may be
    /// made again.
    #[must_use]
    pub fn is_shortage(&self) -> bool {
        self.is_out_of_space() || self.is_out_of_descriptors()
    }

    /// Whether no file could be opened for want of a descriptor, in this process or in the system:
    /// the same call may be made again when some are closed.
    #[must_use]
    pub fn is_out_of_descriptors(&self) -> bool {
        matches!(self.source.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
            && self.op != IoOp::Sync
    }

    /// Whether the file does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// The identity of a file or directory, independent of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    /// The file system.
    pub device: u64,
    /// Its inode number.
    pub inode: u64,
}

/// The space of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Its size.
    pub total_bytes: u64,
    /// The bytes that this process may still write.
    pub available_bytes: u64,
}

/// The identity and size of the file at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// A directory.
    pub is_dir: bool,
    /// A file, not a link to one, that belongs to the user who asks.
    pub is_own_file: bool,
    /// Its length.
    pub len: u64,
    /// The bytes that it takes of the file system.
    pub reserved_bytes: u64,
}

impl Found {
    /// Whether it is this user's file, of this length, with all of its space reserved.
    #[must_use]
    pub const fn is_reserved(&self, len: u64) -> bool {
        self.is_own_file && self.len == len && self.reserved_bytes >= len
    }
}

/// The name of the file by which a directory is locked.
pub const LOCK_NAME: &str = "LOCK";

/// A file system.
pub trait Disk: Send + Sync + Debug {
    /// Creates a directory (mode 0700) and its missing parents.
    fn create_dir(&self, path: &Path) -> Result<(), IoError>;
    /// Creates a file (mode 0600) for reading and writing; fails if it exists.
    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>, IoError>;
    /// Opens an existing file for reading.
    fn open(&self, path: &Path) -> Result<Box<dyn DiskFile>, IoError>;
    /// Renames, replacing what was there. Durable after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> Result<(), IoError>;
    /// Truncates a file that nobody writes. After a power cut it may have its old length.
    fn cut(&self, path: &Path, len: u64) -> Result<(), IoError>;
    /// Removes a file. Durable after [`Disk::sync_dir`].
    fn remove(&self, path: &Path) -> Result<(), IoError>;
    /// Removes a directory with everything in it.
    fn remove_dir_all(&self, path: &Path) -> Result<(), IoError>;
    /// The names in a directory, sorted; empty if it does not exist.
    fn list(&self, path: &Path) -> Result<Vec<String>, IoError>;
    /// Whether a file or directory exists.
    fn exists(&self, path: &Path) -> Result<bool, IoError>;
    /// Whether syncs reach the disk. Without that a power cut loses what was acknowledged.
    fn is_synced(&self) -> bool {
        true
    }
    /// Examines the file at a path, without following a link; `None` if there is none.
    fn probe(&self, path: &Path) -> Result<Option<Found>, IoError>;
    /// The file that a path leads to; `None` if there is none.
    fn identity(&self, path: &Path) -> Result<Option<FileId>, IoError>;
    /// Makes creations, renames and removals in a directory durable.
    fn sync_dir(&self, path: &Path) -> Result<(), IoError>;
    /// Opens a directory, so that its syncs need no descriptor at that moment.
    fn open_dir(&self, path: &Path) -> Result<Box<dyn DiskDir>, IoError>;
    /// The space of the file system that holds a directory.
    fn space(&self, path: &Path) -> Result<DiskSpace, IoError>;
    /// Takes the exclusive lock of a directory (a lock file in it), so that two processes never
    /// share one.
    fn lock_dir(&self, path: &Path) -> Result<Box<dyn DirLock>, IoError>;

    /// Reads a whole file.
    ///
    /// # Errors
    /// If it cannot be opened or read.
    fn read(&self, path: &Path) -> Result<Vec<u8>, IoError> {
        let file = self.open(path)?;
        let len = usize::try_from(file.len()?).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Replaces a file as a whole: temporary file, sync, rename, directory sync.
    ///
    /// # Errors
    /// If any step fails; the old file is then still whole.
    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), IoError> {
        let temporary = path.with_extension("tmp");
        if self.exists(&temporary)? {
            self.remove(&temporary)?;
        }
        let file = self.create(&temporary)?;
        file.write_all_at(bytes, 0)?;
        file.sync()?;
        self.rename(&temporary, path)?;
        self.sync_dir(path.parent().unwrap_or_else(|| Path::new(".")))
    }
}

/// An open file. Shared freely: all calls are positioned.
pub trait DiskFile: Send + Sync + Debug {
    /// Fills `bytes` from `offset`; fails with `UnexpectedEof` if the file ends before.
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), IoError>;
    /// Writes all of `bytes` at `offset`, growing the file as needed.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<(), IoError>;
    /// Makes content and length durable (fdatasync).
    fn sync(&self) -> Result<(), IoError>;
    /// The length.
    fn len(&self) -> Result<u64, IoError>;
    /// Whether its length is zero.
    fn is_empty(&self) -> Result<bool, IoError> {
        Ok(self.len()? == 0)
    }
    /// Truncates or extends the file; new bytes are zero.
    fn set_len(&self, len: u64) -> Result<(), IoError>;
    /// Reserves space, so that later writes neither fail for lack of it nor change the file's
    /// metadata. The length grows to `len`; new bytes are zero.
    fn allocate(&self, len: u64) -> Result<(), IoError>;
    /// The path it was opened by.
    fn path(&self) -> &Path;
}

/// An open directory.
pub trait DiskDir: Send + Sync + Debug {
    /// As [`Disk::sync_dir`].
    fn sync(&self) -> Result<(), IoError>;
}

/// A held directory lock; released when dropped.
pub trait DirLock: Send + Sync + Debug {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_that_finds_no_space_is_not_to_be_tried_again() {
        let is_retried = |op, kind: io::ErrorKind| {
            IoError { op, path: PathBuf::new(), source: kind.into() }.is_out_of_space()
        };
        assert!(is_retried(IoOp::Write, io::ErrorKind::StorageFull));
        assert!(is_retried(IoOp::Resize, io::ErrorKind::QuotaExceeded));
        assert!(!is_retried(IoOp::Sync, io::ErrorKind::StorageFull));
        assert!(!is_retried(IoOp::Write, io::ErrorKind::PermissionDenied));
        let source = io::Error::from_raw_os_error(libc::EMFILE);
        let error = IoError { op: IoOp::Create, path: PathBuf::new(), source };
        assert!(error.is_out_of_descriptors() && !error.is_out_of_space());
    }
}
