//! Damage that was met in files: who meets it gets the error, and everybody can ask what was met.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

/// BOUND: places that are told one by one; the files of further ones are mostly known by then.
const PLACES_MAX: usize = 1000;

/// A part of a file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where the part begins.
    pub offset: u64,
    /// What was found.
    pub reason: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is damaged at byte {}: {}", self.file.display(), self.offset, self.reason)
    }
}

/// What was met so far, shared by all that read.
#[derive(Clone, Debug, Default)]
pub struct Damages(Arc<Mutex<BTreeMap<(PathBuf, u64), String>>>);

impl Damages {
    pub(crate) fn note(&self, file: &Path, offset: u64, reason: &str) {
        let mut places = self.0.lock();
        if places.len() < PLACES_MAX {
            places.entry((file.to_owned(), offset)).or_insert_with(|| reason.to_owned());
        }
    }

    /// Everything that was met, in the order of the files.
    #[must_use]
    pub fn list(&self) -> Vec<Damage> {
        let places = self.0.lock();
        let damage = |((file, offset), reason): (&(PathBuf, u64), &String)| Damage {
            file: file.clone(),
            offset: *offset,
            reason: reason.clone(),
        };
        places.iter().map(damage).collect()
    }

    /// How many places there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether nothing was met.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a part of the file is damaged.
    pub(crate) fn has(&self, file: &Path) -> bool {
        let places = self.0.lock();
        let mut from = places.range((file.to_owned(), 0)..);
        from.next().is_some_and(|((found, _), _)| found == file)
    }

    /// Forgets the places in files that are gone.
    pub(crate) fn retain(&self, exists: impl Fn(&Path) -> bool) {
        self.0.lock().retain(|(file, _), _| exists(file));
    }
}
