//! The levels behind the gate in front of whatever older members cannot read (rule 9.22): the one place that is asked
//! before a command or a record of a new kind is written is `Shared::may_write`.
//!
//! Each kind has the feature level that brought it. It may be written once the level of the cluster,
//! which the leader raises when all members have announced it (`versions.rs`), has come so far. Who
//! adds a kind raises [`FEATURE_LEVEL`] and adds a row to [`Feature`].

use keepd_machine::facts::DIGEST_CHECK_LEVEL;

/// The newest level of commands, records and messages that this version reads, and announces.
pub const FEATURE_LEVEL: u32 = 4;

/// A kind of command, record or message that not every version can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// The command that begins and ends a downgrade.
    Downgrade,
    /// The command that compares digests, and the messages that go with it.
    DigestChecks,
    /// The question of a member that starts to the others, and their answers: sent to whoever has
    /// announced it.
    Rejoin,
}

impl Feature {
    /// The level that brought it.
    pub(crate) const fn level(self) -> u32 {
        match self {
            Self::Downgrade => 2,
            Self::DigestChecks => DIGEST_CHECK_LEVEL,
            Self::Rejoin => 4,
        }
    }
}
