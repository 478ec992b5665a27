//! The bytes of a command: how it is written into the log and read from it.
//!
//! The layout is in `docs/formats/command.md`. The number of a variant is never used again for
//! another one; what this version does not know is refused, never skipped.

use std::collections::BTreeSet;

use keepd_types::{
    KeyId, KeyRange, LeaseId, MemberId, PlainDigest, RangeEnd, SealMark, StoredValue,
};

use super::{
    Alarm, Command, Compare, DeleteRange, DigestFound, Guard, Op, Put, Range, Relation, Target, Txn,
};
use crate::claims::{BackupClaim, BackupTask};
use crate::codec::{CommandError, Reader, Writer};
use crate::member::{Member, MembershipChange};
use crate::tables::{self, ActiveKeys, ReadableKeys};

/// Depth to which transactions may nest; request validation stops far earlier.
const TXN_DEPTH_MAX: usize = 130;

impl Command {
    pub(crate) fn write(&self, w: &mut Writer) {
        match self {
            Self::Put(put) => {
                w.u8(1);
                write_put(w, put);
            }
            Self::DeleteRange(delete) => {
                w.u8(2);
                write_delete(w, delete);
            }
            Self::Txn(txn) => {
                w.u8(3);
                write_txn(w, txn);
            }
            Self::Compact { revision } => {
                w.u8(4);
                w.i64(*revision);
            }
            Self::LeaseGrant { id, ttl } => {
                w.u8(5);
                w.i64(id.0);
                w.i64(*ttl);
            }
            Self::LeaseRevoke { id } => {
                w.u8(6);
                w.i64(id.0);
            }
            Self::AlarmActivate(alarm) => write_alarm(w, 7, *alarm),
            Self::AlarmDeactivate(alarm) => write_alarm(w, 8, *alarm),
            Self::LeaseCheckpoint { id, remaining_ttl } => {
                w.u8(11);
                w.i64(id.0);
                w.i64(*remaining_ttl);
            }
            Self::PublishMember { id, name, client_urls } => {
                w.u8(12);
                w.u64(id.0);
                w.bytes(name.as_bytes());
                w.texts(client_urls);
            }
            Self::SetActiveKeys(keys) => {
                w.u8(13);
                w.bytes(&keys.encode());
            }
            Self::SetSealing { member, fingerprint } => {
                w.u8(14);
                w.u64(member.0);
                w.bytes(fingerprint);
            }
            Self::LeaseExpire { id } => {
                w.u8(15);
                w.i64(id.0);
            }
            Self::ChangeMembership(change) => {
                w.u8(16);
                write_change(w, change);
            }
            Self::SetClusterVersion { version } => {
                w.u8(17);
                w.bytes(version.as_bytes());
            }
            Self::SetReadableKeys { member, keys } => {
                w.u8(18);
                w.u64(member.0);
                w.bytes(&keys.encode());
            }
            Self::SetFeatureLevel { level, asked } => write_level(w, *level, asked),
            Self::CheckDigest { found } => write_found(w, *found),
            Self::SetDowngrade { target } => write_downgrade(w, target.as_deref()),
            Self::ClaimBackup { task, after, claim } => write_claim(w, *task, *after, claim),
        }
    }

    pub(crate) fn read(r: &mut Reader) -> Result<Self, CommandError> {
        Ok(match r.u8()? {
            1 => Self::Put(read_put(r)?),
            2 => Self::DeleteRange(read_delete(r)?),
            3 => Self::Txn(Box::new(read_txn(r, 0)?)),
            4 => Self::Compact { revision: r.i64()? },
            5 => Self::LeaseGrant { id: LeaseId(r.i64()?), ttl: r.i64()? },
            6 => Self::LeaseRevoke { id: LeaseId(r.i64()?) },
            7 => Self::AlarmActivate(read_alarm(r)?),
            8 => Self::AlarmDeactivate(read_alarm(r)?),
            9 => read_member_json(r)?,
            10 => read_named_fact(r)?,
            11 => Self::LeaseCheckpoint { id: LeaseId(r.i64()?), remaining_ttl: r.i64()? },
            12 => Self::PublishMember {
                id: MemberId(r.u64()?),
                name: r.text()?,
                client_urls: r.texts()?,
            },
            13 => Self::SetActiveKeys(read_active_keys(&r.bytes()?)?),
            14 => Self::SetSealing { member: MemberId(r.u64()?), fingerprint: r.bytes()? },
            15 => Self::LeaseExpire { id: LeaseId(r.i64()?) },
            16 => Self::ChangeMembership(read_change(r)?),
            17 => Self::SetClusterVersion { version: r.text()? },
            18 => Self::SetReadableKeys {
                member: MemberId(r.u64()?),
                keys: ReadableKeys::decode(r.bytes()?)
                    .ok_or(CommandError::Malformed("list of keys"))?,
            },
            19 => Self::SetFeatureLevel { level: r.u32()?, asked: read_members(r)? },
            20 => Self::SetDowngrade {
                target: match r.u8()? {
                    0 => None,
                    1 => Some(r.text()?),
                    value => return Err(CommandError::Unknown { what: "downgrade", value }),
                },
            },
            21 => Self::CheckDigest { found: read_found(r)? },
            22 => Self::ClaimBackup {
                task: BackupTask::of_number(r.u8()?)?,
                after: r.u64()?,
                claim: BackupClaim::read(r)?,
            },
            value => return Err(CommandError::Unknown { what: "command", value }),
        })
    }

