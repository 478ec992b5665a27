//! Executing writes: put, delete and transaction in etcd's order.
//!
//! # A transaction
//!
//! 1. **Decide**: every comparison, nested ones included, against the state before the transaction.
//!    That gives the path: the branch of each transaction on it, in depth-first order.
//! 2. **Check**: the operations on the path, against the same state. A failed check therefore
//!    leaves nothing behind.
//! 3. **Execute**: the operations on the path, each seeing the ones before it. All are one
//!    revision.
//!
//! # Values that cannot be compared here
//!
//! Version, create and mod revision, and lease are in the key index, and are compared here. A value
//! may be encrypted, and the state machine has no keys: two members with different keys, or with
//! none, must give the same result. So the member that proposes the transaction compares values
//! before it proposes, from a view that it can decrypt, and puts the *result* into the command:
//!
//! ```text
//!   client            proposer                        log              every member
//!     | txn if          |                              |                    |
//!     | value(a)="x"    |                              |                    |
//!     |---------------->| view at revision 8:          |                    |
//!     |                 | a is "x": result = true      |                    |
//!     |                 | guard = 1 key, revision 8    |                    |
//!     |                 |---- Resolved(a, guard, true) ------------------->| does the guard hold?
//!     |                 |                              |                    |  yes: the result counts
//!     |                 |<--------------- GuardMissed ---------------------|  no: nothing is done
//!     |                 | compares again, proposes again                    |
//! ```
//!
//! Between the view and the entry's turn other entries may have been applied. The [`Guard`] makes
//! that visible without the value: it holds the number of keys in the range, and the store's
//! revision, when they were compared. It holds if the range has that number of keys now, and none
//! of them was written after that revision. This is enough:
//!
//! - A key of the range was written since: its mod revision is above the guard's.
//! - A key was added: likewise, it was written after.
//! - A key was deleted: one key is missing. Another can only make up the number by being written
//!   after the guard's revision, which shows.
//!
//! So a guard is two numbers, for a range of a million keys as for one key, and checking it stops
//! at the first key that breaks it. It can miss without need, when a key was written with the value
//! that it had: then the proposer compares once more.
//!
//! # Example
//!
//! Two clients increment `n`, which is "1" since revision 5. Both proposers see revision 5 and
//! resolve `value(n)="1"` to true, with the guard "1 key, revision 5".
//!
//! | entry | guard of the entry | `n` before | outcome |
//! |---|---|---|---|
//! | 10, from A | 1 key, revision 5 | written at 5 | holds: puts "2" at revision 6 |
//! | 11, from B | 1 key, revision 5 | written at 6 | missed: nothing is done |
//! | 12, from B again | 1 key, revision 6, result false | written at 6 | holds: B's `else` branch runs |
//!
//! Without the guard entry 11 would have put "2" over "2", and an increment would be lost.
//! `tests/golden/guards.txt` has these and the other cases as a script.

use bytes::Bytes;
use keepd_lease::Lessor;
use keepd_mvcc::WriteTxn;
use keepd_types::{KeyRange, KeyValue, LeaseId, Revision, StoredValue};

use crate::command::{Compare, DeleteRange, Guard, Op, Put, Range, Relation, Target, Txn};
use crate::outcome::{ApplyError, Failure, Halt, OpResponse, RecordRef, TxnResponse};

/// One command's work on the store and the leases.
pub(crate) struct Execution<'a, 'store> {
    pub(crate) txn: &'a mut WriteTxn<'store>,
    /// The store's compact revision.
    pub(crate) compact_revision: i64,
    pub(crate) lessor: &'a mut Lessor,
    /// Keys whose lease changed, to be written to the meta tables.
    pub(crate) attachments: &'a mut Vec<(Bytes, LeaseId)>,
}

impl Execution<'_, '_> {
    /// A put on its own.
    pub(crate) fn put_checked(&mut self, put: &Put) -> Result<Option<RecordRef>, Failure> {
        self.check_put(put)?;
        self.put(put)
    }

