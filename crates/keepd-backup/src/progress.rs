//! What a long run tells of itself, for a progress bar.

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The file's SHA-256 is compared.
    Verify,
    /// The file is read.
    Read,
    /// Records are written into the store.
    Import,
}

/// How far a stage has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all; an estimate from above, except for [`Stage::Verify`].
    pub total: u64,
}
