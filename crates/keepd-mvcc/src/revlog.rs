//! The revlog: records on disk, in revision order, in append-only segments of sealed blocks.
//!
//! It has no log of its own: the Raft log is the log. A flush appends blocks and ends with a
//! commit, so that records and the applied index become durable in one step. Byte layouts:
//! `docs/formats/revlog.md`. It knows files and no key index: what is written and what is dead is
//! decided by the jobs.

pub(crate) mod block;
pub(crate) mod cache;
pub(crate) mod directory;
pub(crate) mod files;
pub(crate) mod format;
pub(crate) mod manifest;
pub(crate) mod reseal;
pub(crate) mod scan;
pub(crate) mod segment;
pub(crate) mod wire;
pub(crate) mod writer;
