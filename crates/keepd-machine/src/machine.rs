//! The state machine: one store, its leases and its meta tables, driven by the log.
//!
//! Receives decoded entries from the node's apply thread, in log order; hands outcomes back to it
//! and, per batch, the published view with every change for the watch hub.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keepd_lease::{Lease, Lessor};
use keepd_mvcc::{Applied, Change, RangeError, Store, View};
use keepd_types::{LeaseId, MemberId, Term};

use crate::codec::CommandError;
use crate::command::{ALARM_CORRUPT, ALARM_NOSPACE, Alarm, Command, DigestFound, Op, Txn};
use crate::envelope::Envelope;
use crate::facts::{self, ClusterFacts};
use crate::keys::{self, KnownKeys};
use crate::membership::{self, Member};
use crate::outcome::{ApplyError, CommandResponse, Failure, Halt, Outcome};
use crate::tables::ActiveKeys;
use crate::txn::Execution;
use crate::{claims, levels, tables};

mod change;

use self::change::AwaitedChange;
pub use self::change::Judgement;

/// Settings of the state machine.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Time after which an expired lease that still exists is reported again.
    pub revoke_retry: Duration,
    /// The newest feature level that is read; less than this version reads only in tests.
    pub feature_level: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { revoke_retry: Duration::from_secs(7), feature_level: levels::NEWEST }
    }
}

/// Result of a batch of entries, for readers and watchers.
#[derive(Clone, Debug)]
pub struct AppliedBatch {
    /// The state after the batch.
    pub view: Arc<View>,
    /// Every change of the batch, in revision order.
    pub changes: Vec<Change>,
}

/// The state machine.
#[derive(Debug)]
pub struct StateMachine {
    store: Store,
    lessor: Lessor,
    /// Raised alarms, as the meta table has them.
    alarms: Vec<Alarm>,
    options: Options,
    /// The last entry that was applied.
    applied: Applied,
    /// Changes since the last [`Self::publish`].
    changes: Vec<Change>,
    attachments: Vec<(Bytes, LeaseId)>,
    /// An accepted change of the membership for which Raft's configuration is not stored yet.
    awaited: Option<AwaitedChange>,
    known_keys: KnownKeys,
}

impl StateMachine {
    /// Takes over a recovered store and rebuilds leases and alarms from its meta tables.
    ///
    /// # Errors
    /// If a meta table cannot be read.
    pub fn new(store: Store, options: Options) -> Result<Self, Halt> {
        let (lessor, alarms) = restore(&store, options)?;
        let applied = store.applied();
        let (changes, attachments) = (Vec::new(), Vec::new());
        let machine = Self {
            store,
            lessor,
            alarms,
            options,
            applied,
            changes,
            attachments,
            awaited: None,
            known_keys: KnownKeys::default(),
        };
        machine.assert_sound();
        Ok(machine)
    }

    /// Goes on in the state of another member, whose store `switch` gives the directory's name to: see
    /// [`Store::replace`]. Leases and alarms are those of the new store; deadlines that this member counted
    /// as primary are gone with its old ones, and so is what was applied and not published: it is in the
    /// new state. The view that is published from now on.
    ///
    /// # Errors
    /// If the switch fails or the new store cannot be taken over: this member must stop.
    ///
    /// # Panics
    /// If the new state is older than what was applied.
    pub fn install(
        &mut self,
        switch: impl FnOnce() -> Result<(), keepd_mvcc::Error>,
    ) -> Result<Arc<View>, Halt> {
        let view = self.store.replace(switch)?;
        let (lessor, alarms) = restore(&self.store, self.options)?;
        (self.lessor, self.alarms) = (lessor, alarms);
        assert!(view.applied() >= self.applied, "an applied entry is never taken back");
        self.applied = view.applied();
        self.changes.clear();
        self.awaited = None;
        self.assert_sound();
        Ok(view)
    }

    /// The store, for the node's background jobs.
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// The store, for the node's background jobs.
    pub const fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    /// The leases, for the primary's deadlines.
    pub const fn lessor(&self) -> &Lessor {
        &self.lessor
    }

    /// The leases, for the primary's deadlines.
    pub const fn lessor_mut(&mut self) -> &mut Lessor {
        &mut self.lessor
    }

