//! The batches that no base needs any more.

use super::name::{BatchName, ChainName};
use super::shipped::{Base, Shipped};
use crate::destination::Destination;
use crate::{Error, Moment};

/// Names the batches that may go once only these bases are left, in order. Needed is what lies behind the
/// oldest base of a history. Never named are batches behind the newest proven base, and those of the newest
/// chain that no base leads into yet: one may come.
///
/// With `not_before`, batches of before that moment go too, but never those behind the newest proven base:
/// older bases can then be restored, and no longer be brought forward.
#[must_use]
pub fn unneeded(
    shipped: &Shipped,
    bases: &[Base],
    not_before: Option<Moment>,
) -> Vec<(ChainName, BatchName)> {
    let newest_chain = shipped.runs.last().map(|run| run.chain);
    let proven = bases.iter().filter(|base| base.is_proven).max_by_key(|base| base.time);
    let mut going = Vec::new();
    for run in &shipped.runs {
        let is_newest = newest_chain == Some(run.chain);
        let places = bases.iter().filter_map(|base| base.place_in(run));
        let oldest = places.min();
        let newest_proven = proven.and_then(|base| base.place_in(run));
        for found in &run.batches {
            let name = found.name;
            let is_last = is_newest && name.last == run.last;
            let is_behind = |place: Option<u64>| place.is_some_and(|place| name.last > place);
            let is_needed = match oldest {
                Some(_) => is_behind(oldest),
                None => is_newest,
            };
            let is_old = not_before.is_some_and(|time| name.until < time);
            let stays = is_last || is_behind(newest_proven) || (is_needed && !is_old);
            if !stays {
                going.push((run.chain, name));
            }
        }
    }
    going
}

/// The moment so many days ago.
#[must_use]
pub fn days_before(now: Moment, days: u32) -> Moment {
    Moment::of_millis(now.millis() - i64::from(days) * 86_400_000)
}

/// The result of a removal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Batches that were removed.
    pub removed: usize,
    /// Batches that the place keeps, and its words for the first of them.
    pub refused: Option<(usize, String)>,
}

/// Removes batches. A place that refuses to delete is no error.
///
/// # Errors
/// If the place fails otherwise.
pub fn remove_all(
    destination: &dyn Destination,
    cluster: u64,
    batches: &[(ChainName, BatchName)],
) -> Result<Pruned, Error> {
    let mut pruned = Pruned::default();
    for (number, (chain, name)) in batches.iter().enumerate() {
        match remove(destination, cluster, chain, name) {
            Ok(()) => pruned.removed += 1,
            Err(error) if error.is_refusal() => {
                // It would refuse all of them.
                pruned.refused = Some((batches.len() - number, error.to_string()));
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(pruned)
}

/// Removes a batch.
///
/// # Errors
/// If the place refuses.
pub fn remove(
    destination: &dyn Destination,
    cluster: u64,
    chain: &ChainName,
    name: &BatchName,
) -> Result<(), Error> {
    destination.remove(&name.key(cluster, chain))?;
    keepd_env::failpoint!(BackupLogPruned);
    Ok(())
}
