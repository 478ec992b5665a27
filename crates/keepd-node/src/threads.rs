//! The parts of a member, one for each of its threads.

pub(crate) mod apply;
pub(crate) mod background;
pub(crate) mod hub;
pub(crate) mod log_reader;
pub(crate) mod raft;
pub(crate) mod wal;
