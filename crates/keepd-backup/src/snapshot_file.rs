//! A snapshot file on disk: the bbolt image and, mostly, a SHA-256 after it.

use std::io;
use std::path::Path;

use keepd_bolt::{ReadAt, Reader};
use keepd_env::{Disk, DiskFile, Env};
use sha2::{Digest, Sha256};

use crate::format::{TRAILER_LEN, TRAILER_MODULUS};
use crate::snapshot_meta::SnapshotMeta;
use crate::{Error, Meter, Progress, RestoreOptions, Stage};

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;

/// An open file.
#[derive(Debug)]
pub(crate) struct SnapshotFile {
    file: Box<dyn DiskFile>,
    len: u64,
}

impl ReadAt for SnapshotFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset).map_err(|error| error.source)
    }
}

impl SnapshotFile {
    /// Opens a file; `call` names the system call that etcd's tool would fail with.
    pub(crate) fn open(disk: &dyn Disk, path: &Path, call: &'static str) -> Result<Self, Error> {
        let file = disk.open(path).map_err(|error| {
            if error.is_not_found() {
                Error::NotFound { call, path: path.to_owned() }
            } else {
                error.into()
            }
        })?;
        Self::of(file)
    }

    /// A file that is open already.
    pub(crate) fn of(file: Box<dyn DiskFile>) -> Result<Self, Error> {
        let len = file.len()?;
        Ok(Self { file, len })
    }

    /// Compares the SHA-256 after the image with the image's.
    pub(crate) fn check_sha256(&self, progress: &mut dyn FnMut(Progress)) -> Result<(), Error> {
        if self.len % TRAILER_MODULUS != TRAILER_LEN {
            return Err(Error::MissingHash);
        }
        let total = self.len - TRAILER_LEN;
        let mut expected = [0; 32];
        self.file.read_exact_at(&mut expected, total)?;
        let mut sha256 = Sha256::new();
        let mut bytes = vec![0; READ_BYTES];
        let mut meter = Meter::new(Stage::Verify, total, progress);
        let mut done = 0;
        while done < total {
            let len = usize::try_from(total - done).unwrap_or(READ_BYTES).min(READ_BYTES);
            let chunk = bytes.get_mut(..len).expect("no longer than the buffer");
            self.file.read_exact_at(chunk, done)?;
            sha256.update(&*chunk);
            done += len as u64;
            meter.add(len as u64);
        }
        meter.finish();
        let found: [u8; 32] = sha256.finalize().into();
        if found != expected {
            return Err(Error::HashMismatch { expected, found });
        }
        Ok(())
    }

    /// Copies the file as it is.
    pub(crate) fn copy_to(&self, to: &dyn DiskFile) -> Result<(), Error> {
        let mut bytes = vec![0; READ_BYTES];
        let mut done = 0;
        while done < self.len {
            let len = usize::try_from(self.len - done).unwrap_or(READ_BYTES).min(READ_BYTES);
            let chunk = bytes.get_mut(..len).expect("no longer than the buffer");
            self.file.read_exact_at(chunk, done)?;
            to.write_all_at(chunk, done)?;
            done += len as u64;
        }
        to.sync()?;
        Ok(())
    }
}

/// A snapshot file that has been checked.
pub(crate) struct CheckedSnapshot {
    /// The bbolt file.
    pub(crate) reader: Reader<SnapshotFile>,
    /// Everything in it but its records.
    pub(crate) meta: SnapshotMeta,
}

impl CheckedSnapshot {
    /// Opens a file and checks its hash, its structure and its metadata, in etcd's order.
    pub(crate) fn open(
        env: &Env,
        snapshot: &Path,
        options: &RestoreOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, Error> {
        Self::check(SnapshotFile::open(&*env.disk, snapshot, "open")?, options, progress)
    }

    /// Checks a file that is open already.
    pub(crate) fn check(
        file: SnapshotFile,
        options: &RestoreOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, Error> {
        if !options.skip_hash_check {
            file.check_sha256(progress)?;
        }
        let reader = Reader::open(file)?;
        check_structure(&reader)?;
        let meta = SnapshotMeta::read(&reader)?;
        if meta.auth_enabled && !options.without_authentication {
            return Err(Error::AuthEnabled);
        }
        Ok(Self { reader, meta })
    }
}

/// Refuses a file whose structure is not sound.
pub(crate) fn check_structure(reader: &Reader<SnapshotFile>) -> Result<(), Error> {
    let report = reader.check()?;
    if report.is_clean() {
        return Ok(());
    }
    let lines: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    Err(Error::Integrity { count: report.count, findings: lines.join("\n") })
}
