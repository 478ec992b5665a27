//! The store's directory: the names of its files, opening them, and the frames that go into them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use keepd_crypto::{
    FILE_HEADER_LEN, FRAME_PLAIN_MAX, FileError, FileKeys, FileKind, FileSealer, FrameTooLong,
};
use keepd_env::{DiskFile, Env, IoError};

use crate::damage::Damages;
use crate::disk_full::{DiskFullHook, retry_when_full};
use crate::error::Error;
use crate::gate::Gate;

/// The longest payload of a frame.
///
/// Small in unit tests, so that nothing gets by that grows with the data.
const FRAME_MAX: usize = if cfg!(test) { 4096 } else { FRAME_PLAIN_MAX };

/// Appends a frame to what is written to `file`.
pub(crate) fn seal_frame(
    file: &Path,
    sealer: &FileSealer,
    ordinal: u64,
    kind: u8,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let sealed = if payload.len() > FRAME_MAX {
        Err(FrameTooLong { len: payload.len() })
    } else {
        sealer.seal_frame(ordinal, kind, payload, out)
    };
    sealed.map_err(|source| Error::TooLong { file: file.to_owned(), source })
}

/// The kinds of files in the directory, by the first part of their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileName {
    Manifest(u64),
    Segment(u64),
    Checkpoint(u64),
    /// A manifest that was not finished.
    Unfinished,
}

impl FileName {
    /// Reads a file name; `None` if the file is not one of ours.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        if name.starts_with("MANIFEST-") && name.ends_with(".tmp") {
            return Some(Self::Unfinished);
        }
        let number = |text: &str| text.parse().ok();
        if let Some(n) = name.strip_prefix("MANIFEST-") {
            return number(n).map(Self::Manifest);
        }
        if let Some(id) = name.strip_prefix("seg-").and_then(|rest| rest.strip_suffix(".kd")) {
            return number(id).map(Self::Segment);
        }
        let id = name.strip_prefix("idx-").and_then(|rest| rest.strip_suffix(".kd"))?;
        number(id).map(Self::Checkpoint)
    }

    /// The file in `dir`.
    pub(crate) fn path(self, dir: &Path) -> PathBuf {
        dir.join(match self {
            Self::Manifest(n) => format!("MANIFEST-{n:08}"),
            Self::Segment(id) => format!("seg-{id:08}.kd"),
            Self::Checkpoint(id) => format!("idx-{id:08}.kd"),
            Self::Unfinished => "MANIFEST-new.tmp".to_owned(),
        })
    }
}

/// The directory.
#[derive(Debug)]
pub(crate) struct Directory {
    /// Its disk is behind the gate.
    pub(crate) env: Env,
    pub(crate) gate: Arc<Gate>,
    pub(crate) path: PathBuf,
    pub(crate) keys: FileKeys,
    /// Called when the disk is full; not set while the store is opened.
    pub(crate) disk_full_hook: OnceLock<DiskFullHook>,
    /// Damage that was met in its files.
    pub(crate) damages: Damages,
}

/// An open file with its sealer.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) sealer: FileSealer,
    pub(crate) len: u64,
    /// The register of damage.
    pub(crate) damages: Damages,
}

impl Directory {
    pub(crate) fn new(env: Env, path: PathBuf, keys: FileKeys) -> Self {
        let gate = Arc::new(Gate::new(Arc::clone(&env.disk)));
        let env = Env { disk: Arc::<Gate>::clone(&gate), ..env };
        let (disk_full_hook, damages) = (OnceLock::new(), Damages::default());
        Self { env, gate, path, keys, disk_full_hook, damages }
    }

    /// Disk, clock and randomness as they were given, without the gate.
    pub(crate) fn outer_env(&self) -> Env {
        Env { disk: self.gate.disk(), ..self.env.clone() }
    }

    /// Makes a call that must succeed once there is space.
    pub(crate) fn retry_when_full<T>(
        &self,
        call: impl FnMut() -> Result<T, IoError>,
    ) -> Result<T, IoError> {
        retry_when_full(self.disk_full_hook.get(), call)
    }

    /// The path of a file.
    pub(crate) fn file(&self, name: FileName) -> PathBuf {
        name.path(&self.path)
    }

    /// Opens a file and reads its header.
    pub(crate) fn open(&self, kind: FileKind, id: u64, name: FileName) -> Result<Opened, Error> {
        let path = self.file(name);
        let file = self.env.disk.open(&path).map_err(|error| {
            if error.is_not_found() { Error::Missing { file: path.clone() } } else { error.into() }
        })?;
        let len = file.len()?;
        let mut header = [0; FILE_HEADER_LEN];
        if len < FILE_HEADER_LEN as u64 {
            let reason = "the file ends inside its header";
            return Err(Error::Corrupt { file: path, offset: len, reason });
        }
        file.read_exact_at(&mut header, 0)?;
        let sealer =
            self.keys.open(kind, id, &header).map_err(|source| match header_reason(&source) {
                Some(reason) => Error::Corrupt { file: path.clone(), offset: 0, reason },
                None => Error::Key { file: path.clone(), source },
            })?;
        let damages = self.damages.clone();
        Ok(Opened { path, file: file.into(), sealer, len, damages })
    }

    /// Removes a file that nothing names any more.
    pub(crate) fn remove(&self, name: FileName) -> Result<(), Error> {
        match self.env.disk.remove(&self.file(name)) {
            Err(error) if error.is_not_found() => Ok(()),
            other => Ok(other?),
        }
    }
}

/// The damage in a header; `None` if it is whole and only not ours to open.
const fn header_reason(error: &FileError) -> Option<&'static str> {
    match error {
        FileError::Short { .. } => Some("the file ends inside its header"),
        FileError::Blank => Some("the file's header was never written"),
        FileError::NotOurs => Some("the file does not begin as one of keepd's"),
        FileError::BadCrc => Some("the file's header is damaged"),
        FileError::WrongKind { .. } => Some("the file's header is another kind's"),
        FileError::WrongFileId { .. } => Some("the file's header is another file's"),
        FileError::UnsupportedVersion { .. }
        | FileError::UnknownDataKey { .. }
        | FileError::PlainRefused
        | FileError::PlainUntrusted => None,
    }
}
