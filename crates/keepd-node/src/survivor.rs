//! A member's data directory as a recovery finds it: locked, opened with its keys, read, and never
//! changed.
//!
//! The log decides which survivor goes on, by Raft's rule: the log whose last entry
//! has the higher term, then the longer one. A member with such a log would have been elected, and
//! holds everything that was committed on a majority in which it took part.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use keepd_crypto::{EncryptionConfig, FileKeys, Keyring};
use keepd_env::{DirLock, Disk, Env, IoError};
use keepd_machine::command::ALARM_CORRUPT;
use keepd_machine::membership::{self, ConfState, Member};
use keepd_machine::tables;
use keepd_member::{Identity, Layout, install};
use keepd_mvcc::{Applied, View};
use keepd_types::MemberId;
use keepd_wal::{Recovered, Wal};

use crate::boot::{self, DataDir};
use crate::error::BootError;

/// A member's directory that nobody uses while this is held.
#[derive(Debug)]
pub struct Survivor {
    /// The directory.
    pub data_dir: PathBuf,
    /// Its member, of which cluster.
    pub identity: Identity,
    /// The log.
    pub log: SurvivingLog,
    /// The store; or the reason why it cannot be read as it lies there.
    pub store: Result<SurvivingStore, BootError>,
    /// Bytes of the files that a copy has.
    pub bytes: u64,
    _lock: Option<Box<dyn DirLock>>,
}

/// The log of a survivor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SurvivingLog {
    /// The newest term that it has heard of.
    pub term: u64,
    /// The last entry that it knows to be committed.
    pub commit: u64,
    /// The last entry.
    pub last: Applied,
    /// The entry after which it begins, then the first entry of each later term.
    pub terms: Vec<Applied>,
}

/// The store of a survivor: what it had applied and written when it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SurvivingStore {
    /// The last entry of the log that is in it.
    pub applied: Applied,
    /// The revision.
    pub revision: i64,
    /// The members of the cluster.
    pub members: Vec<Member>,
    /// Members with a vote, before and after a change that is under way.
    pub voters: BTreeSet<MemberId>,
    /// The member was removed from its cluster.
    pub is_removed: bool,
    /// The member has the alarm CORRUPT: its data differs from the majority's.
    pub is_corrupt: bool,
}

impl Survivor {
    /// Reads a directory, and keeps others from using it.
    ///
    /// # Errors
    /// If there is no member of keepd, it is in use, its keys are out of reach, or its log cannot be
    /// read. A store that cannot be read is told in [`Self::store`].
    pub fn read(
        env: &Env,
        data_dir: &Path,
        config: Option<&EncryptionConfig>,
    ) -> Result<Self, BootError> {
        let disk = &*env.disk;
        let dir = Layout::new(data_dir).member;
        if boot::is_etcds(disk, &dir)? {
            return Err(BootError::EtcdDirectory { dir: data_dir.to_owned() });
        }
        if !DataDir::has_member(env, data_dir)? {
            return Err(BootError::NoMember { dir: data_dir.to_owned() });
        }
        let lock = lock(disk, data_dir)?;
        let inspected = Keyring::inspect(env, &dir, config)?;
        let keys = inspected.map_or_else(FileKeys::plain, |inspected| inspected.files);
        let wal_dir = Layout::wal(&dir);
        let recovered = Wal::read(env, &wal_dir, &keys)?;
        let identity =
            Identity::decode(&recovered.metadata).ok_or(BootError::Identity { dir: wal_dir })?;
        let installing = install::read(disk, &dir, &keys)?;
        let log = SurvivingLog::of(&recovered, installing.map(|it| (it.index, it.term)));
        let store = read_store(env, &dir, &keys, identity.member);
        let bytes = copied_bytes(disk, &dir)?;
        Ok(Self { bytes, _lock: lock, ..Self::of(data_dir.to_owned(), identity, log, store) })
    }

    /// A survivor of which this is known, and which nobody is kept from using.
    #[must_use]
    pub fn of(
        data_dir: PathBuf,
        identity: Identity,
        log: SurvivingLog,
        store: Result<SurvivingStore, BootError>,
    ) -> Self {
        Self { data_dir, identity, log, store, bytes: 0, _lock: None }
    }
}

/// The lock of a directory that a server may be using. A copy without the lock's file is nobody's, and
/// stays without it.
fn lock(disk: &dyn Disk, data_dir: &Path) -> Result<Option<Box<dyn DirLock>>, BootError> {
    if !disk.exists(&data_dir.join(keepd_env::LOCK_NAME))? {
        return Ok(None);
    }
    disk.lock_dir(data_dir).map(Some).map_err(|error| boot::in_use(error, data_dir))
}

fn read_store(
    env: &Env,
    member_dir: &Path,
    keys: &FileKeys,
    own: MemberId,
) -> Result<SurvivingStore, BootError> {
    let dir = install::store_of_next_start(&*env.disk, member_dir)?;
    let view = keepd_mvcc::inspect(env, &dir, keys)?;
    SurvivingStore::of(&view, own)
}

impl SurvivingStore {
    fn of(view: &View, own: MemberId) -> Result<Self, BootError> {
        let state = ConfState::stored(view.meta(tables::CONF_STATE))?.unwrap_or_default();
        let voters = state.voters.iter().chain(&state.voters_outgoing).copied().map(MemberId);
        let alarm = tables::alarm_key(own, ALARM_CORRUPT);
        Ok(Self {
            applied: view.applied(),
            revision: view.revision(),
            members: membership::members(view.meta(tables::MEMBERS))?,
            voters: voters.collect(),
            is_removed: membership::is_removed(view.meta(tables::MEMBERS_REMOVED), own),
            is_corrupt: view.meta(tables::ALARMS).contains_key(&alarm),
        })
    }
}

