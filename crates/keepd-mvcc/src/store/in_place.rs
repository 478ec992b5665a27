//! Whether the files that the store goes on in are still those that their names lead to.

use std::path::PathBuf;
use std::sync::Arc;

use keepd_env::{FileId, IoError};

use crate::revlog::files::Files;
use crate::store::Store;
use crate::view::Views;

/// Looks after the directory's names.
#[derive(Debug)]
pub struct InPlace {
    files: Arc<Files>,
    views: Views,
    directory: Option<FileId>,
}

impl Store {
    /// A look-out for files that somebody else removes; for any thread.
    ///
    /// # Errors
    /// If the directory cannot be looked at.
    pub fn in_place(&self) -> Result<InPlace, IoError> {
        let files = Arc::clone(&self.jobs.files);
        let directory = files.dir.env.disk.identity(&files.dir.path)?;
        Ok(InPlace { files, views: self.views(), directory })
    }
}

impl InPlace {
    /// The directory, the manifest or the newest segment, if its name no longer leads to it.
    ///
    /// # Errors
    /// If they cannot be looked at.
    pub fn missing(&self) -> Result<Option<PathBuf>, IoError> {
        let dir = &self.files.dir;
        let disk = &dir.env.disk;
        if disk.identity(&dir.path)? != self.directory {
            return Ok(Some(dir.path.clone()));
        }
        // A manifest that is just being written is looked at next time.
        if let Some(manifest) = self.files.manifest.try_lock()
            && !disk.exists(manifest.path())?
        {
            return Ok(Some(manifest.path().to_owned()));
        }
        let newest = || self.views.load().segments.list.last().map(|last| last.path.clone());
        let Some(path) = newest() else { return Ok(None) };
        // The newest segment is never rewritten; it may have ceased to be the newest meanwhile.
        Ok((!disk.exists(&path)? && newest().as_ref() == Some(&path)).then_some(path))
    }
}
