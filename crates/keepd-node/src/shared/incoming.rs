//! The one state of another member that may be on its way into this one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// BOUND: one state is received at a time, from its first chunk until it is installed or removed.
#[derive(Debug, Default)]
pub(crate) struct Incoming(Arc<AtomicBool>);

/// The place of a state that is on its way in, until dropped.
#[derive(Debug)]
pub(crate) struct IncomingPlace(Arc<AtomicBool>);

impl Incoming {
    /// Takes the place; `None` if it is taken.
    pub(crate) fn take(&self) -> Option<IncomingPlace> {
        (!self.0.swap(true, Ordering::AcqRel)).then(|| IncomingPlace(Arc::clone(&self.0)))
    }

    /// Whether a state is on its way in.
    pub(crate) fn is_taken(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Drop for IncomingPlace {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
