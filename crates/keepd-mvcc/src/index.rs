//! The key index: every key with its latest state and what it was since the last compaction.
//!
//! [`tree`] is a persistent B+tree, [`leaf`] its packed leaves, [`past`] what their keys were before,
//! [`history`] the older part of that. Taking a snapshot is one reference
//! count; a writer copies the path to a leaf once per snapshot and then changes it in place.

pub(crate) mod history;
pub(crate) mod leaf;
pub(crate) mod past;
pub(crate) mod scan;
pub(crate) mod steps;
pub(crate) mod tree;

pub(crate) use leaf::State;
pub(crate) use scan::KeyBuffer;
pub(crate) use tree::KeyIndex;