    /// By how much sealing has made the command longer: limits count plaintext.
    #[must_use]
    pub fn seal_overhead(&self) -> usize {
        let mut overhead = 0;
        self.for_each_put(&mut |put| overhead += put_overhead(put));
        overhead
    }

    /// About how long the encoding is, as far as keys and values make it long.
    #[must_use]
    pub fn size_hint(&self) -> usize {
        match self {
            Self::Put(put) => put_size(put),
            Self::Txn(txn) => txn_size(txn),
            Self::DeleteRange(_)
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
            | Self::SetFeatureLevel { .. }
            | Self::CheckDigest { .. }
            | Self::SetDowngrade { .. }
            | Self::ClaimBackup { .. } => 0,
        }
    }
}

const fn put_size(put: &Put) -> usize {
    put.key.len() + put.value.bytes.len()
}

fn txn_size(txn: &Txn) -> usize {
    let ops = txn.success.iter().chain(&txn.failure);
    ops.map(|op| match op {
        Op::Put(put) => put_size(put),
        Op::Txn(nested) => txn_size(nested),
        Op::Range(_) | Op::DeleteRange(_) => 0,
    })
    .sum()
}

/// By how much its seal has made a put longer.
fn put_overhead(put: &Put) -> usize {
    let Some(seal) = put.value.seal else { return 0 };
    let lengths = |mark: Option<SealMark>, len: usize| {
        let mut w = Writer::default();
        if let Some(mark) = mark {
            write_mark(&mut w, mark);
        }
        w.u64(len as u64);
        w.finish().len() + len
    };
    let plain = lengths(None, put.value.plain_len());
    lengths(Some(seal), put.value.bytes.len()).saturating_sub(plain)
}

fn write_level(w: &mut Writer, level: u32, asked: &BTreeSet<MemberId>) {
    w.u8(19);
    w.u64(u64::from(level));
    w.u64(asked.len() as u64);
    asked.iter().for_each(|member| w.u64(member.0));
}

fn write_downgrade(w: &mut Writer, target: Option<&str>) {
    w.u8(20);
    w.u8(u8::from(target.is_some()));
    if let Some(target) = target {
        w.bytes(target.as_bytes());
    }
}

fn write_claim(w: &mut Writer, task: BackupTask, after: u64, claim: &BackupClaim) {
    w.u8(22);
    w.u8(task.number());
    w.u64(after);
    claim.write(w);
}

fn write_found(w: &mut Writer, found: Option<DigestFound>) {
    w.u8(21);
    let Some(DigestFound { index, majority }) = found else { return w.u8(0) };
    w.u8(if majority.is_some() { 1 } else { 2 });
    w.u64(index);
    if let Some((since, value)) = majority {
        w.u64(since);
        w.u64_fixed(value);
    }
}

fn read_found(r: &mut Reader) -> Result<Option<DigestFound>, CommandError> {
    Ok(match r.u8()? {
        0 => None,
        1 => {
            let (index, since) = (r.u64()?, r.u64()?);
            Some(DigestFound { index, majority: Some((since, r.u64_fixed()?)) })
        }
        2 => Some(DigestFound { index: r.u64()?, majority: None }),
        value => return Err(CommandError::Unknown { what: "result of a comparison", value }),
    })
}

fn read_members(r: &mut Reader) -> Result<BTreeSet<MemberId>, CommandError> {
    let count = r.count()?;
    let members = (0..count).map(|_| Ok(MemberId(r.u64()?))).collect::<Result<BTreeSet<_>, _>>()?;
    // Ascending, each once: there is one encoding.
    if members.len() == count { Ok(members) } else { Err(CommandError::Malformed("member")) }
}

fn write_alarm(w: &mut Writer, tag: u8, alarm: Alarm) {
    w.u8(tag);
    w.u64(alarm.member.0);
    w.u8(alarm.kind);
}

