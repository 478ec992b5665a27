//! Damage that was met in files: who meets it gets the error, and everybody can ask what was met.

use std::collections::{BTreeMap, BTreeSet};
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
    /// The offset at which the part begins.
    pub offset: u64,
    /// The finding.
    pub reason: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is damaged at byte {}: {}", self.file.display(), self.offset, self.reason)
    }
}

/// The damage that was met so far, shared by all readers.
#[derive(Clone, Debug, Default)]
pub struct Damages(Arc<Mutex<Met>>);

#[derive(Debug, Default)]
struct Met {
    places: BTreeMap<(PathBuf, u64), Place>,
    /// Files with a damaged part, also of places that are not kept one by one. BOUND: the files.
    files: BTreeSet<PathBuf>,
}

#[derive(Debug)]
struct Place {
    reason: String,
    /// [`Damages::untold`] has given it out.
    is_told: bool,
}

impl Damages {
    pub(crate) fn note(&self, file: &Path, offset: u64, reason: &str) {
        let mut met = self.0.lock();
        if !met.files.contains(file) {
            met.files.insert(file.to_owned());
        }
        if met.places.len() < PLACES_MAX {
            let place = || Place { reason: reason.to_owned(), is_told: false };
            met.places.entry((file.to_owned(), offset)).or_insert_with(place);
        }
    }

    /// Everything that was met, in the order of the files.
    #[must_use]
    pub fn list(&self) -> Vec<Damage> {
        self.0.lock().places.iter().map(damage_of).collect()
    }

    /// Places that this call has not given out before, to be logged: each place once.
    #[must_use]
    pub fn untold(&self) -> Vec<Damage> {
        let mut met = self.0.lock();
        let untold = met.places.iter_mut().filter(|(_, place)| !place.is_told);
        let tell = |(at, place): (&(PathBuf, u64), &mut Place)| {
            place.is_told = true;
            damage_of((at, place))
        };
        untold.map(tell).collect()
    }

    /// The number of places.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().places.len()
    }

    /// Whether nothing was met.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a part of the file is damaged.
    pub(crate) fn has(&self, file: &Path) -> bool {
        self.0.lock().files.contains(file)
    }

    /// The offsets of the damaged parts of a file.
    pub(crate) fn of(&self, file: &Path) -> Vec<u64> {
        let met = self.0.lock();
        let places = met.places.range((file.to_owned(), 0)..);
        places.take_while(|((of, _), _)| of == file).map(|((_, offset), _)| *offset).collect()
    }

    /// Forgets the places in files that are gone.
    pub(crate) fn retain(&self, exists: impl Fn(&Path) -> bool) {
        let mut met = self.0.lock();
        met.places.retain(|(file, _), _| exists(file));
        met.files.retain(|file| exists(file));
    }
}

fn damage_of(((file, offset), place): (&(PathBuf, u64), &Place)) -> Damage {
    Damage { file: file.clone(), offset: *offset, reason: place.reason.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_is_told_once_in_whatever_order_they_are_met() {
        let damages = Damages::default();
        let told = || damages.untold().iter().map(|it| it.offset).collect::<Vec<_>>();
        damages.note(Path::new("b"), 7, "first");
        assert_eq!(told(), [7]);
        damages.note(Path::new("b"), 7, "again");
        damages.note(Path::new("a"), 5, "in front of what was told");
        assert_eq!(told(), [5]);
        damages.note(Path::new("b"), 9, "last");
        damages.retain(|file| file == Path::new("b"));
        assert_eq!((told(), told()), (vec![9], vec![]));
    }

    #[test]
    fn a_file_counts_as_damaged_beyond_the_places_that_are_kept() {
        let damages = Damages::default();
        (0..=PLACES_MAX as u64).for_each(|at| damages.note(Path::new("many"), at, "broken"));
        damages.note(Path::new("another"), 1, "broken");
        assert_eq!(damages.len(), PLACES_MAX);
        assert!(damages.has(Path::new("another")) && !damages.has(Path::new("whole")));
    }
}
