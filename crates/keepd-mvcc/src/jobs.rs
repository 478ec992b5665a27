//! What other threads run: jobs that own what they need, and what comes of them.
//!
//! The crate has no threads: the store hands jobs out and takes their results in between two batches.

pub(crate) mod checkpoint;
pub(crate) mod flush;
pub(crate) mod rewrite;
