//! Looking into a directory without touching it: what a start would find.

use std::path::Path;
use std::sync::Arc;

use keepd_crypto::FileKeys;
use keepd_env::Env;

use super::{check_orphans, open_segments, read_checkpoints, replay, trim};
use crate::error::Error;
use crate::meta::Meta;
use crate::revlog::cache::BlockCache;
use crate::revlog::directory::{Directory, Name};
use crate::revlog::format::Commit;
use crate::revlog::manifest::Manifest;
use crate::revlog::segment::Segments;
use crate::tail::Tail;
use crate::view::View;

/// What the inspected store's cache may hold.
const CACHE_BYTES: usize = 8 << 20;

/// Reads the store in `path` as a start would, and writes nothing; an empty view if there is none.
///
/// # Errors
/// If the disk fails, a file is damaged or missing, or a key is.
pub fn inspect(env: &Env, path: &Path, keys: &FileKeys) -> Result<Arc<View>, Error> {
    let dir = Directory::new(env.clone(), path.to_owned(), keys.clone());
    let names: Vec<Name> =
        dir.env.disk.list(path)?.iter().filter_map(|name| Name::parse(name)).collect();
    let manifests = names.iter().filter_map(|name| match name {
        Name::Manifest(number) => Some(*number),
        _ => None,
    });
    let mut view = View {
        index: crate::index::KeyIndex::default(),
        revision: Commit::NONE.revision,
        compact_revision: Commit::NONE.compact_revision,
        applied: Commit::NONE.applied,
        tail: Tail::default(),
        segments: Arc::new(Segments::default()),
        cache: Arc::new(BlockCache::new(CACHE_BYTES)),
        meta: Arc::new(Meta::default()),
    };
    let Some(number) = manifests.max() else { return Ok(Arc::new(view)) };
    let mut live = Manifest::load(&dir, number)?;
    let segments = Arc::new(open_segments(&dir, &mut live)?.0);
    check_orphans(&dir, &names, &live)?;
    let commit = segments.list.last().map_or(Commit::NONE, |last| last.table.commit);
    let (checkpoint, _) = read_checkpoints(&dir, &mut live, commit)?;
    let mut durable = replay(&segments, checkpoint, commit)?;
    trim(&mut durable);
    view.index = durable.index;
    view.revision = commit.revision;
    view.compact_revision = commit.compact_revision;
    view.applied = commit.applied;
    view.segments = segments;
    view.meta = durable.meta;
    Ok(Arc::new(view))
}
