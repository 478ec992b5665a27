//! The lessor: all leases of the cluster as this member knows them.
//!
//! The machine calls grant, revoke, attach, detach and checkpoint while it applies; these take no
//! time and give the same result on every member. The node calls the rest: promote and demote when
//! leadership changes, [`Lessor::arm`] after each applied batch, and every half second
//! [`Lessor::expired`] and [`Lessor::unrecorded`], proposing a revoke for what the first returns and
//! a checkpoint for what the second does.
//!
//! Invariants: `owners` and the leases' key sets are each other's inverse; every attached key
//! belongs to one lease; deadlines exist if and only if this member is the primary.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use keepd_types::LeaseId;
use keepd_types::limits::LEASE_TTL_MAX;

use crate::deadlines::{Deadlines, Life};
use crate::{Error, Lease};

/// The remaining seconds of a lease on a member that keeps no deadlines, as etcd shows them: the
/// longest time that 64 bits of nanoseconds can say.
pub const FOREVER_SECONDS: i64 = i64::MAX / 1_000_000_000;

/// The shortest TTL in seconds. A constant: every member must grant the same.
const TTL_MIN: i64 = 1;

/// Settings of a lessor.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Time after which an expired lease that still exists is reported again.
    pub revoke_retry: Duration,
}

/// Result of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// Granted TTL, which the lease has in full again.
    pub ttl: i64,
    /// The lease carries a checkpoint that is now too low, or one is under way: propose one of 0 and
    /// promise nothing before it is applied, or the next primary would end the lease too early.
    pub checkpoint_stale: bool,
}

/// All leases, their keys and, on the primary, their deadlines.
#[derive(Clone, Debug)]
pub struct Lessor {
    options: Options,
    leases: BTreeMap<LeaseId, Held>,
    owners: BTreeMap<Bytes, LeaseId>,
    deadlines: Option<Deadlines>,
}

#[derive(Clone, Debug)]
struct Held {
    lease: Lease,
    keys: BTreeSet<Bytes>,
}

impl Lessor {
    /// No leases, not primary.
    #[must_use]
    pub const fn new(options: Options) -> Self {
        Self { options, leases: BTreeMap::new(), owners: BTreeMap::new(), deadlines: None }
    }

    // --- the replicated half ---------------------------------------------------------------------

    /// Grants a lease; returns it with the effective TTL.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::TtlTooLarge`], or [`Error::NotFound`] for the id zero.
    pub fn grant(&mut self, id: LeaseId, ttl: i64) -> Result<Lease, Error> {
        if id.is_none() {
            return Err(Error::NotFound(id));
        }
        if ttl > LEASE_TTL_MAX {
            return Err(Error::TtlTooLarge(ttl));
        }
        // The proposer has raised it to the shortest that it allows.
        let ttl = ttl.max(TTL_MIN);
        if self.leases.contains_key(&id) {
            return Err(Error::Exists(id));
        }
        let lease = Lease { id, ttl, remaining_ttl: 0 };
        self.restore(lease);
        Ok(lease)
    }

    /// Puts a persisted lease back, without its keys; they are attached from the records.
    pub fn restore(&mut self, lease: Lease) {
        assert!(!lease.id.is_none(), "a stored lease has an id");
        let held = Held { lease, keys: BTreeSet::new() };
        let old = self.leases.insert(lease.id, held);
        assert!(old.is_none(), "a lease is restored once");
        if let Some(deadlines) = &mut self.deadlines {
            deadlines.grant(lease.id, life(&lease));
        }
        self.assert_sound();
    }

