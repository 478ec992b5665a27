//! Sizes of the store's files and of its cache.

/// Sizes that may be tuned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// A segment is full beyond this.
    pub segment_bytes: u64,
    /// A block is full beyond this; larger records have their own.
    pub block_bytes: usize,
    /// Bytes of opened blocks that the cache may hold.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, block_bytes: 4 << 10, cache_bytes: 256 << 20 }
    }
}
