//! The end of the backups' thread, for it to wait for.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// A flag that is set once.
#[derive(Debug, Default)]
pub(in crate::serve) struct Stop {
    is_set: Mutex<bool>,
    told: Condvar,
}

impl Stop {
    pub(in crate::serve) fn set(&self) {
        *self.is_set.lock() = true;
        self.told.notify_all();
    }

    pub(in crate::serve) fn is_set(&self) -> bool {
        *self.is_set.lock()
    }

    /// Waits for it, for so long at most; whether it is set.
    pub(in crate::serve) fn wait(&self, limit: Duration) -> bool {
        let mut is_set = self.is_set.lock();
        if !*is_set {
            let _timeout = self.told.wait_for(&mut is_set, limit);
        }
        *is_set
    }
}
