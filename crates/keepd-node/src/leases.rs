//! Leases as the apply part keeps them: deadlines while this member leads, renewals, ends, and how
//! much time is left for the next leader.
//!
//! Whatever is decided here holds for the term that this member leads in: commands of its own carry
//! it and are void in an entry of another term. A renewal that contradicts a recorded time is answered
//! when the log says so too, so that a client is promised nothing that the next leader would not keep.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use keepd_env::mutants::{self, Mutant};
use keepd_lease::Lessor;
use keepd_machine::{ApplyError, Command, Outcome};
use keepd_types::{LeaseId, Term};

use crate::messages::{LeaseTimeToLive, PIECE_MAX, Renewal, Reply};
use crate::shared::Shared;

/// Interval between two looks for leases that have ended or are to be recorded.
const INTERVAL: Duration = Duration::from_millis(500);
/// BOUND: ends proposed per look; 1000 a second, as in etcd.
const EXPIRED_MAX: usize = 500;
/// BOUND: remaining times proposed per look; 1000 a second.
const RECORDED_MAX: usize = 500;
/// BOUND: renewals that wait for the log.
const WAITING_MAX: usize = 100_000;

/// A renewal that waits for the log.
#[derive(Debug)]
struct Waiting {
    ttl: i64,
    /// The time at which whoever asked has given up.
    until: Duration,
    reply: Reply<Renewal>,
}

#[derive(Debug)]
pub(crate) struct LeaseKeeper {
    shared: Arc<Shared>,
    /// The term this member leads in; leases are taken over with its first own entry.
    leads: Option<Term>,
    due: Duration,
    waiting: BTreeMap<LeaseId, Vec<Waiting>>,
    waiting_count: usize,
}

impl LeaseKeeper {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            leads: None,
            due: Duration::ZERO,
            waiting: BTreeMap::new(),
            waiting_count: 0,
        }
    }

    /// The term in which this member leads has changed.
    pub(crate) fn lead(&mut self, lessor: &mut Lessor, term: Option<Term>) {
        if term != self.leads {
            // The deadlines are those of one term: another leader may have renewed leases since.
            lessor.demote();
            for waiting in std::mem::take(&mut self.waiting).into_values().flatten() {
                waiting.reply.send(Renewal::NotPrimary);
            }
            self.waiting_count = 0;
        }
        self.leads = term;
    }

    /// The first entry of a leader is applied: whatever earlier terms committed is here. Whether that
    /// leader is this member.
    pub(crate) fn take_over(&self, lessor: &mut Lessor, term: Term) -> bool {
        let is_own = self.leads == Some(term);
        if is_own {
            let now = self.shared.env.clock.monotonic();
            lessor.promote(now, self.shared.options.election_timeout);
        }
        is_own
    }

    /// Renews a lease.
    pub(crate) fn renew(&mut self, lessor: &mut Lessor, id: LeaseId, reply: Reply<Renewal>) {
        let now = self.shared.env.clock.monotonic();
        if mutants::is_active(Mutant::EarlyExpiry)
            && let Some(lease) = lessor.get(id).filter(|_| self.leads.is_some())
        {
            return reply.send(Renewal::Renewed { ttl: lease.ttl });
        }
        let renewed = match lessor.renew(id, now) {
            Ok(renewed) => renewed,
            Err(keepd_lease::Error::NotPrimary) => return reply.send(Renewal::NotPrimary),
            Err(_) => return reply.send(Renewal::Gone),
        };
        if !renewed.checkpoint_stale {
            self.shared.metrics.lease_renewed.fetch_add(1, Ordering::Relaxed);
            return reply.send(Renewal::Renewed { ttl: renewed.ttl });
        }
        if self.waiting_count >= WAITING_MAX {
            return reply.send(Renewal::NotPrimary);
        }
        let until = now + self.shared.options.request_timeout();
        let waiting = Waiting { ttl: renewed.ttl, until, reply };
        self.waiting.entry(id).or_default().push(waiting);
        self.waiting_count += 1;
        let full = Command::LeaseCheckpoint { id, remaining_ttl: 0 };
        self.shared.propose_own(full, self.leads, now);
    }

    /// A command is applied: renewals may have waited for it.
    pub(crate) fn applied(&mut self, command: &Command, outcome: &Outcome) {
        let Command::LeaseCheckpoint { id, remaining_ttl: 0 } = command else { return };
        let is_known = match outcome.result {
            Ok(_) => true,
            Err(ApplyError::LeaseNotFound) => false,
            // Of an earlier term, and so void.
            Err(_) => return,
        };
        let Some(waiting) = self.waiting.remove(id) else { return };
        self.waiting_count -= waiting.len();
        for Waiting { ttl, reply, .. } in waiting {
            if is_known {
                self.shared.metrics.lease_renewed.fetch_add(1, Ordering::Relaxed);
            }
            reply.send(if is_known { Renewal::Renewed { ttl } } else { Renewal::Gone });
        }
    }

    /// Proposes the end of every lease whose time is over, and records how much others have left.
    pub(crate) fn turn(&mut self, lessor: &mut Lessor, now: Duration) {
        if now < self.due {
            return;
        }
        self.due = now + INTERVAL;
        for id in lessor.expired(now, EXPIRED_MAX) {
            self.shared.metrics.lease_expired.fetch_add(1, Ordering::Relaxed);
            self.shared.propose_own(Command::LeaseExpire { id }, self.leads, now);
        }
        for (id, remaining_ttl) in lessor.unrecorded(now, RECORDED_MAX) {
            let left = Command::LeaseCheckpoint { id, remaining_ttl };
            self.shared.propose_own(left, self.leads, now);
        }
        self.forget_waiting(now);
    }

    /// Forgets those who have given up: what they waited for got lost.
    fn forget_waiting(&mut self, now: Duration) {
        if self.waiting_count == 0 {
            return;
        }
        self.waiting.retain(|_, waiting| {
            waiting.retain(|it| it.until > now);
            !waiting.is_empty()
        });
        self.waiting_count = self.waiting.values().map(Vec::len).sum();
    }

    /// A lease's time and, if wanted, its keys behind this one.
    pub(crate) fn time_to_live(
        &self,
        lessor: &Lessor,
        id: LeaseId,
        keys_after: Option<&Bytes>,
    ) -> Option<LeaseTimeToLive> {
        let lease = lessor.get(id)?;
        let remaining = lessor.remaining(id, self.shared.env.clock.monotonic())?;
        let keys = lessor.keys(id).zip(keys_after).map(|(keys, after)| {
            let behind = keys.range::<Bytes, _>((Bound::Excluded(after), Bound::Unbounded));
            behind.take(PIECE_MAX).cloned().collect()
        });
        Some(LeaseTimeToLive {
            granted_ttl: lease.ttl,
            remaining_ttl: remaining,
            keys: keys.unwrap_or_default(),
        })
    }
}
