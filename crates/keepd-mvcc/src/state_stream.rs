//! A store's state on its way to another member: out of a view, and into a fresh store.
//!
//! [`StateReader`] makes chunks of a pinned view as they are pulled, [`StateWriter`] takes them as they
//! come and writes a store under its own file keys. Neither holds the state: the reader has one chunk
//! and one item in memory, the writer what the next flush takes, besides the key index that every
//! store has. Layout: `docs/formats/state-stream.md`.
//!
//! INVARIANT: a directory with a whole stream in it is a store with the sender's readable history and
//! hashes; any other stream leaves no directory.

mod format;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use format::{STATE_CHUNK_BYTES_MAX, StateHead};
pub use reader::StateReader;
pub use writer::{StagedState, StateWriter};
