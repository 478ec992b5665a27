//! Disk, clock and randomness: the system's, and simulated ones with faults for tests.
//!
//! A member's state is read and written, time is read and random numbers are drawn through this crate
//! alone. Only the edges and the binary open files themselves: their own configuration, certificates
//! and logs. [`Env`] bundles the three;
//! [`Env::real`] is production, [`sim::SimDisk`] is an in-memory disk that loses unsynced writes,
//! tears them, fills up and fails on the Nth call.

pub mod clock;
pub mod disk;
pub mod failpoints;
pub mod mutants;
pub mod random;
pub mod real;
pub mod sim;

use std::sync::Arc;

pub use clock::{Clock, ManualClock, SystemClock};
pub use disk::{
    DirLock, Disk, DiskDir, DiskFile, DiskSpace, FileId, Found, IoError, IoOp, LOCK_NAME,
};
pub use random::{Random, SeededRandom, SystemRandom};
pub use real::RealDisk;
pub use sim::SimDisk;

/// Disk, clock and randomness of a member.
#[derive(Clone, Debug)]
pub struct Env {
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Salts, nonces, identifiers, election timeouts.
    pub random: Arc<dyn Random>,
}

impl Env {
    /// The system's own.
    #[must_use]
    pub fn real() -> Self {
        Self {
            disk: Arc::new(RealDisk::new()),
            clock: Arc::new(SystemClock::new()),
            random: Arc::new(SystemRandom::new()),
        }
    }

    /// The system's own, but nothing is synced.
    #[must_use]
    pub fn real_unsynced() -> Self {
        Self { disk: Arc::new(RealDisk::unsynced()), ..Self::real() }
    }

    /// A simulated disk, a clock moved by hand and a seeded generator.
    #[must_use]
    pub fn simulated(seed: u64) -> (Self, SimDisk, ManualClock) {
        let (disk, clock) = (SimDisk::new(), ManualClock::new());
        let env = Self {
            disk: Arc::new(disk.clone()),
            clock: Arc::new(clock.clone()),
            random: Arc::new(SeededRandom::new(seed)),
        };
        (env, disk, clock)
    }
}
