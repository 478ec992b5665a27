//! Bringing every file under the data key that is active: encryption went on or off, or its keys
//! changed.
//!
//! The last segment follows with the next flush, the manifest with its next edit, checkpoints with
//! the next one that is taken, complete segments by rewrites ([`JobRequest::Reencrypt`](crate::JobRequest::Reencrypt)). A rewrite hands
//! each record that it keeps to the [`Reencryptor`], so values follow their keys on the same way.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use keepd_crypto::{DataKeyId, FileKind};

use crate::jobs::rewrite::RewriteJob;
use crate::revlog::directory::FileName;
use crate::revlog::reencryptor::Reencryptor;
use crate::revlog::segment::Segment;
use crate::store::Store;

impl Store {
    /// Sets the function that rewrites give every kept record to; the first one set stays.
    pub fn set_reencryptor(&self, reencryptor: Reencryptor) {
        // A second one would have to be told which records the first one has seen.
        let _is_first = self.jobs.files.reencryptor.set(reencryptor).is_ok();
    }

    /// A rewrite of the first complete segment that is encrypted with another data key than the
    /// active one. The last segment is not complete: it waits for a flush.
    pub(super) fn reencrypt(&mut self) -> Option<RewriteJob> {
        let (_, complete) = self.now.segments.list.split_last()?;
        let at = (0..complete.len()).position(|at| self.is_to_reencrypt(at))?;
        Some(self.rewrite_of_one(at))
    }

    /// Has every segment that there is rewritten, whatever its data key: some of them hold values
    /// that are not stored as they would be today. The last one follows with the next flush.
    pub fn reencrypt_all(&self) {
        self.jobs.files.rewrite_all();
    }

    /// Whether a segment waits for a rewrite or for the next flush, to be encrypted with the active
    /// data key.
    #[must_use]
    pub fn is_reencrypting(&self) -> bool {
        (0..self.now.segments.list.len()).any(|at| self.is_to_reencrypt(at))
    }

    /// The damaged segments that stay under another data key than the active one: a rewrite would need
    /// records that cannot be read.
    #[must_use]
    pub fn held_back(&self) -> Vec<PathBuf> {
        let list = &self.now.segments.list;
        let is_held = |it: &&Arc<Segment>| self.is_stale(it) && self.is_damaged(it);
        list.iter().filter(is_held).map(|segment| segment.path.clone()).collect()
    }

    fn is_stale(&self, segment: &Segment) -> bool {
        self.jobs.files.is_stale(segment.id, segment.sealer.data_key())
    }

    /// A damaged segment is rewritten only if what cannot be read may be dead.
    fn is_to_reencrypt(&self, at: usize) -> bool {
        let segment = &self.now.segments.list[at];
        self.is_stale(segment) && (!self.is_damaged(segment) || self.is_worth_trying(at))
    }

    /// Whether a kept checkpoint is encrypted with another data key than the active one, as of the last
    /// [`Self::data_keys`]; the next checkpoint takes its place.
    #[must_use]
    pub fn has_stale_checkpoint(&self) -> bool {
        let active = self.jobs.files.dir.keys.active();
        self.jobs.checkpoint_keys.values().any(|key| *key != active)
    }

    /// The number of files encrypted with each data key; [`DataKeyId::PLAIN`] counts the plain ones. Files of
    /// jobs that are out are missing. `None` if the manifest is just being written.
    ///
    /// # Errors
    /// If a checkpoint's header cannot be read.
    pub fn data_keys(&mut self) -> Result<Option<BTreeMap<DataKeyId, u64>>, crate::Error> {
        let checkpoints = self.checkpoint_keys()?;
        let segments = self.now.segments.list.iter().map(|segment| segment.sealer.data_key());
        let Some(manifest) = self.jobs.files.manifest.try_lock() else { return Ok(None) };
        let manifest = manifest.data_key();
        let mut counts = BTreeMap::new();
        for key in segments.chain(checkpoints).chain([manifest]) {
            *counts.entry(key).or_default() += 1;
        }
        Ok(Some(counts))
    }

    /// The data keys of the kept checkpoints, oldest first. Each header is read once.
    fn checkpoint_keys(&mut self) -> Result<Vec<DataKeyId>, crate::Error> {
        let jobs = &mut self.jobs;
        let mut known = BTreeMap::new();
        for mark in &jobs.checkpoints {
            let key = match jobs.checkpoint_keys.get(&mark.id) {
                Some(key) => *key,
                None => {
                    let name = FileName::Checkpoint(mark.id);
                    let opened = jobs.files.dir.open(FileKind::Checkpoint, mark.id, name)?;
                    opened.sealer.data_key()
                }
            };
            known.insert(mark.id, key);
        }
        jobs.checkpoint_keys = known;
        let keys = jobs.checkpoints.iter().filter_map(|mark| jobs.checkpoint_keys.get(&mark.id));
        Ok(keys.copied().collect())
    }
}