    /// Removes keys in ascending order.
    pub(crate) fn delete_range(&mut self, delete: &DeleteRange) -> (i64, Vec<RecordRef>) {
        let removed = self.txn.delete_range(&delete.range);
        for (key, _) in &removed {
            if !self.lessor.detach(key).is_none() {
                self.attachments.push((key.clone(), LeaseId::NONE));
            }
        }
        let deleted = i64::try_from(removed.len()).expect("keys fit into memory");
        let prev = if delete.prev_kv {
            removed.into_iter().map(|(key, revision)| RecordRef { key, revision }).collect()
        } else {
            Vec::new()
        };
        (deleted, prev)
    }

    /// A transaction: decide, check, execute.
    pub(crate) fn txn(&mut self, txn: &Txn) -> Result<TxnResponse, Failure> {
        let mut path = Vec::new();
        self.decide(txn, &mut path)?;
        self.check(txn, &mut path.iter())?;
        let begin = self.txn.current();
        let mut path = path.iter();
        let response = self.execute(txn, begin, &mut path)?;
        assert!(path.next().is_none(), "every transaction on the path was executed");
        Ok(response)
    }

    /// Evaluates all comparisons; the branches taken, in depth-first order, are added to `path`.
    fn decide(&self, txn: &Txn, path: &mut Vec<bool>) -> Result<(), Failure> {
        let mut holds = true;
        for compare in &txn.compares {
            match compare {
                Compare::Number { range, target, relation, operand } => {
                    holds = holds && self.compare(range, *target, *relation, *operand);
                }
                Compare::Resolved { range, guard, result } => {
                    // Every guard is checked, also after a comparison that failed: which of them
                    // the proposer looked at must not matter.
                    if !self.guard_holds(range, *guard) {
                        return Err(ApplyError::GuardMissed.into());
                    }
                    holds &= *result;
                }
            }
        }
        path.push(holds);
        for op in branch(txn, holds) {
            if let Op::Txn(nested) = op {
                self.decide(nested, path)?;
            }
        }
        Ok(())
    }

    /// Whether a number of every key of a range compares; an absent key counts as zero.
    fn compare(&self, range: &KeyRange, target: Target, relation: Relation, operand: i64) -> bool {
        let mut key = Vec::new();
        let all = self.txn.all(range, |prefix, suffix, state| {
            let number = if target == Target::Lease {
                key.clear();
                key.extend_from_slice(prefix);
                key.extend_from_slice(suffix);
                self.lessor.lease_of(&key).0
            } else {
                target.of(state, operand)
            };
            relation.holds(&number, &operand)
        });
        let absent = if target == Target::Unknown { operand } else { 0 };
        all.unwrap_or_else(|| relation.holds(&absent, &operand))
    }

    fn guard_holds(&self, range: &KeyRange, guard: Guard) -> bool {
        let mut keys = 0;
        let all = self.txn.all(range, |_, _, state| {
            keys += 1;
            keys <= guard.keys && state.mod_revision.main <= guard.revision
        });
        all.unwrap_or(true) && keys == guard.keys
    }

