//! The revlog: records on disk, in revision order, in append-only segments of sealed blocks.
//!
//! A storage engine usually writes everything twice: into a log of its own, to be durable, then into
//! its files. Here the Raft log is that log, and the only one. An entry is durable there before it is
//! applied, so the store may keep what was applied in memory and write it later, many entries at once,
//! without a sync for each.
//!
//! ```text
//!   Raft log    | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 |      durable before it is applied
//!                               ^               ^
//!                        durable index 4   applied index 8
//!                               |               |
//!   store       [ segment: blocks, meta, commit ] [ tail: records in memory ]
//!                  revisions 2 to 5                  revisions 6 to 9
//! ```
//!
//! Flush: the tail and the writes to the meta tables become blocks and meta frames at the end of the
//! last segment. The last frame is a commit: applied index, revision and compact revision that all
//! frames up to it belong to. It is one write and one sync. Either the commit is there and whole, and
//! with it everything that it speaks of, or the flush did not happen.
//!
//! Release: once the flush is finished, index 8 is durable in the store, and the Raft log may drop
//! entries up to 8. It never drops one that no commit covers.
//!
//! Start: the store ends with its last commit, here at index 4. Frames after it are of a flush that was
//! cut off, and are ignored. The member applies entries 5 to 8 of the Raft log again. Applying is
//! deterministic and the state at index 4 is exactly what it was, so the same records come out, with the
//! same revisions. That is why data and applied index must become durable in one step: with
//! index 4 and the records of entry 5, entry 5 would be applied twice.
//!
//! An example: `put a` is entry 5. It is synced in the Raft log, applied as revision 6, published,
//! acknowledged. The power goes. The start finds the commit at index 4 and revision 5, applies entry 5
//! again, and `a` has revision 6. Had a flush covered it, the start would read revision 6 from
//! the segment and begin with entry 6. No moment exists at which neither has it.
//!
//! Damage follows the same idea: what the Raft log still holds can be applied again, so a damaged end of
//! the store is cut back to the commit before it (`recovery/rewind.rs`); otherwise it is refused.
//!
//! This folder knows files and no key index: the jobs decide what is written and what is dead. Byte
//! layouts: `docs/formats/revlog.md`.

pub(crate) mod block;
pub(crate) mod cache;
pub(crate) mod directory;
pub(crate) mod files;
pub(crate) mod format;
pub(crate) mod manifest;
pub(crate) mod reencryptor;
pub(crate) mod segment;
pub(crate) mod segment_recovery;
pub(crate) mod wire;
pub(crate) mod writer;
