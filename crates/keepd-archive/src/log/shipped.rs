//! The log in a destination: what can be reached with it, and from which base.

use std::collections::BTreeMap;

use keepd_backup::EndOfReplay;

use super::batch::Batch;
use super::name::{BatchName, ChainName, log_folder};
use crate::catalog::Backup;
use crate::destination::{Destination, Entry};
use crate::sidecar::LogFacts;
use crate::{Error, Moment};

/// BOUND: batches without a mark that are passed over in search of one.
const MARKLESS_MAX: usize = 10_000;

/// A batch as it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: BatchName,
    /// The size of its object.
    pub bytes: u64,
}

/// Batches of a chain without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The chain.
    pub chain: ChainName,
    /// The batches, in the order of the log; one at least.
    pub batches: Vec<Found>,
    /// The last entry.
    pub last: u64,
}

/// The log of a cluster in a destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shipped {
    /// The runs, in the order in which they were begun.
    pub runs: Vec<Run>,
}

/// A base that the log may be applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// Its number in the catalog.
    pub number: usize,
    /// The moment that it was begun.
    pub time: Moment,
    /// Its revision.
    pub revision: i64,
    /// Its place in the log.
    pub log: Option<LogFacts>,
    /// Whether it was proven to restore.
    pub is_proven: bool,
}

/// The state that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// That of a moment.
    At(Moment),
    /// That which a revision made.
    Revision(i64),
    /// The newest one.
    Latest,
}

/// A way to a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The base's number in the catalog.
    pub base: usize,
    /// The log behind it, if it is needed.
    pub replay: Option<ReplayPlan>,
}

/// The log that is applied to a base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayPlan {
    /// The chain.
    pub chain: ChainName,
    /// The batches to read, in order.
    pub batches: Vec<Found>,
    /// The end.
    pub end: EndOfReplay,
    /// The moment of the state at the end, as far as names tell it.
    pub until: Moment,
    /// The entry that the base has.
    pub after: u64,
}

/// States that can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The chain.
    pub chain: ChainName,
    /// The first moment.
    pub from: Moment,
    /// The last one.
    pub until: Moment,
    /// The first revision.
    pub from_revision: i64,
    /// The last one.
    pub until_revision: i64,
}

impl ReplayPlan {
    /// The size of the batches.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.batches.iter().map(|it| it.bytes).sum()
    }
}

impl Base {
    /// The bases among the backups of a cluster: those without a fault.
    #[must_use]
    pub fn among(backups: &[Backup], cluster: u64) -> Vec<Self> {
        let fits = |(number, backup): (usize, &Backup)| {
            let sidecar = backup.sidecar.as_ref().ok()?;
            let is_sound = backup.cluster == cluster && backup.fault().is_none();
            is_sound.then(|| Self {
                number,
                time: backup.name.time,
                revision: backup.name.revision,
                log: sidecar.state.log,
                is_proven: backup.is_proven(),
            })
        };
        backups.iter().enumerate().filter_map(fits).collect()
    }

    /// Its place, if the log of a run goes on there.
    pub(super) fn place_in(&self, run: &Run) -> Option<u64> {
        let log = self.log.filter(|log| log.since == run.chain.since)?;
        (run.after()..=run.last).contains(&log.index).then_some(log.index)
    }
}

impl Run {
    /// The entry before its first one.
    #[must_use]
    pub fn after(&self) -> u64 {
        self.batches.first().map_or(0, |first| first.name.first - 1)
    }

    /// The moment up to which it tells everything.
    #[must_use]
    pub fn until(&self) -> Moment {
        let at_end = self.batches.iter().filter(|it| it.name.last == self.last);
        at_end.map(|it| it.name.until).max().unwrap_or(self.chain.begin)
    }

    fn from(&self) -> Moment {
        self.batches.first().map_or(self.chain.begin, |first| first.name.from)
    }

    fn revision(&self) -> i64 {
        self.batches.iter().map(|it| it.name.revision).max().unwrap_or_default()
    }

    /// The batches to read for the entries behind `after`, up to `last`. Of those that overlap the ones
    /// that reach furthest.
    fn path(&self, after: u64, last: u64) -> Vec<Found> {
        let (mut path, mut next, mut at) = (Vec::new(), after + 1, 0);
        while next <= last {
            let mut best: Option<Found> = None;
            while let Some(found) = self.batches.get(at).filter(|it| it.name.first <= next) {
                if best.is_none_or(|best| found.name.last > best.name.last) {
                    best = Some(*found);
                }
                at += 1;
            }
            // INVARIANT: a run has no gap, so some batch has the next entry.
            let Some(found) = best.filter(|it| it.name.last >= next) else { break };
            next = found.name.last + 1;
            path.push(found);
        }
        path
    }

