//! Admission of requests that need space on the file system.
//!
//! Whatever a request adds is written twice, into the log and into the store, and some time after
//! it was let in. So what was let in and is not on the disk yet counts as taken, and beside it a
//! margin stays free: NOSPACE is raised before a write fails, and the ballast is left for what gives
//! space back. Other programs that fill the file system are noticed with the next look at it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::ballast::Ballast;

/// Times that the bytes of a request are written: into the log and into the store.
const COPIES: u64 = 2;
/// BOUND: no request costs more than this, so that no sum of costs overflows.
const COST_MAX: u64 = 1 << 40;

#[derive(Debug, Default)]
pub(crate) struct Growth {
    /// Bytes that may be admitted before the free space is measured again.
    budget: AtomicI64,
    /// Bytes of client commands that are not applied yet.
    under_way: AtomicU64,
    /// Bytes that the store will write: its tail, and the copy of a rewrite.
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

    /// Sets the bytes that the store will write.
    pub(crate) fn promise(&self, bytes: u64) {
        self.promised.store(bytes, Ordering::Relaxed);
    }

    /// Bytes of the free space that will be written soon.
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

/// The bytes that a member has on its file system, and what of them it lets requests take.
#[derive(Debug)]
pub(crate) struct DiskSpace {
    pub(crate) ballast: Ballast,
    pub(crate) growth: Growth,
    /// Bytes of live records.
    pub(crate) live_bytes: AtomicI64,
    /// Bytes of the store's files.
    pub(crate) disk_bytes: AtomicI64,
    /// Bytes of the log's files.
    pub(crate) log_bytes: AtomicU64,
}

impl DiskSpace {
    pub(crate) fn new(ballast: Ballast) -> Self {
        Self {
            ballast,
            growth: Growth::default(),
            live_bytes: AtomicI64::new(0),
            disk_bytes: AtomicI64::new(0),
            log_bytes: AtomicU64::new(0),
        }
    }

    /// Whether the file system has space for a request that adds so many bytes; a `true` takes it.
    /// If it has none, whatever grows is refused from now on.
    pub(super) fn admits(&self, cost: u64) -> bool {
        if cost == 0 {
            return true;
        }
        if self.ballast.is_short() {
            return false;
        }
        let bytes = signed(COPIES * cost.min(COST_MAX));
        // Asking the file system for each request would cost more than many requests do.
        if self.growth.take(bytes) {
            return true;
        }
        self.measure();
        let fits = self.growth.take(bytes);
        if !fits {
            self.ballast.refuse_growth();
        }
        fits
    }

    /// Looks how much is free; refuses whatever grows if that is less than the margin.
    pub(super) fn measure(&self) {
        let Some(available) = self.ballast.available_bytes() else {
            self.growth.budget.store(signed(COST_MAX), Ordering::Relaxed);
            return;
        };
        let taken = self.growth.promised_bytes() + self.ballast.owed_bytes();
        let spare = signed(available) - signed(taken + self.ballast.margin());
        self.growth.budget.store(spare, Ordering::Relaxed);
        if spare < 0 {
            self.ballast.refuse_growth();
        }
    }

    /// Bytes that a rewrite may take: while space is short all there are but what is promised, else
    /// those that are free beside the margin.
    pub(crate) fn bytes_for_copies(&self) -> u64 {
        let promised = self.growth.promised_bytes();
        if self.ballast.is_short() {
            return self.ballast.reclaimable_bytes().saturating_sub(promised);
        }
        let available = self.ballast.available_bytes().unwrap_or(u64::MAX);
        available.saturating_sub(promised + self.ballast.owed_bytes() + self.ballast.margin())
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
