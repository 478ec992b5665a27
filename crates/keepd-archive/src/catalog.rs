//! The backups of a destination, with what their sidecars tell and what is wrong with them.

use std::collections::BTreeMap;

use crate::destination::{Destination, Entry, OBJECTS_MAX, is_plain};
use crate::name::{Kind, LOG_FOLDER, Name, Part, parse_cluster, parse_key};
use crate::retention::{Candidate, Policy, Reason};
use crate::sidecar::{self, Sidecar};
use crate::{Error, Moment};

/// BOUND: foreign objects that are named.
const FOREIGN_MAX: usize = 100;

/// A backup as it is found.
#[derive(Clone, Debug)]
pub struct Backup {
    /// The cluster.
    pub cluster: u64,
    /// Its name.
    pub name: Name,
    /// The size of its object; none if only the sidecar is there.
    pub bytes: Option<u64>,
    /// Its sidecar, or why there is none.
    pub sidecar: Result<Sidecar, Fault>,
}

/// Reason why a backup cannot be relied on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The upload has not ended, or was interrupted.
    NoSidecar,
    /// The sidecar cannot be read.
    Unreadable(String),
}

impl Backup {
    /// Whether it was proven to restore.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.fault().is_none() && self.sidecar.as_ref().is_ok_and(|it| it.proven.is_some())
    }

    /// A fault, as far as a listing shows one.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        match (&self.sidecar, self.bytes) {
            (_, None) => Some("the object is missing".to_owned()),
            (Err(Fault::NoSidecar), _) => {
                Some("no sidecar: the upload was interrupted, or is still going on".to_owned())
            }
            (Err(Fault::Unreadable(reason)), _) => Some(reason.clone()),
            (Ok(sidecar), Some(bytes)) if sidecar.bytes != bytes => {
                Some(format!("the object has {bytes} bytes, and {} were written", sidecar.bytes))
            }
            _ => None,
        }
    }
}

/// A backup as the names of its objects tell of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The cluster.
    pub cluster: u64,
    /// Its name.
    pub name: Name,
    /// The size of its object; none if only the sidecar is there.
    pub bytes: Option<u64>,
    /// Whether its sidecar is there.
    pub has_sidecar: bool,
}

impl Listed {
    /// Whether both objects are there; only then it counts.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.bytes.is_some() && self.has_sidecar
    }
}

/// The names in a destination: what one listing tells, however many backups there are.
#[derive(Debug, Default)]
pub struct Listing {
    /// The backups, by cluster and time.
    pub backups: Vec<Listed>,
    /// Objects that are none; the first of them.
    pub foreign: Vec<String>,
    /// The number of them.
    pub foreign_count: usize,
}

impl Listing {
    /// Lists a destination; the backups of one cluster only, if that is asked for.
    ///
    /// # Errors
    /// If it cannot be listed.
    pub fn read(destination: &dyn Destination, cluster: Option<u64>) -> Result<Self, Error> {
        let mut listing = Self::default();
        let mut found: BTreeMap<(u64, String), Listed> = BTreeMap::new();
        for Entry { key, bytes } in listed(destination)? {
            let Some((of, name, part)) = parse_key(&key) else {
                listing.foreign_count += 1;
                if listing.foreign.len() < FOREIGN_MAX {
                    listing.foreign.push(key);
                }
                continue;
            };
            if cluster.is_some_and(|cluster| cluster != of) {
                continue;
            }
            let first = Listed { cluster: of, name, bytes: None, has_sidecar: false };
            let entry = found.entry((of, name.to_string())).or_insert(first);
            match part {
                Part::Object => entry.bytes = Some(bytes),
                Part::Sidecar => entry.has_sidecar = true,
            }
        }
        listing.backups = found.into_values().collect();
        Ok(listing)
    }
}

/// Reads the sidecars of listed backups, with what they tell.
pub fn examine(destination: &dyn Destination, listed: &[Listed]) -> Vec<Backup> {
    let with_sidecar = listed.iter().filter(|it| it.has_sidecar);
    let keys: Vec<String> = with_sidecar.map(|it| it.name.sidecar_key(it.cluster)).collect();
    let mut sidecars = destination.get_all(&keys, sidecar::BYTES_MAX).into_iter();
    let mut examined = |it: &Listed| {
        let Listed { cluster, name, bytes, has_sidecar } = *it;
        let sidecar = if has_sidecar {
            let read = sidecars.next().unwrap_or(Err(Error::Truncated));
            let decoded = read.and_then(|bytes| Sidecar::decode(cluster, &name, &bytes));
            decoded.map_err(|error| Fault::Unreadable(error.to_string()))
        } else {
            Err(Fault::NoSidecar)
        };
        Backup { cluster, name, bytes, sidecar }
    };
    listed.iter().map(&mut examined).collect()
}

/// Everything in a destination.
#[derive(Debug, Default)]
pub struct Catalog {
    /// The backups, by cluster and time.
    pub backups: Vec<Backup>,
    /// Objects that are none; the first of them.
    pub foreign: Vec<String>,
    /// The number of them.
    pub foreign_count: usize,
}