    /// Raised alarms.
    pub fn alarms(&self) -> &[Alarm] {
        &self.alarms
    }

    /// Whether an alarm of a kind stands, whoever raised it.
    #[must_use]
    pub fn has_alarm(&self, kind: u8) -> bool {
        self.alarms.iter().any(|alarm| alarm.kind == kind)
    }

    /// Decodes and applies a committed entry that holds a command.
    ///
    /// # Errors
    /// Only if this member must stop.
    ///
    /// # Panics
    /// If entries come out of order, or one comes twice.
    pub fn apply_entry(&mut self, at: Applied, entry: Bytes) -> Result<(Command, Outcome), Halt> {
        let envelope = Envelope::decode(entry.clone())
            .and_then(|envelope| self.check_level(envelope))
            .map_err(|source| Halt::Command { index: at.index, source })?;
        let outcome = self.apply(at, &envelope)?;
        self.store.digest_entry(at, &entry);
        Ok((envelope.command, outcome))
    }

    fn check_level(&self, envelope: Envelope) -> Result<Envelope, CommandError> {
        let (level, known) = (envelope.command.level(), self.options.feature_level);
        if level > known { Err(CommandError::Level { level, known }) } else { Ok(envelope) }
    }

    /// Applies the command of a committed entry, whose bytes the running digest lacks then: for tests.
    ///
    /// # Errors
    /// Only if this member must stop.
    ///
    /// # Panics
    /// If entries come out of order, or one comes twice.
    pub fn apply(&mut self, at: Applied, envelope: &Envelope) -> Result<Outcome, Halt> {
        let command = &envelope.command;
        if matches!(command, Command::ChangeMembership(_)) {
            let source = CommandError::Malformed("place: Raft must know of this change");
            return Err(Halt::Command { index: at.index, source });
        }
        self.step(at);
        if command.is_void(envelope.decided_in, Term(at.term)) {
            let result = Err(ApplyError::OtherTerm);
            return Ok(Outcome { revision: self.store.revision(), result });
        }
        let before = self.store.revision();
        let is_sealed_otherwise = self.known_keys.refuse(self.store.meta(tables::CLUSTER), command);
        let refused = is_sealed_otherwise.then_some(ApplyError::KeyNotActive);
        let result = match self.refused_by_alarm(command).or(refused) {
            Some(error) => Err(error),
            None => match self.execute(command) {
                Ok(response) => Ok(response),
                Err(Failure::Refused(error)) => Err(error),
                Err(Failure::Halt(halt)) => return Err(halt),
            },
        };
        self.assert_sound();
        let revision = self.store.revision();
        assert!(revision >= before, "a revision is never taken back");
        assert!(result.is_ok() || revision == before, "a refused command changes nothing");
        Ok(Outcome { revision, result })
    }

    /// # Panics
    /// Unless leases, attachments and alarms agree with their meta tables: a restart, and a member
    /// that takes over a copy of the store, must find what this one answers from memory.
    fn assert_sound(&self) {
        let len = |table| self.store.meta(table).len();
        assert_eq!(self.lessor.len(), len(tables::LEASES), "each lease is in its table");
        assert_eq!(self.lessor.attached(), len(tables::ATTACHMENTS), "so is each attachment");
        assert_eq!(self.alarms.len(), len(tables::ALARMS), "and each alarm");
        assert!(self.attachments.is_empty(), "no attachment waits for its table");
    }

    /// Passes over a committed entry that holds no command: a new leader's first.
    ///
    /// # Panics
    /// If entries come out of order, or one comes twice.
    pub fn advance(&mut self, at: Applied) {
        self.step(at);
        self.store.digest_entry(at, &[]);
    }

    fn step(&mut self, at: Applied) {
        assert!(self.awaited.is_none(), "Raft's configuration is stored with its change");
        let Applied { index, term } = self.applied;
        assert_eq!(at.index, index + 1, "entries are applied in order, each once");
        assert!(at.term >= term, "terms in the log never fall");
        self.applied = at;
    }

    /// The last entry that was applied, published or not.
    #[must_use]
    pub const fn applied(&self) -> Applied {
        self.applied
    }

