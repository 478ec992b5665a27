//! Whether the files that the store goes on in are still those that their names lead to.

use std::path::PathBuf;
use std::sync::Arc;

use keepd_env::{FileId, IoError};
use parking_lot::Mutex;

use crate::revlog::files::Files;
use crate::store::Store;
use crate::view::Views;

/// Looks after the directory's names.
#[derive(Debug)]
pub struct InPlace {
    /// Held while another store takes the directory over: it is looked at next time.
    place: Arc<Mutex<Option<Place>>>,
    views: Views,
}

/// The files of the store that has the directory.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) files: Arc<Files>,
    directory: Option<FileId>,
}

impl Place {
    pub(super) fn of(files: &Arc<Files>) -> Result<Self, IoError> {
        let directory = files.dir.env.disk.identity(&files.dir.path)?;
        Ok(Self { files: Arc::clone(files), directory })
    }
}

impl Store {
    /// A look-out for files that somebody else removes; for any thread. It goes on with the store that
    /// [`Self::replace`] brings.
    ///
    /// # Errors
    /// If the directory cannot be looked at.
    pub fn in_place(&self) -> Result<InPlace, IoError> {
        *self.place.lock() = Some(Place::of(&self.jobs.files)?);
        Ok(InPlace { place: Arc::clone(&self.place), views: self.views() })
    }
}

impl InPlace {
    /// The directory, the manifest or the newest segment, if its name no longer leads to it.
    ///
    /// # Errors
    /// If they cannot be looked at.
    pub fn missing(&self) -> Result<Option<PathBuf>, IoError> {
        let Some(place) = self.place.try_lock() else { return Ok(None) };
        let Some(Place { files, directory }) = place.as_ref() else { return Ok(None) };
        let dir = &files.dir;
        let disk = &dir.env.disk;
        if disk.identity(&dir.path)? != *directory {
            return Ok(Some(dir.path.clone()));
        }
        // A manifest that is just being written is looked at next time.
        if let Some(manifest) = files.manifest.try_lock()
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
