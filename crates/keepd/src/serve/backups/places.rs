//! The places of backups, and what a look at them tells.

use std::sync::Arc;
use std::time::Duration;

use keepd_archive::Moment;
use keepd_archive::catalog::{self, Backup, Listed, Listing};
use keepd_archive::destination::{self, Destination};
use keepd_archive::name::Kind;
use keepd_server::{BackupMetrics, BackupPlace, BackupStep};

use super::failure::Failure;
use crate::backup::place::Machine;

/// Time by which clocks may differ: a backup that is later is of a clock that was wrong, and stands for
/// nothing.
const CLOCKS_DIFFER: Duration = Duration::from_secs(300);
/// BOUND: sidecars that are read at once, and in all, for the newest proven one.
const SIDECARS: (usize, usize) = (4, 64);

/// A place.
pub(super) struct Place {
    /// Its URL for messages.
    pub(super) shown: String,
    pub(super) destination: Arc<dyn Destination>,
    /// Whether the last look failed, which is told once.
    has_failed: bool,
}

/// All of them.
pub(super) struct Places {
    pub(super) all: Vec<Place>,
    pub(super) cluster: u64,
}

impl Places {
    pub(super) fn open(machine: &Machine, urls: &[String], cluster: u64) -> anyhow::Result<Self> {
        let open = |url: &String| {
            let destination = machine.open(url)?;
            Ok(Place { shown: destination::shown(url), destination, has_failed: false })
        };
        Ok(Self { all: urls.iter().map(open).collect::<anyhow::Result<_>>()?, cluster })
    }

    /// The places that have no whole scheduled backup begun at `begin` or later, and those that cannot be
    /// asked.
    pub(super) fn lacking(&self, begin: Moment, now: Moment) -> (Vec<&Place>, Vec<Failure>) {
        let (mut lacking, mut failures) = (Vec::new(), Vec::new());
        for place in &self.all {
            match Listing::read(&*place.destination, Some(self.cluster)) {
                Ok(listing) if is_covered(&listing.backups, begin, now) => {}
                Ok(_) => lacking.push(place),
                Err(error) => failures.push(Failure::new(BackupStep::List, &place.shown, error)),
            }
        }
        (lacking, failures)
    }

    /// Looks at all of them for the metrics; the newest proven backup and its place.
    pub(super) fn refresh(&mut self, metrics: &BackupMetrics) -> Option<(String, Backup)> {
        let mut newest: Option<(String, Backup)> = None;
        for (at, place) in self.all.iter_mut().enumerate() {
            let listing = Listing::read(&*place.destination, Some(self.cluster));
            let found = match listing {
                Ok(listing) => listing.backups,
                Err(error) => {
                    metrics.failed(BackupStep::List);
                    if !std::mem::replace(&mut place.has_failed, true) {
                        tracing::warn!(to = place.shown, %error, "a place of backups cannot be listed");
                    }
                    metrics.update(|facts| facts.places[at].is_readable = false);
                    continue;
                }
            };
            place.has_failed = false;
            let whole = found.iter().rev().find(|it| it.is_whole());
            let proven = newest_proven(&*place.destination, &found);
            let shown = BackupPlace {
                to: place.shown.clone(),
                last_success: whole.map(|it| it.name.time.millis()),
                last_proven: proven.as_ref().map(|it| it.name.time.millis()),
                last_bytes: whole.and_then(|it| it.bytes),
                is_readable: true,
            };
            metrics.update(|facts| facts.places[at] = shown);
            let revision = |backup: &Backup| backup.name.revision;
            let known = newest.as_ref().map(|(_, backup)| revision(backup));
            if let Some(proven) = proven.filter(|it| known.is_none_or(|known| revision(it) > known))
            {
                newest = Some((place.shown.clone(), proven));
            }
        }
        newest
    }
}

/// Whether a whole scheduled backup has the state of `begin` or later.
fn is_covered(listed: &[Listed], begin: Moment, now: Moment) -> bool {
    let differ = i64::try_from(CLOCKS_DIFFER.as_millis()).unwrap_or(i64::MAX);
    let latest = Moment::of_millis(now.millis().saturating_add(differ));
    let is_of_it = |it: &Listed| {
        let time = it.name.time;
        it.is_whole() && it.name.kind == Kind::Scheduled && time >= begin && time <= latest
    };
    listed.iter().any(is_of_it)
}

fn newest_proven(destination: &dyn Destination, listed: &[Listed]) -> Option<Backup> {
    let (at_once, in_all) = SIDECARS;
    let whole: Vec<Listed> =
        listed.iter().rev().filter(|it| it.is_whole()).take(in_all).copied().collect();
    whole
        .chunks(at_once)
        .find_map(|some| catalog::examine(destination, some).into_iter().find(Backup::is_proven))
}

#[cfg(test)]
mod tests {
    use keepd_archive::name::Name;

    use super::*;

    #[test]
    fn only_a_whole_scheduled_backup_of_the_moment_covers_it() {
        let (begin, now) = (Moment::of_millis(1_000_000), Moment::of_millis(2_000_000));
        let whole = |millis| {
            let time = Moment::of_millis(millis);
            let name = Name { time, revision: 5, kind: Kind::Scheduled, is_sealed: true };
            Listed { cluster: 1, name, bytes: Some(9), has_sidecar: true }
        };
        assert!(is_covered(&[whole(999_999), whole(1_000_000)], begin, now));
        assert!(!is_covered(&[whole(999_999)], begin, now));
        // Another member's clock is ahead, a little or by a year.
        assert!(is_covered(&[whole(2_100_000)], begin, now));
        assert!(!is_covered(&[whole(31_536_000_000)], begin, now));
        let interrupted = Listed { has_sidecar: false, ..whole(1_500_000) };
        let gone = Listed { bytes: None, ..whole(1_500_000) };
        let mut asked_for = whole(1_500_000);
        asked_for.name.kind = Kind::OnDemand;
        assert!(!is_covered(&[interrupted, gone, asked_for], begin, now));
    }
}