    /// Ends a batch: makes everything since the last one visible at once.
    pub fn publish(&mut self) -> AppliedBatch {
        assert!(self.awaited.is_none(), "members are published with Raft's configuration");
        let view = self.store.publish(self.applied);
        let changes = std::mem::take(&mut self.changes);
        let is_ascending = changes.is_sorted_by(|a, b| a.revision < b.revision);
        assert!(is_ascending, "watchers get each revision once, in order");
        assert!(changes.last().is_none_or(|last| last.revision.main == view.revision()));
        AppliedBatch { view, changes }
    }

    /// Whether nothing may be written because of CORRUPT. While a majority of the voters is healthy it
    /// stops only whom it names: that member serves nothing.
    fn is_corrupt(&self) -> bool {
        if !self.has_alarm(ALARM_CORRUPT) {
            return false;
        }
        let level = facts::feature_level(self.store.meta(tables::CLUSTER)).unwrap_or(0);
        let members = membership::members(self.store.meta(tables::MEMBERS)).unwrap_or_default();
        let is_one_of_them = |alarm: &Alarm| members.iter().any(|it| it.id == alarm.member.0);
        let mut corrupt = self.alarms.iter().filter(|alarm| alarm.kind == ALARM_CORRUPT);
        if level < levels::DIGEST_CHECK || !corrupt.all(is_one_of_them) {
            return true;
        }
        let voters = || members.iter().filter(|member| !member.is_learner);
        let is_healthy = |member: &&Member| {
            let alarm = Alarm { member: MemberId(member.id), kind: ALARM_CORRUPT };
            !self.alarms.contains(&alarm)
        };
        let healthy = voters().filter(is_healthy).count();
        healthy <= voters().count() / 2
    }

    /// CORRUPT refuses every write; NOSPACE whatever could grow the store, on either branch.
    fn refused_by_alarm(&self, command: &Command) -> Option<ApplyError> {
        if self.alarms.is_empty() {
            return None;
        }
        let (writes, grows) = match command {
            Command::Put(_) | Command::LeaseGrant { .. } => (true, true),
            Command::Txn(txn) => (true, txn_puts(txn)),
            Command::DeleteRange(_)
            | Command::Compact { .. }
            | Command::LeaseRevoke { .. }
            | Command::LeaseExpire { .. } => (true, false),
            Command::LeaseCheckpoint { .. }
            | Command::AlarmActivate(_)
            | Command::AlarmDeactivate(_)
            | Command::PublishMember { .. }
            | Command::SetActiveKeys(_)
            | Command::SetReadableKeys { .. }
            | Command::SetSealing { .. }
            | Command::ChangeMembership(_)
            | Command::SetClusterVersion { .. }
            | Command::SetFeatureLevel { .. }
            | Command::CheckDigest { .. }
            | Command::SetDowngrade { .. }
            | Command::ClaimBackup { .. } => (false, false),
        };
        if writes && self.is_corrupt() {
            return Some(ApplyError::Corrupt);
        }
        (grows && self.has_alarm(ALARM_NOSPACE)).then_some(ApplyError::NoSpace)
    }

