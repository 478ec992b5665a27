//! Places at which a member can be told to stop or to pause, under the names that etcd has for the
//! places of the same meaning; etcd has none of backups.
//!
//! Nothing here can be told anything: only a binary that is built for it arms the places
//! (`crates/keepd/src/failpoints.rs`, feature `failpoints`). In every other one a place costs one read
//! of a number that never changes.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The effect of a place that was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// None.
    Nothing,
    /// Whoever passes it is to wait.
    Sleep(Duration),
    /// Whoever passes it is to leave out what follows, if that is possible.
    Skip,
}

/// Decides what a place does; it does not return from one that ends the process.
pub type Handler = fn(Place) -> Effect;

static IS_ARMED: AtomicBool = AtomicBool::new(false);
static HANDLER: OnceLock<Handler> = OnceLock::new();

/// Has a handler decide what places do, from now on. Only the first one counts.
pub fn arm(handler: Handler) {
    HANDLER.get_or_init(|| handler);
    // ORDER: after the handler is there.
    IS_ARMED.store(true, Ordering::Release);
}

/// Passes a place: ends or pauses the thread if it is told to.
#[inline]
pub fn pass(place: Place) {
    if let Effect::Sleep(time) = effect(place) {
        std::thread::sleep(time);
    }
}

/// Passes the place that is chosen, if there is somebody to tell what it does.
#[inline]
pub fn pass_one_of(choose: impl FnOnce() -> Place) {
    if IS_ARMED.load(Ordering::Relaxed) {
        pass(choose());
    }
}

/// Passes a place in a task: the time for which it is to wait.
#[inline]
#[must_use]
pub fn pause(place: Place) -> Option<Duration> {
    match effect(place) {
        Effect::Sleep(time) => Some(time),
        Effect::Nothing | Effect::Skip => None,
    }
}

#[inline]
fn effect(place: Place) -> Effect {
    if IS_ARMED.load(Ordering::Relaxed) { decide(place) } else { Effect::Nothing }
}

#[cold]
fn decide(place: Place) -> Effect {
    HANDLER.get().map_or(Effect::Nothing, |handler| handler(place))
}

/// Passes a place, by the name that [`Place`] has for it.
#[macro_export]
macro_rules! failpoint {
    ($place:ident) => {
        $crate::failpoints::pass($crate::failpoints::Place::$place)
    };
}

macro_rules! places {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A place.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Place {
            $($(#[$doc])* $variant,)*
        }

        impl Place {
            /// Every place.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name; etcd's, if it has the place.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

places! {
    /// A batch of entries and the hard state are about to be written to the log.
    RaftBeforeSave = "raftBeforeSave",
    /// They are durable, and nobody was told.
    RaftAfterSave = "raftAfterSave",
    /// The log was written and is about to be synced.
    WalBeforeSync = "walBeforeSync",
    /// The log was synced.
    WalAfterSync = "walAfterSync",
    /// A leader is about to send messages to members.
    RaftBeforeLeaderSend = "raftBeforeLeaderSend",
    /// Another member is about to send messages to members.
    RaftBeforeFollowerSend = "raftBeforeFollowerSend",
    /// Committed entries are about to be handed to the apply part.
    RaftBeforeAdvance = "raftBeforeAdvance",
    /// The log let segments go.
    RaftAfterWalRelease = "raftAfterWALRelease",
    /// A state of another member is complete and about to be committed to.
    RaftBeforeSaveSnap = "raftBeforeSaveSnap",
    /// The record that it is to become this member's is durable.
    RaftAfterSaveSnap = "raftAfterSaveSnap",
    /// The store of that state is about to take the place of the old one.
    RaftBeforeApplySnap = "raftBeforeApplySnap",
    /// It took it.
    RaftAfterApplySnap = "raftAfterApplySnap",
    /// That store is about to be opened.
    ApplyBeforeOpenSnapshot = "applyBeforeOpenSnapshot",
    /// It is open.
    ApplyAfterOpenSnapshot = "applyAfterOpenSnapshot",
    /// A command is about to be applied.
    BeforeApplyOneEntryNormal = "beforeApplyOneEntryNormal",
    /// A change of the configuration is about to be judged.
    BeforeApplyOneConfChange = "beforeApplyOneConfChange",
    /// A batch is applied and about to be published to readers.
    BeforeWritebackBuf = "beforeWritebackBuf",
    /// It is published.
    AfterWritebackBuf = "afterWritebackBuf",
    /// A flush of the store is about to begin.
    BeforeStartDbTxn = "beforeStartDBTxn",
    /// The segment that it writes into is open.
    AfterStartDbTxn = "afterStartDBTxn",
    /// The records of a flush are gathered; the tables are about to be.
    CommitBeforePreCommitHook = "commitBeforePreCommitHook",
    /// The tables are gathered, and the frame that makes them count is about to be.
    CommitAfterPreCommitHook = "commitAfterPreCommitHook",
    /// A flush is about to be written and synced.
    BeforeCommit = "beforeCommit",
    /// It is durable.
    AfterCommit = "afterCommit",
    /// The bound of a compaction is about to be set.
    CompactBeforeCommitScheduledCompact = "compactBeforeCommitScheduledCompact",
    /// It is set.
    CompactAfterCommitScheduledCompact = "compactAfterCommitScheduledCompact",
    /// A rewrite of segments is about to be named in the manifest.
    CompactBeforeCommitBatch = "compactBeforeCommitBatch",
    /// It is named.
    CompactAfterCommitBatch = "compactAfterCommitBatch",
    /// The segments that a rewrite replaced are about to go.
    CompactBeforeSetFinishedCompact = "compactBeforeSetFinishedCompact",
    /// They are gone.
    CompactAfterSetFinishedCompact = "compactAfterSetFinishedCompact",
    /// A checkpoint is about to be written.
    DefragBeforeCopy = "defragBeforeCopy",
    /// It is written and synced, and about to be named.
    DefragBeforeRename = "defragBeforeRename",
    /// The member is about to tell its name and URLs to the cluster.
    BeforePublishing = "beforePublishing",
    /// An answer to a watcher is about to be sent.
    BeforeSendWatchResponse = "beforeSendWatchResponse",
    /// A backup that no rule keeps is about to be removed.
    BackupBeforePrune = "backupBeforePrune",
    /// Its object is gone, and its sidecar is not.
    BackupPruneHalf = "backupPruneHalf",
    /// Both are gone.
    BackupAfterPrune = "backupAfterPrune",
    /// A batch of the shipped log that nothing needs is gone.
    BackupLogPruned = "backupLogPruned",
    /// A backup was proven again, and its sidecar is about to say so.
    BackupBeforeNoteProof = "backupBeforeNoteProof",
    /// It says so.
    BackupAfterNoteProof = "backupAfterNoteProof",
    /// A batch of the log is sealed and about to be uploaded.
    ShipBeforeUpload = "shipBeforeUpload",
    /// It is in its place, and the member does not know it yet.
    ShipAfterUpload = "shipAfterUpload",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_a_place_does_nothing_until_it_is_armed() {
        let mut names: Vec<&str> = Place::ALL.iter().map(|place| place.name()).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        pass(Place::WalBeforeSync);
        assert_eq!(pause(Place::WalBeforeSync), None);
        arm(|place| match place {
            Place::WalBeforeSync => Effect::Sleep(Duration::from_millis(3)),
            _ => Effect::Skip,
        });
        assert_eq!(pause(Place::WalBeforeSync), Some(Duration::from_millis(3)));
        assert_eq!(pause(Place::WalAfterSync), None);
    }
}
