//! A bounded cache of opened blocks, so that hot lists pay neither reading nor decryption.
//!
//! Sets with a lock and a share of the bytes each; inside a set the least recently used block goes
//! first. A block larger than a set's share is never kept. Which blocks are held has no effect on
//! results.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::revlog::block::Block;

/// The bytes of one set: some dozens of blocks.
const SET_BYTES: usize = 512 * 1024;

/// Which block: the segment's id and the position in its table.
pub(crate) type BlockId = (u64, usize);

/// The cache.
#[derive(Debug)]
pub(crate) struct BlockCache {
    sets: Vec<Mutex<Set>>,
}

#[derive(Debug, Default)]
struct Set {
    entries: Vec<Cached>,
    bytes: usize,
    /// Counts uses, to tell which is the oldest.
    clock: u64,
}

#[derive(Debug)]
struct Cached {
    id: BlockId,
    used: u64,
    block: Arc<Block>,
}

/// The cache as one read uses it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheUse<'a> {
    pub(crate) cache: &'a BlockCache,
    /// Whether the blocks that it reads are kept: those of a long list would push out all others, and
    /// be gone themselves before they are wanted again.
    pub(crate) keeps: bool,
}

impl CacheUse<'_> {
    pub(crate) fn get(&self, id: BlockId) -> Option<Arc<Block>> {
        self.cache.get(id)
    }

    pub(crate) fn insert(&self, id: BlockId, block: &Arc<Block>) {
        if self.keeps {
            self.cache.insert(id, block);
        }
    }
}

impl BlockCache {
    /// A cache of at most about `bytes`; 0 caches nothing.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { sets: (0..bytes / SET_BYTES).map(|_| Mutex::default()).collect() }
    }

    pub(crate) fn get(&self, id: BlockId) -> Option<Arc<Block>> {
        let mut set = self.set(id)?.lock();
        set.clock += 1;
        let clock = set.clock;
        let cached = set.entries.iter_mut().find(|cached| cached.id == id)?;
        cached.used = clock;
        Some(Arc::clone(&cached.block))
    }

    pub(crate) fn insert(&self, id: BlockId, block: &Arc<Block>) {
        let bytes = block.bytes();
        let Some(set) = self.set(id).filter(|_| bytes <= SET_BYTES) else { return };
        let mut set = set.lock();
        if set.entries.iter().any(|cached| cached.id == id) {
            return;
        }
        while set.bytes + bytes > SET_BYTES {
            let oldest = set.entries.iter().enumerate().min_by_key(|(_, cached)| cached.used);
            let Some((position, _)) = oldest else { break };
            let gone = set.entries.swap_remove(position);
            set.bytes -= gone.block.bytes();
        }
        set.clock += 1;
        let used = set.clock;
        set.bytes += bytes;
        set.entries.push(Cached { id, used, block: Arc::clone(block) });
    }

    fn set(&self, (segment, block): BlockId) -> Option<&Mutex<Set>> {
        let mixed = segment.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(block as u64);
        let position = mixed.checked_rem(self.sets.len() as u64)?;
        self.sets.get(usize::try_from(position).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use keepd_types::Revision;

    use super::*;
    use crate::record::{Change, ChangeKind, Entry, Record};
    use crate::revlog::block::BlockBuilder;

    #[test]
    fn a_read_that_keeps_nothing_finds_what_others_kept() {
        let record = Record { encoded: b"\x0a\x01k".to_vec().into(), tombstone: false, seal: None };
        let (revision, kind, key) = (Revision::first(2), ChangeKind::Put, b"k".to_vec().into());
        let change = Change { revision, kind, key, created: true, record, prev: None };
        let mut builder = BlockBuilder::default();
        builder.push(&Entry { change, create: 2 });
        let block = Arc::new(Block::parse(builder.finish()).unwrap());
        let cache = BlockCache::new(SET_BYTES);
        let keeping = CacheUse { cache: &cache, keeps: true };
        let passing = CacheUse { cache: &cache, keeps: false };
        passing.insert((1, 0), &block);
        assert!(keeping.get((1, 0)).is_none());
        keeping.insert((1, 0), &block);
        assert!(passing.get((1, 0)).is_some());
    }
}
