//! Admitting what grows, as long as the file system has room for it.
//!
//! Whatever a request adds is written twice, into the log and into the store, and some time after
//! it was let in. So what was let in and is not on the disk yet counts as taken, and beside it a
//! margin stays free: NOSPACE is raised before a write fails, and the ballast is left for what gives
//! space back. Other programs that fill the file system are noticed with the next look at it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use keepd_machine::Command;

use crate::shared::Shared;

/// How often what a request adds is written: into the log and into the store.
const COPIES: u64 = 2;
/// BOUND: no request costs more than this, so that no sum of costs overflows.
const COST_MAX: u64 = 1 << 40;

#[derive(Debug, Default)]
pub(crate) struct Growth {
    /// What may be let in before the file system is looked at again.
    budget: AtomicI64,
    /// Bytes of client commands that are not applied yet.
    under_way: AtomicU64,
    /// What the store will write: its tail, and what a rewrite copies.
    promised: AtomicU64,
}

/// A command's bytes under way, until dropped.
#[derive(Debug)]
pub(crate) struct UnderWay<'a> {
    growth: &'a Growth,
    bytes: u64,
}

impl Growth {
    /// Counts a command as under way.
    pub(crate) fn count(&self, bytes: usize) -> UnderWay<'_> {
        let bytes = u64::try_from(bytes).unwrap_or(COST_MAX);
        self.under_way.fetch_add(bytes, Ordering::Relaxed);
        UnderWay { growth: self, bytes }
    }

    /// Tells what the store will write.
    pub(crate) fn promise(&self, bytes: u64) {
        self.promised.store(bytes, Ordering::Relaxed);
    }

    /// What of the free space is as good as taken.
    pub(crate) fn promised_bytes(&self) -> u64 {
        let under_way = self.under_way.load(Ordering::Relaxed);
        self.promised.load(Ordering::Relaxed) + COPIES * under_way
    }

    fn take(&self, bytes: i64) -> bool {
        self.budget.fetch_sub(bytes, Ordering::Relaxed) >= bytes
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.growth.under_way.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Shared {
    /// Whether the file system has room for a request that adds so many bytes; a `true` takes it.
    pub(crate) fn admits(&self, cost: u64) -> bool {
        if cost == 0 {
            return true;
        }
        if self.ballast.is_short() {
            return false;
        }
        let bytes = signed(COPIES * cost.min(COST_MAX));
        // Looking at the file system for each request would cost more than many requests do.
        if self.growth.take(bytes) {
            return true;
        }
        self.measure_space();
        let fits = self.growth.take(bytes);
        if !fits {
            self.refuse_growth();
        }
        fits
    }

    /// Looks what is free; refuses what grows if that is less than the margin.
    pub(crate) fn measure_space(&self) {
        let Some(available) = self.ballast.available_bytes() else {
            self.growth.budget.store(signed(COST_MAX), Ordering::Relaxed);
            return;
        };
        let taken = self.growth.promised_bytes() + self.ballast.owed_bytes();
        let spare = signed(available) - signed(taken + self.ballast.margin());
        self.growth.budget.store(spare, Ordering::Relaxed);
        if spare < 0 {
            self.refuse_growth();
        }
    }

    /// What a rewrite may take: while space is short all that there is but what is promised, else
    /// what is free beside the margin.
    pub(crate) fn room_for_copies(&self) -> u64 {
        let promised = self.growth.promised_bytes();
        if self.ballast.is_short() {
            return self.ballast.reclaimable_bytes().saturating_sub(promised);
        }
        let available = self.ballast.available_bytes().unwrap_or(u64::MAX);
        available.saturating_sub(promised + self.ballast.owed_bytes() + self.ballast.margin())
    }

    /// Refuses whatever grows from now on, and raises the alarm.
    fn refuse_growth(&self) {
        if self.ballast.refuse_growth() {
            let alarm = Command::AlarmActivate(self.nospace());
            self.propose_own(alarm, None, self.env.clock.monotonic());
        }
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
