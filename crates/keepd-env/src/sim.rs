//! An in-memory disk with faults (placeholder, replaced by the wal helper).

/// An in-memory disk.
#[derive(Clone, Debug, Default)]
pub struct SimDisk;