impl Catalog {
    /// Reads a destination; of one cluster only, if that is asked for.
    ///
    /// # Errors
    /// If it cannot be listed. A sidecar that cannot be read is a fault of its backup.
    pub fn read(destination: &dyn Destination, cluster: Option<u64>) -> Result<Self, Error> {
        let Listing { backups, foreign, foreign_count } = Listing::read(destination, cluster)?;
        Ok(Self { backups: examine(destination, &backups), foreign, foreign_count })
    }

    /// The backups in the order in which they should be proven again: those that never were, then those
    /// whose proof is the longest ago.
    #[must_use]
    pub fn by_proof(&self) -> Vec<&Backup> {
        let mut backups: Vec<&Backup> = self.backups.iter().collect();
        backups.sort_by_key(|backup| {
            let proven = backup.sidecar.as_ref().ok().and_then(|it| it.proven.as_ref());
            (proven.map(|proven| proven.time), backup.name.time)
        });
        backups
    }

    /// The clusters that have backups here.
    #[must_use]
    pub fn clusters(&self) -> Vec<u64> {
        let mut clusters: Vec<u64> = self.backups.iter().map(|backup| backup.cluster).collect();
        clusters.dedup();
        clusters
    }

    /// The newest backup without a fault; proven, unless any will do.
    #[must_use]
    pub fn newest(&self, must_be_proven: bool) -> Option<&Backup> {
        let fits = |it: &&Backup| it.fault().is_none() && (it.is_proven() || !must_be_proven);
        self.backups.iter().rev().find(fits)
    }

    /// The reasons for which each backup stays under a policy; one without a reason goes. The clusters are judged each for
    /// itself.
    #[must_use]
    pub fn judge(&self, policy: &Policy, now: Moment) -> Vec<Vec<Reason>> {
        let mut reasons = Vec::with_capacity(self.backups.len());
        for of_cluster in self.backups.chunk_by(|one, other| one.cluster == other.cluster) {
            let candidate = |it: &Backup| Candidate {
                time: it.name.time,
                kind: it.name.kind,
                is_proven: it.is_proven(),
            };
            let candidates: Vec<Candidate> = of_cluster.iter().map(candidate).collect();
            reasons.extend(policy.judge(now, &candidates));
        }
        reasons
    }
}

/// Removes what interrupted runs have left of a cluster's scheduled backups that were begun before `before`:
/// objects without a sidecar, and what did not even become one. The number of them.
///
/// # Errors
/// If the place refuses.
pub fn clear_interrupted(
    destination: &dyn Destination,
    cluster: u64,
    before: Moment,
) -> Result<usize, Error> {
    let is_old =
        |of: u64, name: &Name| of == cluster && name.kind == Kind::Scheduled && name.time < before;
    let listed = Listing::read(destination, Some(cluster))?.backups;
    let listed = listed.into_iter().filter(|it| !it.has_sidecar && is_old(it.cluster, &it.name));
    let mut keys: Vec<String> = listed.map(|it| it.name.key(cluster)).collect();
    keys.extend(destination.interrupted()?.into_iter().filter(|key| {
        let mut words = key.rsplitn(3, '.').skip(2);
        let of = words.next().and_then(parse_key);
        of.is_some_and(|(of, name, _)| is_old(of, &name))
    }));
    for key in &keys {
        destination.remove(key)?;
    }
    Ok(keys.len())
}

/// Everything in a destination but the shipped logs, which are many.
fn listed(destination: &dyn Destination) -> Result<Vec<Entry>, Error> {
    let top = destination.names("")?;
    let entry = |key| Entry { key, bytes: 0 };
    let mut entries: Vec<Entry> = top.objects.into_iter().map(entry).collect();
    for folder in top.folders {
        if !is_plain(&folder) {
            entries.push(entry(folder));
            continue;
        }
        if parse_cluster(&folder).is_none() {
            entries.extend(destination.list_below(&folder, None)?);
            continue;
        }
        let within = destination.names(&folder)?;
        entries.extend(within.objects.into_iter().map(|name| entry(format!("{folder}/{name}"))));
        for inner in within.folders.iter().filter(|name| *name != LOG_FOLDER) {
            if !is_plain(inner) {
                entries.push(entry(format!("{folder}/{inner}")));
                continue;
            }
            entries.extend(destination.list_below(&format!("{folder}/{inner}"), None)?);
        }
        if entries.len() > OBJECTS_MAX {
            return Err(Error::TooManyObjects { at: destination.place(""), max: OBJECTS_MAX });
        }
    }
    Ok(entries)
}

/// Removes a backup: the object first, so that a sidecar never makes something else of what is left.
///
/// # Errors
/// If the place refuses.
pub fn remove(destination: &dyn Destination, backup: &Backup) -> Result<(), Error> {
    keepd_env::failpoint!(BackupBeforePrune);
    destination.remove(&backup.name.key(backup.cluster))?;
    keepd_env::failpoint!(BackupPruneHalf);
    destination.remove(&backup.name.sidecar_key(backup.cluster))?;
    keepd_env::failpoint!(BackupAfterPrune);
    Ok(())
}