    /// The operations on the path, against the state before the transaction.
    fn check<'p>(
        &self,
        txn: &Txn,
        path: &mut impl Iterator<Item = &'p bool>,
    ) -> Result<(), ApplyError> {
        let holds = *path.next().expect("decide walked the same transactions");
        for op in branch(txn, holds) {
            match op {
                Op::Range(range) => self.check_range(range)?,
                Op::Put(put) => self.check_put(put)?,
                Op::DeleteRange(_) => {}
                Op::Txn(nested) => self.check(nested, path)?,
            }
        }
        Ok(())
    }

    fn check_range(&self, range: &Range) -> Result<(), ApplyError> {
        if range.revision == 0 {
            return Ok(());
        }
        if range.revision > self.txn.current() {
            return Err(ApplyError::FutureRevision);
        }
        // Before the first compaction the bound is -1, so that -1 passes and -2 does not: etcd's
        // clients can see this.
        if range.revision < self.compact_revision {
            return Err(ApplyError::Compacted);
        }
        Ok(())
    }

    fn check_put(&self, put: &Put) -> Result<(), ApplyError> {
        if !put.lease.is_none() && self.lessor.get(put.lease).is_none() {
            return Err(ApplyError::LeaseNotFound);
        }
        if (put.ignore_value || put.ignore_lease) && self.txn.get(&put.key).is_none() {
            return Err(ApplyError::KeyNotFound);
        }
        Ok(())
    }

    fn execute<'p>(
        &mut self,
        txn: &Txn,
        begin: i64,
        path: &mut impl Iterator<Item = &'p bool>,
    ) -> Result<TxnResponse, Failure> {
        let succeeded = *path.next().expect("decide walked the same transactions");
        let mut responses = Vec::new();
        for op in branch(txn, succeeded) {
            responses.push(match op {
                Op::Range(range) => self.range(range, begin)?,
                Op::Put(put) => {
                    let prev = self.put(put)?;
                    OpResponse::Put { header_revision: begin + 1, prev }
                }
                Op::DeleteRange(delete) => {
                    let (deleted, prev) = self.delete_range(delete);
                    OpResponse::DeleteRange { header_revision: self.seen(begin), deleted, prev }
                }
                Op::Txn(nested) => OpResponse::Txn(self.execute(nested, begin, path)?),
            });
        }
        Ok(TxnResponse { succeeded, responses })
    }

    /// The revision an operation's header shows: the new one as soon as something has changed.
    fn seen(&self, begin: i64) -> i64 {
        if self.txn.changed() { begin + 1 } else { begin }
    }

    fn range(&self, range: &Range, begin: i64) -> Result<OpResponse, Failure> {
        let limit = usize::try_from(range.fetch_limit).unwrap_or(usize::MAX);
        let (keys, count) = if range.revision > 0 {
            let refs = self.txn.range_before(&range.range, range.revision, limit);
            let refs = refs.map_err(Halt::from)?;
            (refs.keys, refs.count)
        } else {
            self.txn.range(&range.range, limit)
        };
        Ok(OpResponse::Range {
            header_revision: self.seen(begin),
            records: keys.into_iter().map(|(key, revision)| RecordRef { key, revision }).collect(),
            count,
        })
    }

    fn put(&mut self, put: &Put) -> Result<Option<RecordRef>, Failure> {
        let value = match self.txn.get(&put.key) {
            Some(state) if put.ignore_value => self.stored_value(state.mod_revision)?,
            // The key was there before the transaction, and an earlier operation of it has removed
            // it: only a delete without an end gets past the edge like that. etcd crashes here.
            None if put.ignore_value => StoredValue::default(),
            Some(_) | None => put.value.clone(),
        };
        let old_lease = self.lessor.lease_of(&put.key);
        let lease = if put.ignore_lease { old_lease } else { put.lease };
        if lease != old_lease {
            self.lessor.detach(&put.key);
            // The command's own bytes would keep the whole entry of the log in memory.
            let key = Bytes::copy_from_slice(&put.key);
            if !lease.is_none() {
                let attached = self.lessor.attach(lease, key.clone());
                attached.expect("check_put found the lease, and nothing here ends one");
            }
            self.attachments.push((key, lease));
        }
        let prev = self.txn.put(put.key.clone(), value, lease);
        let prev = prev.filter(|_| put.prev_kv);
        Ok(prev.map(|revision| RecordRef { key: put.key.clone(), revision }))
    }

    /// The value of a record as it is stored, ciphertext and mark included.
    fn stored_value(&self, revision: Revision) -> Result<StoredValue, Failure> {
        let record = self.txn.load(revision).map_err(Halt::from)?;
        let kv = KeyValue::decode(&record.encoded).map_err(Halt::from)?;
        Ok(StoredValue { bytes: kv.value, seal: record.seal })
    }
}

fn branch(txn: &Txn, holds: bool) -> &[Op] {
    if holds { &txn.success } else { &txn.failure }
}