fn read_alarm(r: &mut Reader) -> Result<Alarm, CommandError> {
    Ok(Alarm { member: MemberId(r.u64()?), kind: r.u8()? })
}

fn read_active_keys(bytes: &[u8]) -> Result<ActiveKeys, CommandError> {
    ActiveKeys::decode(bytes).ok_or(CommandError::Malformed("list of active keys"))
}

/// Tag 9, written before the member's fields had places of their own.
fn read_member_json(r: &mut Reader) -> Result<Command, CommandError> {
    let id = MemberId(r.u64()?);
    let member = Member::decode(&r.bytes()?).ok_or(CommandError::Malformed("member"))?;
    let Member { name, client_urls, .. } = member;
    Ok(Command::PublishMember { id, name, client_urls })
}

/// Tag 10, written when facts about the cluster were told apart by name.
fn read_named_fact(r: &mut Reader) -> Result<Command, CommandError> {
    let (name, value) = (r.bytes()?, r.bytes()?);
    if name == tables::ACTIVE_KEYS_KEY {
        return Ok(Command::SetActiveKeys(read_active_keys(&value)?));
    }
    let member = tables::sealing_member(&name).ok_or(CommandError::Malformed("name of a fact"))?;
    Ok(Command::SetSealing { member, fingerprint: value })
}

fn write_change(w: &mut Writer, change: &MembershipChange) {
    match change {
        MembershipChange::Add { id, peer_urls, is_learner, max_learners } => {
            w.u8(1);
            w.u64(id.0);
            w.texts(peer_urls);
            w.u8(u8::from(*is_learner));
            w.u64((*max_learners).into());
        }
        MembershipChange::Promote { id } => {
            w.u8(2);
            w.u64(id.0);
        }
        MembershipChange::Remove { id } => {
            w.u8(3);
            w.u64(id.0);
        }
        MembershipChange::UpdatePeerUrls { id, peer_urls } => {
            w.u8(4);
            w.u64(id.0);
            w.texts(peer_urls);
        }
    }
}

fn read_change(r: &mut Reader) -> Result<MembershipChange, CommandError> {
    let (tag, id) = (r.u8()?, MemberId(r.u64()?));
    Ok(match tag {
        1 => MembershipChange::Add {
            id,
            peer_urls: r.texts()?,
            is_learner: r.flag("learner flag")?,
            max_learners: r.u32()?,
        },
        2 => MembershipChange::Promote { id },
        3 => MembershipChange::Remove { id },
        4 => MembershipChange::UpdatePeerUrls { id, peer_urls: r.texts()? },
        value => return Err(CommandError::Unknown { what: "change of the membership", value }),
    })
}

const PREV_KV: u8 = 1;
const IGNORE_VALUE: u8 = 2;
const IGNORE_LEASE: u8 = 4;
const SEALED: u8 = 8;
const PUT_FLAGS: u8 = PREV_KV | IGNORE_VALUE | IGNORE_LEASE | SEALED;

fn write_put(w: &mut Writer, put: &Put) {
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    w.u8(flag(put.prev_kv, PREV_KV)
        | flag(put.ignore_value, IGNORE_VALUE)
        | flag(put.ignore_lease, IGNORE_LEASE)
        | flag(put.value.seal.is_some(), SEALED));
    w.bytes(&put.key);
    w.i64(put.lease.0);
    if let Some(seal) = put.value.seal {
        write_mark(w, seal);
    }
    w.bytes(&put.value.bytes);
}

fn write_mark(w: &mut Writer, seal: SealMark) {
    w.u64(seal.key_id.0);
    w.u64(u64::from(seal.plain.len));
    w.u64(u64::from(seal.plain.crc32c));
}

fn read_put(r: &mut Reader) -> Result<Put, CommandError> {
    let flags = r.u8()?;
    if flags & !PUT_FLAGS != 0 {
        return Err(CommandError::Unknown { what: "put flags", value: flags });
    }
    let key = r.bytes()?;
    let lease = LeaseId(r.i64()?);
    let seal = if flags & SEALED == 0 {
        None
    } else {
        let key_id = KeyId(r.u64()?);
        Some(SealMark { key_id, plain: PlainDigest { len: r.u32()?, crc32c: r.u32()? } })
    };
    Ok(Put {
        key,
        value: StoredValue { bytes: r.bytes()?, seal },
        lease,
        prev_kv: flags & PREV_KV != 0,
        ignore_value: flags & IGNORE_VALUE != 0,
        ignore_lease: flags & IGNORE_LEASE != 0,
    })
}

fn write_range(w: &mut Writer, range: &KeyRange) {
    w.bytes(&range.start);
    match &range.end {
        RangeEnd::Point => w.u8(0),
        RangeEnd::Open => w.u8(1),
        RangeEnd::Before(end) => {
            w.u8(2);
            w.bytes(end);
        }
    }
}

