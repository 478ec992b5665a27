//! The system's files.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::disk::{
    DirLock, Disk, DiskDir, DiskFile, DiskSpace, FileId, Found, IoError, IoOp, LOCK_NAME,
};

/// The unit in which the system counts what a file takes.
const STAT_BLOCK_BYTES: u64 = 512;
/// The bytes written at once where the file system cannot reserve space.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// The system's files.
#[derive(Debug)]
pub struct RealDisk {
    is_synced: bool,
}

impl RealDisk {
    /// The file system.
    #[must_use]
    pub const fn new() -> Self {
        Self { is_synced: true }
    }

    /// The file system, with every sync left out, for data that may be lost (`--unsafe-no-fsync`).
    #[must_use]
    pub const fn unsynced() -> Self {
        Self { is_synced: false }
    }

    fn opened(&self, file: File, path: &Path) -> Box<dyn DiskFile> {
        Box::new(RealFile { file, path: path.to_owned(), is_synced: self.is_synced })
    }
}

impl Default for RealDisk {
    fn default() -> Self {
        Self::new()
    }
}

fn failed(op: IoOp, path: &Path) -> impl FnOnce(io::Error) -> IoError + use<> {
    let path = path.to_owned();
    move |source| IoError { op, path, source }
}

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> Result<(), IoError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed(IoOp::Create, path))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>, IoError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(failed(IoOp::Create, path))?;
        Ok(self.opened(file, path))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn DiskFile>, IoError> {
        let file = File::open(path).map_err(failed(IoOp::Open, path))?;
        Ok(self.opened(file, path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), IoError> {
        fs::rename(from, to).map_err(failed(IoOp::Rename, from))
    }

    fn cut(&self, path: &Path, len: u64) -> Result<(), IoError> {
        let file = OpenOptions::new().write(true).open(path).map_err(failed(IoOp::Open, path))?;
        file.set_len(len).map_err(failed(IoOp::Resize, path))
    }

    fn remove(&self, path: &Path) -> Result<(), IoError> {
        fs::remove_file(path).map_err(failed(IoOp::Remove, path))
    }

    fn remove_dir_all(&self, path: &Path) -> Result<(), IoError> {
        fs::remove_dir_all(path).map_err(failed(IoOp::Remove, path))
    }

    fn list(&self, path: &Path) -> Result<Vec<String>, IoError> {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(IoOp::Stat, path)(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed(IoOp::Stat, path))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> Result<bool, IoError> {
        path.try_exists().map_err(failed(IoOp::Stat, path))
    }

    fn is_synced(&self) -> bool {
        self.is_synced
    }

    #[expect(unsafe_code, reason = "std cannot ask who the process runs as")]
    fn probe(&self, path: &Path) -> Result<Option<Found>, IoError> {
        let meta = match fs::symlink_metadata(path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(IoOp::Stat, path)(error)),
        };
        // SAFETY: it has no arguments and cannot fail.
        let user = unsafe { libc::geteuid() };
        Ok(Some(Found {
            is_dir: meta.is_dir(),
            is_own_file: meta.is_file() && meta.uid() == user,
            len: meta.len(),
            reserved_bytes: meta.blocks() * STAT_BLOCK_BYTES,
        }))
    }

    fn identity(&self, path: &Path) -> Result<Option<FileId>, IoError> {
        match fs::metadata(path) {
            Ok(meta) => Ok(Some(FileId { device: meta.dev(), inode: meta.ino() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(IoOp::Stat, path)(error)),
        }
    }

    fn sync_dir(&self, path: &Path) -> Result<(), IoError> {
        if !self.is_synced {
            return Ok(());
        }
        let dir = self.open_dir(path).map_err(|error| {
            // Want of a descriptor says nothing of what is durable.
            let op = if error.is_out_of_descriptors() { IoOp::Open } else { IoOp::Sync };
            IoError { op, ..error }
        })?;
        dir.sync()
    }

    fn open_dir(&self, path: &Path) -> Result<Box<dyn DiskDir>, IoError> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let dir = File::open(path).map_err(failed(IoOp::Open, path))?;
        Ok(Box::new(RealDir { dir, path: path.to_owned(), is_synced: self.is_synced }))
    }

    #[expect(unsafe_code, reason = "std cannot ask for a file system's space")]
    fn space(&self, path: &Path) -> Result<DiskSpace, IoError> {
        use std::os::unix::ffi::OsStrExt;
        let name = CString::new(path.as_os_str().as_bytes())
            .map_err(|error| failed(IoOp::Stat, path)(io::Error::other(error)))?;
        // SAFETY: all fields are integers, for which zero is a value.
        let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: the name ends with a zero, and both pointers outlive the call.
        if unsafe { libc::statvfs(name.as_ptr(), &raw mut stat) } != 0 {
            return Err(failed(IoOp::Stat, path)(io::Error::last_os_error()));
        }
        Ok(DiskSpace {
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            available_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }

    fn lock_dir(&self, path: &Path) -> Result<Box<dyn DirLock>, IoError> {
        let path = path.join(LOCK_NAME);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed(IoOp::Lock, &path))?;
        file.try_lock().map_err(|error| failed(IoOp::Lock, &path)(error.into()))?;
        Ok(Box::new(RealLock { _file: file }))
    }
}

/// Makes a call again for as long as signals interrupt it, as they do on tmpfs.
fn until_not_interrupted(mut call: impl FnMut() -> libc::c_int) -> libc::c_int {
    loop {
        let result = call();
        if result != libc::EINTR {
            return result;
        }
    }
}

/// A locked lock file.
#[derive(Debug)]
struct RealLock {
    _file: File,
}

impl DirLock for RealLock {}

/// An open directory with its path, for errors.
#[derive(Debug)]
struct RealDir {
    dir: File,
    path: PathBuf,
    is_synced: bool,
}

impl DiskDir for RealDir {
    fn sync(&self) -> Result<(), IoError> {
        if self.is_synced {
            self.dir.sync_all().map_err(failed(IoOp::Sync, &self.path))?;
        }
        Ok(())
    }
}

/// An open file with its path, for errors.
#[derive(Debug)]
struct RealFile {
    file: File,
    path: PathBuf,
    is_synced: bool,
}

impl RealFile {
    /// Reserves space where the file system cannot: by writing zeros after the end.
    fn fill(&self, len: u64) -> io::Result<()> {
        let mut at = self.file.metadata()?.len();
        while at < len {
            let rest = usize::try_from(len - at).unwrap_or(usize::MAX);
            let zeros = &ZEROS[..rest.min(ZEROS.len())];
            self.file.write_all_at(zeros, at)?;
            at += zeros.len() as u64;
        }
        Ok(())
    }
}

impl DiskFile for RealFile {
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), IoError> {
        self.file.read_exact_at(bytes, offset).map_err(failed(IoOp::Read, &self.path))
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<(), IoError> {
        self.file.write_all_at(bytes, offset).map_err(failed(IoOp::Write, &self.path))
    }

    fn sync(&self) -> Result<(), IoError> {
        if !self.is_synced {
            return Ok(());
        }
        self.file.sync_data().map_err(failed(IoOp::Sync, &self.path))
    }

    fn len(&self) -> Result<u64, IoError> {
        self.file.metadata().map(|meta| meta.len()).map_err(failed(IoOp::Stat, &self.path))
    }

    fn set_len(&self, len: u64) -> Result<(), IoError> {
        self.file.set_len(len).map_err(failed(IoOp::Resize, &self.path))
    }

    #[expect(unsafe_code, reason = "std has no fallocate")]
    fn allocate(&self, len: u64) -> Result<(), IoError> {
        use std::os::fd::AsRawFd;
        let wanted = libc::off_t::try_from(len)
            .map_err(|error| failed(IoOp::Resize, &self.path)(io::Error::other(error)))?;
        let result = until_not_interrupted(|| {
            // SAFETY: the descriptor is open for writing and owned by `self` during the call.
            unsafe { libc::posix_fallocate(self.file.as_raw_fd(), 0, wanted) }
        });
        match result {
            0 => Ok(()),
            libc::EOPNOTSUPP => self.fill(len).map_err(failed(IoOp::Resize, &self.path)),
            error => Err(failed(IoOp::Resize, &self.path)(io::Error::from_raw_os_error(error))),
        }
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_space_cannot_be_reserved_zeros_are_written_behind_the_end() {
        let path = std::env::temp_dir().join(format!("keepd-fill-{}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        let file = RealFile { file, path: path.clone(), is_synced: true };
        file.write_all_at(b"abc", 0).unwrap();
        file.fill(200_000).unwrap();
        file.fill(10).unwrap();
        let content = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!((content.len(), &content[..5]), (200_000, b"abc\0\0".as_slice()));
    }

    /// Neither can be synced, so that an error shows that it was tried.
    #[test]
    fn syncs_are_left_out_only_if_asked() {
        for (disk, is_synced) in [(RealDisk::new(), true), (RealDisk::unsynced(), false)] {
            let file = disk.open(Path::new("/dev/null")).unwrap();
            assert_eq!(file.sync().is_err(), is_synced);
            assert_eq!(disk.sync_dir(Path::new("/proc")).is_err(), is_synced);
            assert_eq!(disk.is_synced(), is_synced);
        }
    }

    #[test]
    fn an_interrupted_reservation_is_made_again() {
        let mut results = [libc::EINTR, libc::EINTR, 0, libc::ENOSPC].into_iter();
        assert_eq!(until_not_interrupted(|| results.next().unwrap()), 0);
        assert_eq!(until_not_interrupted(|| results.next().unwrap()), libc::ENOSPC);
    }

    #[test]
    fn a_file_system_has_space_and_a_missing_directory_does_not() {
        let disk = RealDisk::new();
        let space = disk.space(&std::env::temp_dir()).unwrap();
        assert!(space.total_bytes > 0 && space.available_bytes <= space.total_bytes, "{space:?}");
        assert!(disk.space(Path::new("/no/such/directory")).unwrap_err().is_not_found());
    }
}
