//! Mutants: faults in the production code that the simulator must find, or its silence means nothing.
//!
//! A build has them only with the feature `mutants`, which no crate asks for and the binary refuses to be
//! built with. Without it [`is_active`] is a constant, and nothing of a mutant is left in the code. With it
//! all are there, and a test chooses one for its own thread.

/// A fault in the production code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The log is not synced.
    SkipSync,
    /// The directory of the log is not synced when a file begins.
    SkipDirSync,
    /// A follower confirms entries before they are in its log.
    ConfirmBeforeSync,
    /// A leader takes for committed what is in its own log.
    CommitAlone,
    /// A linearizable read asks nobody.
    StaleRead,
    /// A linearizable read does not wait until its index is applied.
    EarlyRead,
    /// Some batches of events are not told.
    LostEvent,
    /// A renewal is answered and gives no time.
    EarlyExpiry,
    /// Damage in the log is taken for its end.
    TruncateOnDamage,
    /// All frames of a file have the same nonce.
    NonceReuse,
    /// A start forgets the vote and the term.
    ForgottenVote,
    /// A start takes what it can read of the log for durable.
    ForgottenTail,
    /// Forwarded commands are taken as often as they come.
    DoubleForward,
    /// One member leaves out some commands.
    Divergence,
    /// A change of the membership counts as soon as it is in a member's log.
    ChangeAtAppend,
    /// A state of another member takes the store's place, and the log goes on as it was.
    HalfInstall,
}

impl Mutant {
    /// All mutants.
    pub const ALL: [Self; 16] = [
        Self::SkipSync,
        Self::SkipDirSync,
        Self::ConfirmBeforeSync,
        Self::CommitAlone,
        Self::StaleRead,
        Self::EarlyRead,
        Self::LostEvent,
        Self::EarlyExpiry,
        Self::TruncateOnDamage,
        Self::NonceReuse,
        Self::ForgottenVote,
        Self::ForgottenTail,
        Self::DoubleForward,
        Self::Divergence,
        Self::ChangeAtAppend,
        Self::HalfInstall,
    ];
}

/// Whether this build has mutants.
pub const ARE_BUILT: bool = cfg!(feature = "mutants");

/// Whether a mutant is at work in this thread.
#[cfg(not(feature = "mutants"))]
#[must_use]
#[inline(always)]
#[expect(clippy::inline_always, reason = "nothing of it is to be left")]
pub const fn is_active(_mutant: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub use built::{is_active, set};

#[cfg(feature = "mutants")]
mod built {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Whether a mutant is at work in this thread.
    #[must_use]
    pub fn is_active(mutant: Mutant) -> bool {
        ACTIVE.get() == Some(mutant)
    }

    /// Has a mutant, or none, at work in this thread from now on.
    pub fn set(mutant: Option<Mutant>) {
        ACTIVE.set(mutant);
    }
}
