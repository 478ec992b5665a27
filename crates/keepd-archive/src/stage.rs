//! The stages of long work, as a progress bar shows them.

/// A stage of the work, for a progress bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The object is read and opened.
    Fetch,
    /// The snapshot is checked.
    Check,
    /// The snapshot is restored.
    Restore,
}

/// Tells of a stage: bytes done and in all.
pub type Tell<'a> = dyn FnMut(Stage, u64, u64) + 'a;
