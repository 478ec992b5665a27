//! Watches, and what they were told.

use std::collections::VecDeque;

use keepd_types::KeyRange;

use crate::truth::Fact;

/// A message of a watch to its client.
#[derive(Clone, Debug)]
pub enum Seen {
    /// It begins behind this revision.
    Begun(i64),
    /// The changes of one message.
    Facts(Vec<Fact>),
    /// A change that cannot be read.
    Garbled(String),
    /// Everything up to this revision was told.
    Progress(i64),
    /// The history that it needs is gone.
    Compacted(i64),
    /// The history that it needs cannot be read.
    Unreadable,
    /// The stream was left.
    Left,
}

/// A watch across the members that it was at.
#[derive(Debug)]
pub struct Watch {
    /// The keys.
    pub range: KeyRange,
    /// Messages that are not checked yet.
    pub seen: VecDeque<Seen>,
    /// The member that it is at.
    pub member: usize,
}
