//! The verdict of an invariant.

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The name of its file.
    pub invariant: &'static str,
    /// The contradiction that was seen.
    pub what: String,
}

/// Whether an invariant holds.
pub type Verdict = Result<(), Broken>;

/// The verdict of an invariant by what it found.
///
/// # Errors
/// If it found a contradiction.
pub fn verdict(invariant: &'static str, found: Result<(), String>) -> Verdict {
    found.map_err(|what| Broken { invariant, what })
}
