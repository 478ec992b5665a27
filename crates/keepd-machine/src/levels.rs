//! Feature levels: each brought kinds of commands, records or messages that older versions cannot read
//! (rule 9.22). This is the one place that names them.
//!
//! A command or record of a level is written once the level of the cluster, which the leader raises when
//! all members have announced it, has come so far; a message of a level goes to members that have
//! announced it. Who adds a kind adds a level here, has [`NEWEST`] follow, and says the level where the
//! compiler asks for it: of a command below, of a message in `crates/keepd-node/src/peer_message.rs`.

use crate::command::Command;

/// All that the first clusters had; the level of a cluster that has recorded none.
pub const FIRST: u32 = 1;
/// The command that begins and ends a downgrade, and the record that one is under way.
pub const DOWNGRADE: u32 = 2;
/// The command that compares digests, and the messages that go with it. From it on an alarm CORRUPT stops
/// the writes of the cluster only if no majority of healthy members is left.
pub const DIGEST_CHECK: u32 = 3;
/// The question of a member that starts to the others, and their answers.
pub const REJOIN: u32 = 4;
/// The command by which a member claims backup work.
pub const BACKUP_CLAIM: u32 = 5;

/// The newest level that this version reads, and announces.
pub const NEWEST: u32 = BACKUP_CLAIM;

impl Command {
    /// The feature level that brought the command.
    #[must_use]
    pub const fn level(&self) -> u32 {
        match self {
            Self::Put(_)
            | Self::DeleteRange(_)
            | Self::Txn(_)
            | Self::Compact { .. }
            | Self::LeaseGrant { .. }
            | Self::LeaseRevoke { .. }
            | Self::LeaseExpire { .. }
            | Self::LeaseCheckpoint { .. }
            | Self::AlarmActivate(_)
            | Self::AlarmDeactivate(_)
            | Self::PublishMember { .. }
            | Self::SetActiveKeys(_)
            | Self::SetReadableKeys { .. }
            | Self::SetSealing { .. }
            | Self::ChangeMembership(_)
            | Self::SetClusterVersion { .. }
            | Self::SetFeatureLevel { .. } => FIRST,
            Self::SetDowngrade { .. } => DOWNGRADE,
            Self::CheckDigest { .. } => DIGEST_CHECK,
            Self::ClaimBackup { .. } => BACKUP_CLAIM,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use bytes::Bytes;
    use keepd_types::{KeyRange, LeaseId, MemberId};

    use super::*;
    use crate::claims::{BackupClaim, BackupTask, ClaimState};
    use crate::codec::CommandError;
    use crate::command::{Alarm, DeleteRange, Put};
    use crate::envelope::Envelope;
    use crate::membership::MembershipChange;
    use crate::tables::{ActiveKeys, ReadableKeys};

    /// One command of each kind, by the number that it has in the log, with its level.
    fn all() -> Vec<(u8, Command, u32)> {
        let (id, member) = (LeaseId(1), MemberId(1));
        let alarm = Alarm { member, kind: 1 };
        let keys = ActiveKeys { epoch: 1, keys: BTreeSet::new() };
        let readable = ReadableKeys(BTreeMap::new());
        let range = KeyRange::all();
        let (name, client_urls) = (String::new(), Vec::new());
        vec![
            (1, Command::Put(Put::default()), 1),
            (2, Command::DeleteRange(DeleteRange { range, prev_kv: false }), 1),
            (3, Command::Txn(Box::default()), 1),
            (4, Command::Compact { revision: 1 }, 1),
            (5, Command::LeaseGrant { id, ttl: 1 }, 1),
            (6, Command::LeaseRevoke { id }, 1),
            (7, Command::AlarmActivate(alarm), 1),
            (8, Command::AlarmDeactivate(alarm), 1),
            (11, Command::LeaseCheckpoint { id, remaining_ttl: 1 }, 1),
            (12, Command::PublishMember { id: member, name, client_urls }, 1),
            (13, Command::SetActiveKeys(keys), 1),
            (14, Command::SetSealing { member, fingerprint: Bytes::new() }, 1),
            (15, Command::LeaseExpire { id }, 1),
            (16, Command::ChangeMembership(MembershipChange::Promote { id: member }), 1),
            (17, Command::SetClusterVersion { version: String::new() }, 1),
            (18, Command::SetReadableKeys { member, keys: readable }, 1),
            (19, Command::SetFeatureLevel { level: 1, asked: BTreeSet::new() }, 1),
            (20, Command::SetDowngrade { target: None }, 2),
            (21, Command::CheckDigest { found: None }, 3),
            (22, claim_backup(), 5),
        ]
    }

    fn claim_backup() -> Command {
        let (attempt, member, state) = (1, MemberId(1), ClaimState::Held);
        let claim = BackupClaim { moment: 1, attempt, member, state };
        Command::ClaimBackup { task: BackupTask::Take, after: 0, claim }
    }

    /// Numbers that are read and written no more: they became 12, 13 and 14.
    const FORMER: [u8; 2] = [9, 10];

    #[test]
    fn every_command_of_the_log_has_the_level_that_brought_it() {
        for (tag, command, level) in all() {
            assert_eq!(command.level(), level, "{command:?}");
            assert!((FIRST..=NEWEST).contains(&level));
            let mut written = crate::codec::Writer::default();
            command.write(&mut written);
            assert_eq!(written.finish()[0], tag, "{command:?}");
        }
        let listed: BTreeSet<u8> = all().iter().map(|(tag, _, _)| *tag).chain(FORMER).collect();
        let is_known = |tag: &u8| {
            let read = Envelope::decode(Bytes::copy_from_slice(&[1, *tag]));
            !matches!(read, Err(CommandError::Unknown { what: "command", .. }))
        };
        let known: BTreeSet<u8> = (0..=u8::MAX).filter(is_known).collect();
        assert_eq!(listed, known, "a command is missing in this table");
    }
}
