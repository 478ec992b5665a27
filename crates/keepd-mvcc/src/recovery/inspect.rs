//! Looking into a directory without touching it: what a start would find.

use std::path::Path;
use std::sync::Arc;

use keepd_crypto::FileKeys;
use keepd_env::Env;

use super::{check_orphans, open_segments, read_checkpoints, replay, trim};
use crate::durable::Durable;
use crate::error::Error;
use crate::revlog::cache::BlockCache;
use crate::revlog::directory::{Directory, FileName};
use crate::revlog::format::FlushCommit;
use crate::revlog::manifest::Manifest;
use crate::view::View;

/// Bytes that the inspected store's cache may hold.
const CACHE_BYTES: usize = 8 << 20;

/// Reads the store in `path` as a start would, and writes nothing; an empty view if there is none.
///
/// # Errors
/// If the disk fails, a file is damaged or missing, or a key is.
pub fn inspect(env: &Env, path: &Path, keys: &FileKeys) -> Result<Arc<View>, Error> {
    let dir = Directory::new(env.clone(), path.to_owned(), keys.clone());
    let names: Vec<FileName> =
        dir.env.disk.list(path)?.iter().filter_map(|name| FileName::parse(name)).collect();
    let manifests = names.iter().filter_map(|name| match name {
        FileName::Manifest(number) => Some(*number),
        _ => None,
    });
    let cache = Arc::new(BlockCache::new(CACHE_BYTES));
    let view = |durable: &Durable, segments| Arc::new(View::of(durable, segments, cache));
    let Some(number) = manifests.max() else {
        return Ok(view(&Durable::nothing(), Arc::default()));
    };
    let mut live = Manifest::load(&dir, number)?;
    let segments = Arc::new(open_segments(&dir, &mut live)?.0);
    check_orphans(&dir, &names, &live)?;
    let commit = segments.list.last().map_or(FlushCommit::NONE, |last| last.table.commit);
    let (checkpoint, _) = read_checkpoints(&dir, &mut live, commit)?;
    let mut durable = replay(&segments, checkpoint, commit)?;
    trim(&mut durable);
    Ok(view(&durable, segments))
}