    fn execute(&mut self, command: &Command) -> Result<CommandResponse, Failure> {
        match command {
            Command::Put(put) => {
                let prev = self.write(|execution| execution.put_checked(put))?;
                Ok(CommandResponse::Put { prev })
            }
            Command::DeleteRange(delete) => {
                let (deleted, prev) = self.write(|execution| Ok(execution.delete_range(delete)))?;
                Ok(CommandResponse::DeleteRange { deleted, prev })
            }
            Command::Txn(txn) => {
                Ok(CommandResponse::Txn(self.write(|execution| execution.txn(txn))?))
            }
            Command::Compact { revision } => {
                self.store.compact(*revision).map_err(|error| match error {
                    RangeError::Compacted { .. } => ApplyError::Compacted,
                    RangeError::Future { .. } => ApplyError::FutureRevision,
                })?;
                Ok(CommandResponse::Done)
            }
            Command::LeaseGrant { id, ttl } => self.lease_grant(*id, *ttl),
            Command::LeaseRevoke { id } | Command::LeaseExpire { id } => self.lease_revoke(*id),
            Command::LeaseCheckpoint { id, remaining_ttl } => {
                let checkpoint = self.lessor.checkpoint(*id, *remaining_ttl);
                let lease = checkpoint.map_err(|_unknown| ApplyError::LeaseNotFound)?;
                self.store_lease(&lease);
                Ok(CommandResponse::Done)
            }
            Command::AlarmActivate(alarm) => Ok(self.alarm_activate(*alarm)),
            Command::AlarmDeactivate(alarm) => Ok(self.alarm_deactivate(*alarm)),
            Command::PublishMember { id, name, client_urls } => {
                self.publish_member(*id, name, client_urls)?;
                Ok(CommandResponse::Done)
            }
            Command::SetActiveKeys(keys) => {
                self.set_active_keys(keys);
                Ok(CommandResponse::Done)
            }
            Command::SetReadableKeys { member, keys } => {
                if membership::member(self.store.meta(tables::MEMBERS), *member)?.is_some() {
                    keys::announce(&mut self.store, *member, keys);
                }
                Ok(CommandResponse::Done)
            }
            Command::SetSealing { member, fingerprint } => {
                let key = tables::sealing_key(*member);
                self.store.meta_put(tables::CLUSTER, key, fingerprint.clone());
                Ok(CommandResponse::Done)
            }
            Command::SetClusterVersion { version } => {
                facts::set_version(&mut self.store, version);
                Ok(CommandResponse::Done)
            }
            Command::SetFeatureLevel { level, asked } => {
                self.raise_feature_level(*level, asked)?;
                Ok(CommandResponse::Done)
            }
            Command::CheckDigest { found } => Ok(self.check_digest(*found)),
            Command::SetDowngrade { target } => {
                facts::set_downgrade(&mut self.store, target.as_deref());
                Ok(CommandResponse::Done)
            }
            Command::ClaimBackup { task, after, claim } => {
                claims::replace(&mut self.store, *task, *after, claim);
                Ok(CommandResponse::Done)
            }
            Command::ChangeMembership(_) => {
                unreachable!("`apply` refuses it, `judge_change` is its way")
            }
        }
    }

    /// Sets the keys that the cluster encrypts with, unless they are older.
    fn set_active_keys(&mut self, keys: &ActiveKeys) {
        let current = tables::active_keys(self.store.meta(tables::CLUSTER));
        if current.is_none_or(|current| current.epoch < keys.epoch) {
            let key = Bytes::from_static(tables::ACTIVE_KEYS_KEY);
            self.store.meta_put(tables::CLUSTER, key, keys.encode());
        }
    }

    /// Raises the feature level; a member that had another binary when it was asked may not know it.
    fn raise_feature_level(&mut self, level: u32, asked: &BTreeSet<MemberId>) -> Result<(), Halt> {
        facts::raise_feature_level(&mut self.store, level, asked)?;
        let facts = ClusterFacts::of(self.store.meta(tables::CLUSTER))?;
        facts.check_level(self.options.feature_level)
    }

    /// Stores a member's name and client URLs; as in etcd, not those of a stranger to the cluster.
    fn publish_member(
        &mut self,
        id: MemberId,
        name: &str,
        client_urls: &[String],
    ) -> Result<(), Halt> {
        if let Some(known) = membership::member(self.store.meta(tables::MEMBERS), id)? {
            let (name, client_urls) = (name.to_owned(), client_urls.to_vec());
            Member { name, client_urls, ..known }.store(&mut self.store);
        }
        Ok(())
    }