fn read_range(r: &mut Reader) -> Result<KeyRange, CommandError> {
    let start = r.bytes()?;
    let end = match r.u8()? {
        0 => RangeEnd::Point,
        1 => RangeEnd::Open,
        2 => RangeEnd::Before(r.bytes()?),
        value => return Err(CommandError::Unknown { what: "range end", value }),
    };
    Ok(KeyRange { start, end })
}

fn write_delete(w: &mut Writer, delete: &DeleteRange) {
    w.u8(u8::from(delete.prev_kv));
    write_range(w, &delete.range);
}

fn read_delete(r: &mut Reader) -> Result<DeleteRange, CommandError> {
    let prev_kv = r.flag("delete flag")?;
    Ok(DeleteRange { range: read_range(r)?, prev_kv })
}

fn write_txn(w: &mut Writer, txn: &Txn) {
    w.u64(txn.compares.len() as u64);
    for compare in &txn.compares {
        write_compare(w, compare);
    }
    for ops in [&txn.success, &txn.failure] {
        w.u64(ops.len() as u64);
        for op in ops {
            write_op(w, op);
        }
    }
}

fn read_txn(r: &mut Reader, depth: usize) -> Result<Txn, CommandError> {
    if depth > TXN_DEPTH_MAX {
        return Err(CommandError::NumberOutOfRange);
    }
    let mut txn = Txn::default();
    for _ in 0..r.count()? {
        txn.compares.push(read_compare(r)?);
    }
    for _ in 0..r.count()? {
        txn.success.push(read_op(r, depth)?);
    }
    for _ in 0..r.count()? {
        txn.failure.push(read_op(r, depth)?);
    }
    Ok(txn)
}

fn write_op(w: &mut Writer, op: &Op) {
    match op {
        Op::Range(range) => {
            w.u8(1);
            write_range(w, &range.range);
            w.i64(range.revision);
            w.u64(range.fetch_limit);
        }
        Op::Put(put) => {
            w.u8(2);
            write_put(w, put);
        }
        Op::DeleteRange(delete) => {
            w.u8(3);
            write_delete(w, delete);
        }
        Op::Txn(txn) => {
            w.u8(4);
            write_txn(w, txn);
        }
    }
}

fn read_op(r: &mut Reader, depth: usize) -> Result<Op, CommandError> {
    Ok(match r.u8()? {
        1 => Op::Range(Range { range: read_range(r)?, revision: r.i64()?, fetch_limit: r.u64()? }),
        2 => Op::Put(read_put(r)?),
        3 => Op::DeleteRange(read_delete(r)?),
        4 => Op::Txn(Box::new(read_txn(r, depth + 1)?)),
        value => return Err(CommandError::Unknown { what: "operation", value }),
    })
}

fn write_compare(w: &mut Writer, compare: &Compare) {
    match compare {
        Compare::Number { range, target, relation, operand } => {
            w.u8(1);
            write_range(w, range);
            w.u8(match target {
                Target::Version => 0,
                Target::Create => 1,
                Target::Mod => 2,
                Target::Lease => 3,
                Target::Unknown => 4,
            });
            w.u8(match relation {
                Relation::Equal => 0,
                Relation::Greater => 1,
                Relation::Less => 2,
                Relation::NotEqual => 3,
                Relation::Any => 4,
            });
            w.i64(*operand);
        }
        Compare::Resolved { range, guard, result } => {
            w.u8(3);
            write_range(w, range);
            w.u8(u8::from(*result));
            w.u64(guard.keys);
            w.i64(guard.revision);
        }
    }
}

fn read_compare(r: &mut Reader) -> Result<Compare, CommandError> {
    match r.u8()? {
        1 => Ok(Compare::Number {
            range: read_range(r)?,
            target: match r.u8()? {
                0 => Target::Version,
                1 => Target::Create,
                2 => Target::Mod,
                3 => Target::Lease,
                4 => Target::Unknown,
                value => return Err(CommandError::Unknown { what: "compare target", value }),
            },
            relation: match r.u8()? {
                0 => Relation::Equal,
                1 => Relation::Greater,
                2 => Relation::Less,
                3 => Relation::NotEqual,
                4 => Relation::Any,
                value => return Err(CommandError::Unknown { what: "compare relation", value }),
            },
            operand: r.i64()?,
        }),
        3 => {
            let range = read_range(r)?;
            let result = r.flag("compare result")?;
            let guard = Guard { keys: r.u64()?, revision: r.i64()? };
            Ok(Compare::Resolved { range, guard, result })
        }
        value => Err(CommandError::Unknown { what: "comparison", value }),
    }
}
