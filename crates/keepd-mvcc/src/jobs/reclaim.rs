//! Purpose and limits of a rewrite that gives space back.

/// Purpose and limits of a rewrite.
#[derive(Clone, Copy, Debug)]
pub struct Reclaim {
    /// The share of dead records that is worth a rewrite.
    pub urgency: Urgency,
    /// The bytes that a copy may take on the disk.
    pub room: u64,
    /// Space is short: the fewest bytes to copy first, instead of the most to gain.
    pub is_short: bool,
    /// Only segments with lower ids ([`Store::next_file`](crate::Store::next_file)), so that a round of rewrites ends.
    pub below: u64,
}

impl Reclaim {
    /// A rewrite of anything, with all the space that there is.
    #[must_use]
    pub const fn of(urgency: Urgency) -> Self {
        Self { urgency, room: u64::MAX, is_short: false, below: u64::MAX }
    }
}

/// Share of dead records from which a segment is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// At least half of the records are dead.
    Normal,
    /// At least a quarter is.
    High,
    /// Any record is dead.
    Full,
}

impl Urgency {
    /// The share of dead records that is worth a rewrite, in percent.
    pub(crate) const fn dead_percent(self) -> u64 {
        match self {
            Self::Normal => 50,
            Self::High => 25,
            Self::Full => 0,
        }
    }
}
