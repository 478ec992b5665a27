//! Claims of backup work: which member does what is due, as the log has decided it.
//!
//! A claim says for which moment, by which member, and what became of it. It replaces the one before only
//! if it names that one's number: of several members that see the same state one wins, without a clock.
//! The moments in it are not compared: a clock that was wrong once must not stop all later work.

use bytes::Bytes;
use keepd_mvcc::{MetaTable, Store};
use keepd_types::MemberId;

use crate::codec::{CommandError, Reader, Writer};
use crate::tables;

/// Prefix of the [`tables::CLUSTER`] entries that hold the claims.
const PREFIX: &str = "backupClaim/";

/// A kind of work that one member of the cluster does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupTask {
    /// A scheduled backup is taken.
    Take,
    /// An older backup is proven again.
    Drill,
}

impl BackupTask {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Take => 1,
            Self::Drill => 2,
        }
    }

    pub(crate) const fn of_number(value: u8) -> Result<Self, CommandError> {
        match value {
            1 => Ok(Self::Take),
            2 => Ok(Self::Drill),
            value => Err(CommandError::Unknown { what: "backup task", value }),
        }
    }

    fn key(self) -> Bytes {
        format!("{PREFIX}{}", self.number()).into()
    }
}

/// State of claimed work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimState {
    /// The member is at it, or was when it was last heard of.
    Held,
    /// It is done.
    Done,
    /// The attempt failed.
    Failed,
}

/// A claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupClaim {
    /// The moment at which the work was due, in milliseconds since the Unix epoch.
    pub moment: i64,
    /// The number of the attempt for this moment, from 1 on.
    pub attempt: u32,
    /// The member that does it.
    pub member: MemberId,
    /// Whether it goes on, or how it ended.
    pub state: ClaimState,
}

impl BackupClaim {
    pub(crate) fn write(&self, w: &mut Writer) {
        w.i64(self.moment);
        w.u64(self.attempt.into());
        w.u64(self.member.0);
        w.u8(match self.state {
            ClaimState::Held => 0,
            ClaimState::Done => 1,
            ClaimState::Failed => 2,
        });
    }

    pub(crate) fn read(r: &mut Reader) -> Result<Self, CommandError> {
        let (moment, attempt, member) = (r.i64()?, r.u32()?, MemberId(r.u64()?));
        let state = match r.u8()? {
            0 => ClaimState::Held,
            1 => ClaimState::Done,
            2 => ClaimState::Failed,
            value => return Err(CommandError::Unknown { what: "state of a claim", value }),
        };
        Ok(Self { moment, attempt, member, state })
    }
}

/// The claim in force, with its number; `None` before the first.
#[must_use]
pub fn current(cluster: &MetaTable, task: BackupTask) -> Option<(u64, BackupClaim)> {
    let mut r = Reader::new(cluster.get(&task.key())?.clone());
    let found = (r.u64().ok()?, BackupClaim::read(&mut r).ok()?);
    r.finish().ok()?;
    Some(found)
}

/// Puts a claim in the place of the one with the number `after`, 0 for none; does nothing if another is
/// in force.
pub(crate) fn replace(store: &mut Store, task: BackupTask, after: u64, claim: &BackupClaim) {
    let number = current(store.meta(tables::CLUSTER), task).map_or(0, |(number, _)| number);
    if number == after {
        let mut w = Writer::default();
        w.u64(number.saturating_add(1));
        claim.write(&mut w);
        store.meta_put(tables::CLUSTER, task.key(), w.finish());
    }
}