impl SurvivingLog {
    /// The log; of an install that was under way it begins anew, as the next start would have it.
    fn of(recovered: &Recovered, installing: Option<(u64, u64)>) -> Self {
        let start = Applied { index: recovered.start.index, term: recovered.start.term };
        let at = |entry: &keepd_wal::Entry| Applied { index: entry.index, term: entry.term };
        let mut terms = vec![start];
        for entry in recovered.entries.iter().map(at) {
            if terms.last().is_none_or(|last| last.term != entry.term) {
                terms.push(entry);
            }
        }
        let last = recovered.entries.last().map_or(start, at);
        let state = recovered.hard_state;
        let log = Self { term: state.term, commit: state.commit, last, terms };
        let Some((index, term)) = installing else { return log };
        let installed = Applied { index, term };
        if log.term_at(index) == Some(term) {
            return Self { commit: log.commit.max(index), ..log };
        }
        let (term, commit) = (log.term.max(term), log.commit.max(index));
        Self { term, commit, last: installed, terms: vec![installed] }
    }

    /// Its place among others, by Raft's rule.
    #[must_use]
    pub const fn rank(&self) -> (u64, u64) {
        (self.last.term, self.last.index)
    }

    /// The term of an entry that it holds, or of the one after which it begins.
    fn term_at(&self, index: u64) -> Option<u64> {
        let is_here = (self.terms[0].index..=self.last.index).contains(&index);
        let begun = self.terms.iter().rev().find(|begun| begun.index <= index);
        begun.filter(|_| is_here).map(|begun| begun.term)
    }

    /// The entries of this log that another one has not. Logs that agree on an entry agree on all
    /// before it, so they differ from some entry on.
    #[must_use]
    pub fn beyond(&self, other: &Self) -> Option<RangeInclusive<u64>> {
        let begin = self.terms[0].index.max(other.terms[0].index);
        let starts = self.terms.iter().chain(&other.terms).map(|begun| begun.index);
        let mut candidates: Vec<u64> = starts.chain([begin + 1, other.last.index + 1]).collect();
        candidates.sort_unstable();
        let first = candidates.into_iter().find(|&index| {
            index > begin && index <= self.last.index && self.term_at(index) != other.term_at(index)
        })?;
        Some(first..=self.last.index)
    }
}

/// The files of a member's directory that a copy takes: all but the reserved space.
pub(crate) fn copied(disk: &dyn Disk, dir: &Path) -> Result<Vec<(PathBuf, u64)>, IoError> {
    let ballast = Layout::ballast(dir);
    let (mut files, mut dirs) = (Vec::new(), vec![dir.to_owned()]);
    // BOUND: a member's directory is two levels deep, an install's three.
    while let Some(next) = dirs.pop() {
        for name in disk.list(&next)? {
            let path = next.join(name);
            match disk.probe(&path)? {
                Some(found) if found.is_dir => dirs.push(path),
                Some(found) if path != ballast => files.push((path, found.len)),
                _ => {}
            }
        }
    }
    Ok(files)
}

fn copied_bytes(disk: &dyn Disk, dir: &Path) -> Result<u64, IoError> {
    Ok(copied(disk, dir)?.iter().map(|(_, bytes)| bytes).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(start: (u64, u64), runs: &[(u64, u64)], last: u64) -> SurvivingLog {
        let at = |&(index, term): &(u64, u64)| Applied { index, term };
        let terms: Vec<_> = std::iter::once(&start).chain(runs).map(at).collect();
        let term = terms.last().expect("the start is one").term;
        SurvivingLog { term, commit: start.0, last: Applied { index: last, term }, terms }
    }

    #[test]
    fn the_rule_is_term_then_index() {
        let long = log((1, 1), &[(2, 2)], 100);
        let new = log((1, 1), &[(2, 2), (50, 3)], 51);
        let newest = log((40, 2), &[(50, 3)], 52);
        assert!(long.rank() < new.rank() && new.rank() < newest.rank());
    }

    #[test]
    fn what_another_log_lacks_begins_where_they_differ() {
        let short = log((1, 1), &[(2, 2)], 100);
        let other = log((1, 1), &[(2, 2), (50, 3)], 51);
        assert_eq!(short.beyond(&other), Some(50..=100));
        assert_eq!(other.beyond(&short), Some(50..=51));
        assert_eq!(short.beyond(&short), None);
        let longer = log((30, 2), &[], 120);
        assert_eq!(longer.beyond(&short), Some(101..=120));
        assert_eq!(short.beyond(&longer), None);
        // One that begins behind the other's end has everything that the other has.
        let released = log((200, 3), &[], 205);
        assert_eq!(short.beyond(&released), None);
        assert_eq!(released.beyond(&short), Some(201..=205));
    }

    #[test]
    fn an_install_that_was_under_way_is_in_the_log() {
        let entry = |index, term| keepd_wal::Entry { index, term, ..Default::default() };
        let recovered = Recovered {
            metadata: bytes::Bytes::new(),
            start: keepd_wal::LogStart { index: 1, term: 1 },
            hard_state: keepd_wal::HardState { term: 2, vote: 0, commit: 2 },
            entries: vec![entry(2, 1), entry(3, 2), entry(4, 2)],
            torn_tail: None,
        };
        let as_it_lies = SurvivingLog::of(&recovered, None);
        assert_eq!(as_it_lies.rank(), (2, 4));
        assert_eq!(as_it_lies.terms.len(), 2);
        assert_eq!(SurvivingLog::of(&recovered, Some((3, 2))).rank(), (2, 4));
        let installed = SurvivingLog::of(&recovered, Some((40, 5)));
        assert_eq!((installed.rank(), installed.commit, installed.term), ((5, 40), 40, 5));
    }
}
