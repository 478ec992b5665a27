//! The watch hub: synced and unsynced watchers, catch-up, progress.