    /// Ends a lease; returns the keys that go with it, in byte order.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn revoke(&mut self, id: LeaseId) -> Result<Vec<Bytes>, Error> {
        let held = self.leases.remove(&id).ok_or(Error::NotFound(id))?;
        for key in &held.keys {
            let owner = self.owners.remove(key);
            assert_eq!(owner, Some(id), "attachments are recorded both ways");
        }
        if let Some(deadlines) = &mut self.deadlines {
            deadlines.remove(id);
        }
        self.assert_sound();
        Ok(held.keys.into_iter().collect())
    }

    /// Attaches a key to a lease, taking it from the one it had.
    ///
    /// # Errors
    /// [`Error::NotFound`]; the key then keeps what it had.
    pub fn attach(&mut self, id: LeaseId, key: Bytes) -> Result<(), Error> {
        if !self.leases.contains_key(&id) {
            return Err(Error::NotFound(id));
        }
        if self.lease_of(&key) == id {
            return Ok(());
        }
        self.detach(&key);
        let held = self.leases.get_mut(&id).expect("looked up above");
        let is_new = held.keys.insert(key.clone());
        let owner = self.owners.insert(key, id);
        assert!(is_new && owner.is_none(), "attachments are recorded both ways");
        Ok(())
    }

    /// Takes a key from its lease; returns the lease, [`LeaseId::NONE`] if it had none.
    pub fn detach(&mut self, key: &[u8]) -> LeaseId {
        let Some(id) = self.owners.remove(key) else { return LeaseId::NONE };
        let held = self.leases.get_mut(&id).expect("a key's lease exists");
        let was_attached = held.keys.remove(key);
        assert!(was_attached, "attachments are recorded both ways");
        id
    }

    /// Records the remaining TTL that a primary has seen, or forgets it if zero.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn checkpoint(&mut self, id: LeaseId, remaining_ttl: i64) -> Result<Lease, Error> {
        let held = self.leases.get_mut(&id).ok_or(Error::NotFound(id))?;
        // A foreign file may have brought a negative TTL.
        held.lease.remaining_ttl = remaining_ttl.clamp(0, held.lease.ttl.max(0));
        let lease = held.lease;
        if let Some(deadlines) = &mut self.deadlines {
            deadlines.recorded(id, remaining_ttl);
        }
        self.assert_sound();
        Ok(lease)
    }

    /// A lease by its id.
    #[must_use]
    pub fn get(&self, id: LeaseId) -> Option<Lease> {
        self.leases.get(&id).map(|held| held.lease)
    }

    /// The keys of a lease, in byte order.
    #[must_use]
    pub fn keys(&self, id: LeaseId) -> Option<&BTreeSet<Bytes>> {
        self.leases.get(&id).map(|held| &held.keys)
    }

    /// The lease of a key, [`LeaseId::NONE`] if it has none.
    #[must_use]
    pub fn lease_of(&self, key: &[u8]) -> LeaseId {
        self.owners.get(key).copied().unwrap_or(LeaseId::NONE)
    }

    /// All leases in the order of their ids.
    pub fn leases(&self) -> impl Iterator<Item = Lease> {
        self.leases.values().map(|held| held.lease)
    }

    /// The number of leases.
    #[must_use]
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// The number of keys that are attached to a lease.
    #[must_use]
    pub fn attached(&self) -> usize {
        self.owners.len()
    }

    /// Whether there is no lease.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    // --- the volatile half -----------------------------------------------------------------------

    /// Becomes primary: every lease lives `extend` plus its remaining (or full) TTL from `now`, and
    /// if there are many, longer, so that not all run out at once.
    pub fn promote(&mut self, now: Duration, extend: Duration) {
        let lives = self.leases.values().map(|held| {
            let life = life(&held.lease);
            (held.lease.id, Life { left: life.left.saturating_add(extend), ..life })
        });
        self.deadlines = Some(Deadlines::promoted(lives, now));
        self.assert_sound();
    }

    /// Stops being primary: no lease runs out here.
    pub fn demote(&mut self) {
        self.deadlines = None;
    }

    /// Begins the lives of the leases granted since the last call.
    ///
    /// The node calls it after each applied batch. A time taken before the grant would end a lease
    /// before its TTL, so grants themselves take none; if this call is late, the lease lives
    /// longer.
    pub fn arm(&mut self, now: Duration) {
        if let Some(deadlines) = &mut self.deadlines {
            deadlines.arm(now);
        }
        self.assert_sound();
    }

    /// Gives a lease its full TTL again.
    ///
    /// # Errors
    /// [`Error::NotPrimary`]; [`Error::NotFound`]; [`Error::Expired`] if its time is over, whether
    /// or not that was reported yet: what is promised to end is not brought back.
    pub fn renew(&mut self, id: LeaseId, now: Duration) -> Result<Renewed, Error> {
        let deadlines = self.deadlines.as_mut().ok_or(Error::NotPrimary)?;
        let lease = self.leases.get(&id).ok_or(Error::NotFound(id))?.lease;
        deadlines.arm(now);
        let is_under_way = deadlines.renew(id, life(&lease), now).ok_or(Error::Expired(id))?;
        let checkpoint_stale = is_under_way || lease.remaining_ttl > 0;
        if checkpoint_stale {
            deadlines.record_full(id);
        }
        self.assert_sound();
        Ok(Renewed { ttl: lease.ttl, checkpoint_stale })
    }

    /// Up to `max` leases whose remaining time is to be checkpointed, with it in seconds; the caller
    /// proposes that. None when not primary. It is always less than what is known of the lease, so a
    /// time that no renewal has made full again only falls.
    pub fn unrecorded(&mut self, now: Duration, max: usize) -> Vec<(LeaseId, i64)> {
        let Some(deadlines) = &mut self.deadlines else { return Vec::new() };
        deadlines.arm(now);
        let unrecorded = deadlines.take_unrecorded(now, max, |id, seconds| {
            self.leases.get(&id).is_some_and(|held| {
                let Lease { ttl, remaining_ttl, .. } = held.lease;
                seconds < if remaining_ttl > 0 { remaining_ttl } else { ttl }
            })
        });
        assert!(unrecorded.len() <= max, "no more than the caller can propose");
        self.assert_sound();
        unrecorded
    }

    /// The whole seconds left, truncated toward zero and negative past the deadline;
    /// [`FOREVER_SECONDS`] when not primary. `None` for a missing lease.
    #[must_use]
    pub fn remaining(&self, id: LeaseId, now: Duration) -> Option<i64> {
        let lease = self.get(id)?;
        let Some(deadlines) = &self.deadlines else { return Some(FOREVER_SECONDS) };
        let at = deadlines.at(id).unwrap_or_else(|| now.saturating_add(life(&lease).left));
        let whole = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(FOREVER_SECONDS);
        Some(at.checked_sub(now).map_or_else(|| -whole(now - at), whole))
    }

    /// The first `max` leases after `after` by id, each with the time when it runs out; all at the
    /// same time when not primary.
    #[must_use]
    pub fn list(
        &self,
        after: Option<LeaseId>,
        max: usize,
        now: Duration,
    ) -> Vec<(Duration, LeaseId)> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let page = self.leases.range((after, Bound::Unbounded)).take(max);
        let listed = page.map(|(id, held)| {
            let at = self.deadlines.as_ref().map(|deadlines| {
                deadlines.at(*id).unwrap_or_else(|| now.saturating_add(life(&held.lease).left))
            });
            (at.unwrap_or_default(), *id)
        });
        listed.collect()
    }

    /// Up to `max` leases whose time is over, for which the caller proposes revokes. None when not
    /// primary. A lease comes up again [`Options::revoke_retry`] later if it still exists.
    pub fn expired(&mut self, now: Duration, max: usize) -> Vec<LeaseId> {
        let Some(deadlines) = &mut self.deadlines else { return Vec::new() };
        deadlines.arm(now);
        let due = deadlines.take_due(now, max, self.options.revoke_retry);
        assert!(due.len() <= max, "no more than the caller can revoke");
        self.assert_sound();
        due
    }

    /// # Panics
    /// Unless a primary has a deadline for each lease, and for no other.
    fn assert_sound(&self) {
        let deadlines = self.deadlines.as_ref().map_or(self.leases.len(), Deadlines::len);
        assert_eq!(deadlines, self.leases.len(), "a primary keeps a deadline for each lease");
    }
}

/// Lifetime of a lease from a promotion or its grant on.
fn life(lease: &Lease) -> Life {
    let full = seconds(lease.ttl);
    let left = if lease.remaining_ttl > 0 { seconds(lease.remaining_ttl) } else { full };
    Life { left, full }
}

/// Converts a TTL; a negative one, which only a foreign file can bring, counts as none.
fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}