    /// Runs `work` in one write transaction and keeps its changes for the watchers.
    fn write<T>(
        &mut self,
        work: impl FnOnce(&mut Execution<'_, '_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let compact_revision = self.store.compact_revision();
        let mut txn = self.store.begin();
        let done = work(&mut Execution {
            txn: &mut txn,
            compact_revision,
            lessor: &mut self.lessor,
            attachments: &mut self.attachments,
        })?;
        self.changes.append(&mut txn.finish());
        for (key, lease) in self.attachments.drain(..) {
            if lease.is_none() {
                self.store.meta_delete(tables::ATTACHMENTS, &key);
            } else {
                self.store.meta_put(tables::ATTACHMENTS, key, tables::lease_key(lease));
            }
        }
        Ok(done)
    }

    fn lease_grant(&mut self, id: LeaseId, ttl: i64) -> Result<CommandResponse, Failure> {
        let lease = self.lessor.grant(id, ttl).map_err(|error| match error {
            keepd_lease::Error::Exists(_) => ApplyError::LeaseExists,
            keepd_lease::Error::TtlTooLarge(_) => ApplyError::LeaseTtlTooLarge,
            keepd_lease::Error::NotFound(_)
            | keepd_lease::Error::Expired(_)
            | keepd_lease::Error::NotPrimary => ApplyError::LeaseNotFound,
        })?;
        self.store_lease(&lease);
        Ok(CommandResponse::LeaseGrant { id, ttl: lease.ttl })
    }

    fn store_lease(&mut self, lease: &Lease) {
        let mut encoded = Vec::new();
        lease.encode(&mut encoded);
        self.store.meta_put(tables::LEASES, tables::lease_key(lease.id), encoded.into());
    }

    fn lease_revoke(&mut self, id: LeaseId) -> Result<CommandResponse, Failure> {
        let keys = self.lessor.revoke(id).map_err(|_unknown| ApplyError::LeaseNotFound)?;
        let mut txn = self.store.begin();
        for key in &keys {
            txn.delete_range(&keepd_types::KeyRange::point(key.clone()));
        }
        self.changes.append(&mut txn.finish());
        for key in &keys {
            self.store.meta_delete(tables::ATTACHMENTS, key);
        }
        self.store.meta_delete(tables::LEASES, &tables::lease_key(id));
        Ok(CommandResponse::Done)
    }

    fn check_digest(&mut self, found: Option<DigestFound>) -> CommandResponse {
        if found.is_some_and(|found| found.majority.is_none()) {
            // As in etcd this stands for the whole cluster: nobody knows whom to believe.
            self.alarm_activate(Alarm { member: MemberId(0), kind: ALARM_CORRUPT });
        }
        CommandResponse::Done
    }

    fn alarm_activate(&mut self, alarm: Alarm) -> CommandResponse {
        if !self.alarms.contains(&alarm) {
            self.alarms.push(alarm);
            self.alarms.sort_unstable();
            let key = tables::alarm_key(alarm.member, alarm.kind);
            self.store.meta_put(tables::ALARMS, key, Bytes::new());
        }
        CommandResponse::Alarms(vec![alarm])
    }

    fn alarm_deactivate(&mut self, alarm: Alarm) -> CommandResponse {
        let Some(position) = self.alarms.iter().position(|raised| *raised == alarm) else {
            return CommandResponse::Alarms(Vec::new());
        };
        self.alarms.remove(position);
        self.store.meta_delete(tables::ALARMS, &tables::alarm_key(alarm.member, alarm.kind));
        CommandResponse::Alarms(vec![alarm])
    }
}

/// Leases and alarms as the meta tables of a store have them; all tables are read.
fn restore(store: &Store, options: Options) -> Result<(Lessor, Vec<Alarm>), Halt> {
    let mut lessor = Lessor::new(keepd_lease::Options {
        // Proposers raise short leases; members may differ in how far.
        revoke_retry: options.revoke_retry,
    });
    for value in store.meta(tables::LEASES).values() {
        let lease =
            Lease::decode(value).map_err(|_malformed| Halt::Meta { table: tables::LEASES })?;
        lessor.restore(lease);
    }
    for (key, value) in store.meta(tables::ATTACHMENTS) {
        let halt = Halt::Meta { table: tables::ATTACHMENTS };
        let Some(lease) = tables::read_u64(value) else { return Err(halt) };
        lessor.attach(LeaseId(lease.cast_signed()), key.clone()).map_err(|_unknown| halt)?;
    }
    membership::members(store.meta(tables::MEMBERS))?;
    ClusterFacts::of(store.meta(tables::CLUSTER))?.check_level(options.feature_level)?;
    let mut alarms = Vec::new();
    for key in store.meta(tables::ALARMS).keys() {
        let halt = Halt::Meta { table: tables::ALARMS };
        let Some(member) = tables::read_u64(key) else { return Err(halt) };
        let Some(&kind) = key.get(8) else { return Err(halt) };
        alarms.push(Alarm { member: MemberId(member), kind });
    }
    Ok((lessor, alarms))
}

/// Whether any branch puts: the cost that NOSPACE refuses does not depend on the branch taken.
fn txn_puts(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        Op::Put(_) => true,
        Op::Txn(nested) => txn_puts(nested),
        Op::Range(_) | Op::DeleteRange(_) => false,
    })
}

#[cfg(test)]
mod tests;