    /// The place of the last mark that is not later than a moment.
    fn locate(
        &self,
        time: Moment,
        open: &mut dyn FnMut(&ChainName, &BatchName) -> Result<Batch, Error>,
    ) -> Result<Option<u64>, Error> {
        let begun = self.batches.iter().rev().filter(|it| it.name.from <= time);
        for found in begun.take(MARKLESS_MAX) {
            let batch = open(&self.chain, &found.name)?;
            let marks = batch.header.marks.iter();
            if let Some(mark) = marks.rev().find(|mark| mark.time <= time) {
                return Ok(Some(mark.at.index));
            }
        }
        Ok(None)
    }

    /// The newest base at or before an entry, a proven one if there is any.
    fn base_at(&self, bases: &[Base], index: u64) -> Option<Base> {
        let fits = |base: &&Base| base.place_in(self).is_some_and(|place| place <= index);
        bases.iter().filter(fits).max_by_key(|it| (it.is_proven, it.place_in(self))).copied()
    }

    fn window(&self, bases: &[Base]) -> Option<Window> {
        let is_proven = bases.iter().any(|it| it.is_proven && it.place_in(self).is_some());
        let usable = bases.iter().filter(|it| it.is_proven || !is_proven);
        let places = usable.filter_map(|base| Some((base.place_in(self)?, base)));
        let (place, base) = places.min_by_key(|(place, _)| *place)?;
        let covering = self.batches.iter().find(|it| it.name.last >= place);
        let from = covering.map_or_else(|| self.until(), |it| it.name.until);
        let from = if place == self.after() { self.from() } else { from };
        Some(Window {
            chain: self.chain,
            from: from.max(base.time).min(self.until()),
            until: self.until(),
            from_revision: base.revision,
            until_revision: self.revision().max(base.revision),
        })
    }

    fn plan(&self, base: Base, end: EndOfReplay, until: Moment) -> Plan {
        let after = base.place_in(self).unwrap_or(self.last);
        let last = match end {
            EndOfReplay::Index(index) => index,
            EndOfReplay::Revision(_) => self.last,
        };
        let batches = self.path(after, last);
        let replay = ReplayPlan { chain: self.chain, batches, end, until, after };
        Plan { base: base.number, replay: Some(replay) }
    }
}

impl Shipped {
    /// Reads the log of a cluster.
    ///
    /// # Errors
    /// If it cannot be listed.
    pub fn read(destination: &dyn Destination, cluster: u64) -> Result<Self, Error> {
        let folder = log_folder(cluster);
        let listed = destination.list_below(&folder, None)?;
        let found = listed.into_iter().filter_map(|Entry { key, bytes }| {
            let (chain, name) = key.strip_prefix(&folder)?.strip_prefix('/')?.split_once('/')?;
            Some((chain.parse().ok()?, Found { name: name.parse().ok()?, bytes }))
        });
        Ok(Self::of(found))
    }

    /// The log of batches with their chains.
    pub fn of(found: impl IntoIterator<Item = (ChainName, Found)>) -> Self {
        let mut chains: BTreeMap<ChainName, Vec<Found>> = BTreeMap::new();
        for (chain, found) in found {
            chains.entry(chain).or_default().push(found);
        }
        let runs = chains.into_iter().flat_map(|(chain, found)| runs(chain, found)).collect();
        Self { runs }
    }

    /// The states that can be reached from the bases.
    #[must_use]
    pub fn windows(&self, bases: &[Base]) -> Vec<Window> {
        self.runs.iter().filter_map(|run| run.window(bases)).collect()
    }

    /// Finds the way to a state. `open` reads a batch, to find a moment in it.
    ///
    /// # Errors
    /// If there is none, with what can be reached instead; or a batch cannot be read.
    pub fn plan(
        &self,
        target: Target,
        bases: &[Base],
        open: &mut dyn FnMut(&ChainName, &BatchName) -> Result<Batch, Error>,
    ) -> Result<Plan, Error> {
        match target {
            Target::Latest => self.latest(bases),
            Target::Revision(revision) => self.to_revision(revision, bases),
            Target::At(time) => self.to_moment(time, bases, open),
        }
    }

