//! The end of a member: its reason if it stopped by itself, and what an orderly stop hands on.

use keepd_mvcc::Applied;
use keepd_wal::Wal;
use parking_lot::Mutex;
use tokio::sync::watch;

/// The reason why a member stopped by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HaltReason(pub String);

impl HaltReason {
    /// The end of a member that was removed from its cluster, in etcd's words.
    pub(super) fn removed() -> Self {
        Self("the member has been permanently removed from the cluster".to_owned())
    }

    /// Whether the member was removed from its cluster: then this end is what was asked for.
    #[must_use]
    pub fn is_removal(&self) -> bool {
        *self == Self::removed()
    }
}

#[derive(Debug)]
pub(crate) struct Shutdown {
    halted: watch::Sender<Option<HaltReason>>,
    /// Applied entries that are durable in the store after the last flush of an orderly stop.
    pub(crate) flushed: Mutex<Option<Applied>>,
    /// The log of a member that stops, to be closed when the last flush is durable.
    pub(crate) stopped_log: Mutex<Option<Wal>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        let halted = watch::Sender::new(None);
        Self { halted, flushed: Mutex::default(), stopped_log: Mutex::default() }
    }
}

impl Shutdown {
    /// Keeps the first reason to halt; whether it is this one.
    pub(super) fn halt(&self, reason: HaltReason) -> bool {
        self.halted.send_if_modified(|halted| {
            let is_first = halted.is_none();
            if is_first {
                *halted = Some(reason);
            }
            is_first
        })
    }

    pub(super) fn is_halted(&self) -> bool {
        self.halted.borrow().is_some()
    }

    pub(super) fn halted(&self) -> watch::Receiver<Option<HaltReason>> {
        self.halted.subscribe()
    }
}
