//! Planned faults of a simulated disk: the call that fails, and its error.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::disk::IoOp;

/// A call that a [`super::SimDisk`] received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The call.
    pub op: IoOp,
    /// The file or directory.
    pub path: PathBuf,
    /// Whether it changes something or makes it durable.
    pub mutating: bool,
}

/// One planned fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultPlan {
    /// Only calls of this kind count; `None` counts all.
    pub op: Option<IoOp>,
    /// The number of counted calls before the failing one.
    pub after: u64,
    /// The error it fails with.
    pub error: ErrorKind,
    /// Whether the calls after it fail too.
    pub sticky: bool,
}

impl FaultPlan {
    /// The call after the next `after` ones fails once.
    #[must_use]
    pub const fn once(op: Option<IoOp>, after: u64, error: ErrorKind) -> Self {
        Self { op, after, error, sticky: false }
    }

    /// Every sync fails from now on.
    #[must_use]
    pub const fn failing_syncs() -> Self {
        Self { op: Some(IoOp::Sync), after: 0, error: ErrorKind::Other, sticky: true }
    }
}

/// The counters and plans of a disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub(super) calls: u64,
    pub(super) mutations: u64,
    pub(super) crash_at: Option<u64>,
    pub(super) capacity: Option<u64>,
    /// The limit ends with so many refusals.
    pub(super) refusals: Option<u64>,
    /// No file can be opened.
    pub(super) lacks_descriptors: bool,
    pub(super) log: Option<Vec<Call>>,
    plans: Vec<FaultPlan>,
}

impl Faults {
    pub(super) fn add(&mut self, plan: FaultPlan) {
        self.plans.push(plan);
    }

    pub(super) fn heal(&mut self) {
        self.plans.clear();
        self.capacity = None;
        self.refusals = None;
        self.lacks_descriptors = false;
        self.crash_at = None;
    }

    /// Counts a call that found no space.
    pub(super) fn refuse(&mut self) {
        let Some(refusals) = &mut self.refusals else { return };
        *refusals = refusals.saturating_sub(1);
        if *refusals == 0 {
            (self.capacity, self.refusals) = (None, None);
        }
    }

    /// Whether the power is still on.
    pub(super) fn is_powered(&self) -> bool {
        self.crash_at.is_none_or(|last| self.mutations <= last)
    }

    /// Counts a call and says whether it may run.
    pub(super) fn admit(&mut self, op: IoOp, path: &Path) -> io::Result<()> {
        let mutating = !matches!(op, IoOp::Open | IoOp::Read | IoOp::Stat);
        self.calls += 1;
        self.mutations += u64::from(mutating);
        if let Some(log) = &mut self.log {
            log.push(Call { op, path: path.to_owned(), mutating });
        }
        if !self.is_powered() {
            return Err(io::Error::other("the simulated power is off"));
        }
        if self.lacks_descriptors && matches!(op, IoOp::Create | IoOp::Open) {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let mut failure = None;
        self.plans.retain_mut(|plan| {
            if plan.op.is_some_and(|only| only != op) {
                return true;
            }
            if plan.after > 0 {
                plan.after -= 1;
                return true;
            }
            failure = Some(plan.error);
            plan.sticky
        });
        failure.map_or(Ok(()), |kind| Err(io::Error::new(kind, "an injected fault")))
    }
}