    fn latest(&self, bases: &[Base]) -> Result<Plan, Error> {
        let newest = bases.iter().filter(|it| it.is_proven).max_by_key(|it| it.time);
        let ways = self.runs.iter().filter_map(|run| {
            let base = run.base_at(bases, run.last).filter(|base| base.is_proven)?;
            Some((run, base))
        });
        let way = ways.max_by_key(|(run, _)| run.until());
        match (way, newest) {
            // The log ended before: it was turned off, or is of another history.
            (Some((run, _)), Some(newest))
                if run.until() < newest.time && newest.place_in(run).is_none() =>
            {
                Ok(Plan { base: newest.number, replay: None })
            }
            (Some((run, base)), _) => Ok(run.plan(base, EndOfReplay::Index(run.last), run.until())),
            (None, Some(newest)) => Ok(Plan { base: newest.number, replay: None }),
            (None, None) => {
                let reason = if bases.is_empty() { NO_BASE } else { NO_PROVEN };
                Err(self.unreachable(bases, "the newest state", reason))
            }
        }
    }

    fn to_revision(&self, revision: i64, bases: &[Base]) -> Result<Plan, Error> {
        let wanted = format!("revision {revision}");
        // What a revision made is the state right behind its entry: a base of the same revision may be of
        // later, behind entries that made none.
        let earlier: Vec<Base> =
            bases.iter().filter(|it| it.revision < revision).copied().collect();
        let exact: Vec<Base> = bases.iter().filter(|it| it.revision == revision).copied().collect();
        for run in self.runs.iter().rev().filter(|run| run.revision() >= revision) {
            let first = exact.iter().filter(|it| it.place_in(run).is_some());
            let first = || first.min_by_key(|it| (!it.is_proven, it.place_in(run))).copied();
            if let Some(base) = run.base_at(&earlier, run.last).or_else(first) {
                return Ok(run.plan(base, EndOfReplay::Revision(revision), run.until()));
            }
        }
        // Without a log the very state of a base can be had.
        if let Some(base) = exact.iter().max_by_key(|it| (it.is_proven, it.time)) {
            return Ok(Plan { base: base.number, replay: None });
        }
        let reason = match (bases.is_empty(), earlier.is_empty()) {
            (true, _) => NO_BASE,
            (_, true) => "it is before the first base",
            _ => "no log leads from a base to it",
        };
        Err(self.unreachable(bases, &wanted, reason))
    }

    fn to_moment(
        &self,
        time: Moment,
        bases: &[Base],
        open: &mut dyn FnMut(&ChainName, &BatchName) -> Result<Batch, Error>,
    ) -> Result<Plan, Error> {
        let wanted = time.to_string();
        let covers = |run: &&Run| run.from() <= time && time <= run.until();
        for run in self.runs.iter().rev().filter(covers) {
            // Nothing is opened of a run that no base leads into.
            if run.base_at(bases, run.last).is_none() {
                continue;
            }
            let Some(index) = run.locate(time, open)? else { continue };
            if let Some(base) = run.base_at(bases, index) {
                return Ok(run.plan(base, EndOfReplay::Index(index), time));
            }
        }
        let end = self.runs.iter().map(Run::until).max();
        let reason = if bases.is_empty() {
            NO_BASE
        } else if self.runs.is_empty() {
            "no log was shipped here"
        } else if end.is_some_and(|end| time > end) {
            "it is behind the end of the log; take `latest` for what there is"
        } else if bases.iter().all(|base| base.time > time) {
            "it is before the first base"
        } else {
            "there the log has a gap, or does not fit to any base"
        };
        Err(self.unreachable(bases, &wanted, reason))
    }

    fn unreachable(&self, bases: &[Base], wanted: &str, reason: &str) -> Error {
        let windows: Vec<String> = self.windows(bases).iter().map(ToString::to_string).collect();
        let reachable = if windows.is_empty() {
            "the backups themselves (keepd backup list)".to_owned()
        } else {
            windows.join("; ")
        };
        Error::Unreachable { wanted: wanted.to_owned(), reason: reason.to_owned(), reachable }
    }
}

const NO_BASE: &str = "there is no backup without a fault to begin with";

const NO_PROVEN: &str =
    "no backup is proven: prove one with `keepd backup drill URL NAME`, or name the one to take";

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "from {} to {}, revisions {} to {}",
            self.from, self.until, self.from_revision, self.until_revision
        )
    }
}

/// The runs of a chain: where a batch is missing, another one begins.
fn runs(chain: ChainName, mut found: Vec<Found>) -> Vec<Run> {
    found.sort_by_key(|it| (it.name.first, it.name.last, it.name.until));
    let mut runs: Vec<Run> = Vec::new();
    for found in found {
        match runs.last_mut() {
            Some(run) if found.name.first - 1 <= run.last => {
                run.last = run.last.max(found.name.last);
                run.batches.push(found);
            }
            _ => runs.push(Run { chain, last: found.name.last, batches: vec![found] }),
        }
    }
    runs
}
