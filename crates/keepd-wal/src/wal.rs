//! The log's writer.
//!
//! [`Wal::append`] encodes into two buffers that are kept, seals, and writes once. A failed write
//! ends the segment, not the log: the next append begins a new one, so the disk may be full for a
//! while. A failed sync ends the log, because the kernel may have dropped what it should keep.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use keepd_crypto::{FRAME_PLAIN_MAX, FileKeys};
use keepd_env::{DiskDir, Env};
use keepd_types::{Entry, HardState};
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::log::LogShape;
use crate::reader::{Durable, WalReader};
use crate::record::{
    self, BATCH_OVERHEAD, ENTRY_OVERHEAD, KIND_BATCH, KIND_CLOSED, KIND_START, PreviousSegment,
    SegmentHeader, StartRecord,
};
use crate::recovery::{RecoveredLog, list_segments, recover};
use crate::segment::{NewSegment, SegmentWriter, remove_if_present};
use crate::types::{Batch, LogStart, Options, Recovered, SegmentSummary};

/// The largest data of an entry that fits into a frame of its own.
const ENTRY_BYTES_MAX: usize = FRAME_PLAIN_MAX - BATCH_OVERHEAD - ENTRY_OVERHEAD;

/// Capacity that each of the two buffers keeps between batches.
const BUFFER_BYTES_MAX: usize = 4 << 20;

/// A log that is open for writing.
#[derive(Debug)]
pub struct Wal {
    env: Env,
    dir: PathBuf,
    /// The same, open for its syncs.
    folder: Box<dyn DiskDir>,
    keys: FileKeys,
    options: Options,
    metadata: Bytes,
    shape: LogShape,
    /// The full segments that the log still needs, oldest first.
    closed: VecDeque<SegmentSummary>,
    active: SegmentWriter,
    /// The part that readers may read.
    durable: Arc<Mutex<Durable>>,
    /// A sync failed: nothing works any more.
    is_poisoned: bool,
    /// A frame's payload; kept for its capacity.
    payload: Vec<u8>,
    /// A batch's frames; kept for its capacity.
    frames: Vec<u8>,
}

impl Wal {
    /// Whether a directory holds a log.
    ///
    /// # Errors
    /// If the directory cannot be listed.
    pub fn exists(env: &Env, dir: &Path) -> Result<bool> {
        Ok(!list_segments(env, dir)?.is_empty())
    }

    /// Creates a log that starts after `start`. The metadata comes back with every opening.
    ///
    /// # Errors
    /// If there is one already, or the disk refuses.
    pub fn create(
        env: Env,
        dir: &Path,
        keys: FileKeys,
        metadata: &[u8],
        start: LogStart,
    ) -> Result<Self> {
        Self::create_with(env, dir, keys, Options::default(), metadata, start)
    }

    /// [`Wal::create`] with other sizes.
    ///
    /// # Errors
    /// As there.
    pub fn create_with(
        env: Env,
        dir: &Path,
        keys: FileKeys,
        options: Options,
        metadata: &[u8],
        start: LogStart,
    ) -> Result<Self> {
        env.disk.create_dir(dir)?;
        if Self::exists(&env, dir)? {
            return Err(Error::Exists { dir: dir.to_owned() });
        }
        if let Some(parent) = dir.parent() {
            env.disk.sync_dir(parent)?;
        }
        let folder = env.disk.open_dir(dir)?;
        let metadata = Bytes::copy_from_slice(metadata);
        let shape = LogShape::new(start, HardState::default());
        let active = SegmentWriter::create(NewSegment {
            env: &env,
            folder: &*folder,
            dir,
            keys: &keys,
            options: &options,
            sequence: 1,
            head: head(&shape, &metadata, None),
            carried: &[],
        })?;
        let durable = Durable::new(&shape, vec![active.span()]);
        Ok(Self {
            env,
            dir: dir.to_owned(),
            folder,
            keys,
            options,
            metadata,
            shape,
            closed: VecDeque::new(),
            active,
            durable: Arc::new(Mutex::new(durable)),
            is_poisoned: false,
            payload: Vec::new(),
            frames: Vec::new(),
        })
    }

    /// Opens a log and begins a new segment of it. All that was recovered is durable then, also
    /// what the process before wrote and did not sync.
    ///
    /// # Errors
    /// If there is none, if anything that was acknowledged is damaged or missing, or if the disk
    /// refuses.
    pub fn open(env: Env, dir: &Path, keys: FileKeys) -> Result<(Self, Recovered)> {
        Self::open_with(env, dir, keys, Options::default())
    }

    /// [`Wal::open`] with other sizes.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(
        env: Env,
        dir: &Path,
        keys: FileKeys,
        options: Options,
    ) -> Result<(Self, Recovered)> {
        let RecoveredLog {
            recovered,
            next_index,
            base,
            carried,
            segments,
            mut spans,
            previous,
            last_sequence,
            leftovers,
        } = recover(&env, dir, &keys)?;
        let metadata = recovered.metadata.clone();
        let folder = env.disk.open_dir(dir)?;
        let mut shape = LogShape::new(recovered.start, recovered.hard_state);
        shape.extend(&recovered.entries);
        assert_eq!(shape.next_index, next_index, "recovery leaves no gap");
        let active = SegmentWriter::create(NewSegment {
            env: &env,
            folder: &*folder,
            dir,
            keys: &keys,
            options: &options,
            sequence: last_sequence + 1,
            head: SegmentHeader {
                reserved: 0,
                first_index: base.next_index,
                start: base.start,
                hard_state: base.hard_state,
                previous,
                metadata: metadata.clone(),
            },
            carried: &carried,
        })?;
        // ORDER: the new segment is durable before what it replaces goes away.
        for path in &leftovers {
            remove_if_present(&env, path)?;
        }
        if !leftovers.is_empty() {
            folder.sync()?;
        }
        spans.push(active.span());
        let durable = Durable::new(&shape, spans);
        let wal = Self {
            env,
            dir: dir.to_owned(),
            folder,
            keys,
            options,
            metadata,
            shape,
            closed: segments.into(),
            active,
            durable: Arc::new(Mutex::new(durable)),
            is_poisoned: false,
            payload: Vec::new(),
            frames: Vec::new(),
        };
        Ok((wal, recovered))
    }

    /// Reads a log without changing anything, for tools.
    ///
    /// # Errors
    /// As [`Wal::open`].
    pub fn read(env: &Env, dir: &Path, keys: &FileKeys) -> Result<Recovered> {
        Ok(recover(env, dir, keys)?.recovered)
    }

    /// Appends a batch with one write. Durable, and fit to be acknowledged, after [`Wal::sync`].
    ///
    /// # Errors
    /// If the disk refuses; the log is then as before, and the batch may be tried again unless a
    /// sync failed.
    ///
    /// # Panics
    /// If the batch does not follow from the log.
    pub fn append(&mut self, batch: &Batch<'_>) -> Result<()> {
        self.check_usable()?;
        let hard_state = batch.hard_state.filter(|state| *state != self.shape.hard_state);
        if batch.entries.is_empty() && hard_state.is_none() {
            return Ok(());
        }
        self.shape.check(batch.entries, hard_state);
        let mut bytes_max = 0;
        for entry in batch.entries {
            let (index, len) = (entry.index, entry.data.len());
            if len > ENTRY_BYTES_MAX {
                return Err(Error::EntryTooLarge { index, len });
            }
            bytes_max += len + ENTRY_OVERHEAD;
        }
        self.rotate_if_full(bytes_max)?;
        let hard_state = self.write_batch(batch.entries, hard_state)?;
        self.frames.shrink_to(BUFFER_BYTES_MAX);
        self.payload.shrink_to(BUFFER_BYTES_MAX);
        self.shape.extend(batch.entries);
        self.shape.hard_state = hard_state;
        if let Some(last) = batch.entries.last() {
            assert_eq!(self.last_index(), last.index, "the log ends with what was appended");
        }
        assert!(self.active.is_dirty(), "a batch is not durable before the next sync");
        Ok(())
    }

    /// Makes everything appended durable, with at most one call to the disk.
    ///
    /// # Errors
    /// If the disk refuses. Nothing may be acknowledged any more, and every later call fails.
    pub fn sync(&mut self) -> Result<()> {
        self.check_usable()?;
        if self.active.is_dirty() {
            keepd_env::failpoint!(WalBeforeSync);
            let result = self.active.sync();
            keepd_env::failpoint!(WalAfterSync);
            self.poisoning(result)?;
            self.durable.lock().update(&self.shape, self.active.span());
        }
        assert!(!self.active.is_dirty(), "a sync leaves nothing to do");
        Ok(())
    }

    /// Whether [`Wal::sync`] has something to do.
    #[must_use]
    pub const fn is_dirty(&self) -> bool {
        self.active.is_dirty()
    }

    /// Truncates the log up to `index`, durably, and removes the segments that only hold what is
    /// before. A log that has no entry of this term there is dropped as a whole: so it is when a
    /// raft snapshot has been installed. A start that is not ahead changes nothing.
    ///
    /// # Errors
    /// If the disk refuses. If it was a removal, the start has moved all the same, and the files go
    /// with the next release or opening.
    pub fn release(&mut self, index: u64, term: u64) -> Result<()> {
        self.check_usable()?;
        if index > self.shape.start.index {
            self.rotate_if_full(0)?;
            let mut shape = self.shape.clone();
            shape.release(LogStart { index, term });
            let (start, next_index) = (shape.start, shape.next_index);
            let record = StartRecord { watermark: self.active.durable(), start, next_index };
            self.payload.clear();
            record::encode_start(&record, &mut self.payload);
            self.write_frame(KIND_START)?;
            self.shape = shape;
            assert_eq!(self.shape.start.index, index, "the log starts where it was told to");
        }
        // ORDER: the start is durable before the first file goes.
        self.sync()?;
        self.remove_released()
    }

    /// Begins the log anew after a state of another member that has replaced the store: it starts after
    /// `index`, the commit index rises to there, and the older segments go. The vote is kept; a log that
    /// had not come to `term` yet has given none in it. Entries behind `index` stay only if they follow
    /// an entry of this term there: they may have been acknowledged. A log that starts there or behind it
    /// already is not cut.
    ///
    /// # Errors
    /// If the disk refuses: it can be done again, here or by the next start, unless a sync failed.
    pub fn reset(&mut self, index: u64, term: u64) -> Result<()> {
        self.check_usable()?;
        let HardState { term: known, commit, .. } = self.shape.hard_state;
        if term > known && index >= self.shape.start.index {
            let hard_state = Some(HardState { term, vote: 0, commit });
            self.append(&Batch { entries: &[], hard_state })?;
        }
        if index <= self.shape.start.index {
            return self.sync();
        }
        self.release(index, term)?;
        let begun = self.begin_segment(self.options.reserve_bytes);
        if begun.as_ref().is_err_and(|error| !error.is_shortage()) {
            // The log is right as it is, and a full disk gets its space with the next segment.
            return begun;
        }
        self.remove_released()?;
        assert!(self.shape.hard_state.commit >= index, "what the store holds is committed");
        Ok(())
    }

    /// The segment that batches go into.
    #[must_use]
    pub fn active_path(&self) -> &Path {
        &self.active.path
    }

    /// Begins a new segment, under the key that is active now. Nothing happens if the current one
    /// is empty and has that key.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn rotate(&mut self) -> Result<()> {
        self.check_usable()?;
        let is_current = self.active.sealer().data_key() == self.keys.active();
        if self.active.end().frames == 1 && is_current {
            return Ok(());
        }
        self.begin_segment(self.options.reserve_bytes)
    }

    /// Closes the log with a frame that proves everything before it to be durable, so that any
    /// damage is recognised later.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn close(mut self) -> Result<()> {
        self.sync()?;
        if self.active.end().frames > 1 && !self.active.is_broken() {
            self.payload.clear();
            record::encode_watermark(self.active.durable(), &mut self.payload);
            self.write_frame(KIND_CLOSED)?;
            self.sync()?;
        }
        Ok(())
    }

    /// Truncates the log up to `index` and ends it in an orderly way, as small as it can be. What
    /// the disk has no space for is left to the next opening.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn release_and_close(mut self, index: u64, term: u64) -> Result<()> {
        self.release(index, term)?;
        if self.shape.start.index == self.last_index() && self.active.end().frames > 1 {
            let begun = self.begin_segment(0);
            if begun.as_ref().is_err_and(|error| !error.is_shortage()) {
                return begun;
            }
            self.remove_released()?;
        }
        self.close()
    }

    /// The last index; the start's if the log is empty.
    #[must_use]
    pub const fn last_index(&self) -> u64 {
        self.shape.next_index - 1
    }

    /// The term of an entry in the log, or of the start.
    #[must_use]
    pub fn term(&self, index: u64) -> Option<u64> {
        self.shape.term(index)
    }

    /// The start of the log.
    #[must_use]
    pub const fn log_start(&self) -> LogStart {
        self.shape.start
    }

    /// The last hard state.
    #[must_use]
    pub const fn hard_state(&self) -> HardState {
        self.shape.hard_state
    }

    /// A reader of the log, for another thread.
    #[must_use]
    pub fn reader(&self) -> WalReader {
        let durable = Arc::clone(&self.durable);
        WalReader::new(self.env.clone(), self.dir.clone(), self.keys.clone(), durable)
    }

    /// The files of the log, oldest first.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentSummary> {
        let active = self.active.summary();
        self.closed.iter().cloned().chain([active]).collect()
    }

    /// The space that the log takes.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        let closed: u64 = self.closed.iter().map(|segment| segment.bytes).sum();
        closed + self.active.summary().bytes
    }

    fn check_usable(&self) -> Result<()> {
        if self.is_poisoned { Err(Error::Poisoned) } else { Ok(()) }
    }

    /// Poisons the log if a sync failed.
    fn poisoning<T>(&mut self, result: Result<T>) -> Result<T> {
        self.is_poisoned |= result.as_ref().is_err_and(Error::is_failed_sync);
        result
    }

    /// Begins a new segment if the current one is broken or has no space for this number of bytes.
    fn rotate_if_full(&mut self, bytes: usize) -> Result<()> {
        let bytes = u64::try_from(bytes).expect("lengths fit into 64 bits");
        let end = self.active.end();
        let is_full = end.offset.saturating_add(bytes) > self.options.segment_bytes;
        if self.active.is_broken() || (is_full && end.frames > 1) {
            self.begin_segment(self.options.reserve_bytes)?;
        }
        Ok(())
    }

    fn begin_segment(&mut self, reserve_bytes: u64) -> Result<()> {
        // ORDER: the new segment's header says where this one ends, so that must be durable first.
        self.sync()?;
        let options = Options { reserve_bytes, ..self.options };
        let created = SegmentWriter::create(NewSegment {
            env: &self.env,
            folder: &*self.folder,
            dir: &self.dir,
            keys: &self.keys,
            options: &options,
            sequence: self.active.name.sequence + 1,
            head: head(&self.shape, &self.metadata, Some(self.active.link())),
            carried: &[],
        });
        let active = self.poisoning(created)?;
        assert!(active.name.sequence > self.active.name.sequence, "segments are numbered upwards");
        assert_eq!(active.name.first_index, self.shape.next_index, "a segment continues the log");
        self.closed.push_back(self.active.summary());
        self.active = active;
        self.durable.lock().update(&self.shape, self.active.span());
        assert_eq!(self.active.end().frames, 1, "a segment that carries nothing has its header");
        Ok(())
    }

    /// Writes a batch as one or more frames; gives the hard state after it.
    fn write_batch(
        &mut self,
        entries: &[Entry],
        hard_state: Option<HardState>,
    ) -> Result<HardState> {
        self.frames.clear();
        let end = self.active.end();
        let (mut rest, mut ordinal) = (entries, end.frames);
        loop {
            let (chunk, after) = rest.split_at(self.frame_entries(rest));
            rest = after;
            let next_index = chunk.last().map_or(self.shape.next_index, |last| last.index + 1);
            let hard_state = hard_state.map(|state| self.shape.advance(state, next_index));
            self.payload.clear();
            let watermark = self.active.durable();
            record::encode_batch(watermark, hard_state, chunk, &mut self.payload);
            let sealer = self.active.sealer();
            // BOUND: the options' frame size, or one entry, which `append` looked at.
            sealer.seal_frame(ordinal, KIND_BATCH, &self.payload, &mut self.frames)?;
            ordinal += 1;
            if rest.is_empty() {
                self.active.write(ordinal - end.frames, &self.frames, &self.options)?;
                return Ok(hard_state.unwrap_or(self.shape.hard_state));
            }
        }
    }

    /// The number of entries that go into the next frame: at least one.
    fn frame_entries(&self, entries: &[Entry]) -> usize {
        let mut bytes = 0;
        let fits = entries.iter().take_while(|entry| {
            bytes += entry.data.len() + ENTRY_OVERHEAD;
            bytes <= self.options.frame_bytes.min(ENTRY_BYTES_MAX)
        });
        fits.count().max(1).min(entries.len())
    }

    /// Seals `payload` as one frame and writes it.
    fn write_frame(&mut self, kind: u8) -> Result<()> {
        self.frames.clear();
        let ordinal = self.active.end().frames;
        // BOUND: some numbers.
        self.active.sealer().seal_frame(ordinal, kind, &self.payload, &mut self.frames)?;
        self.active.write(1, &self.frames, &self.options)
    }

    /// Removes the segments in front of the newest one that begins at the start or before it.
    fn remove_released(&mut self) -> Result<()> {
        let first_needed = self.shape.start.index + 1;
        let followers = self.closed.iter().skip(1).map(|segment| segment.first_index);
        let starts = followers.chain([self.active.name.first_index]);
        let starts: Vec<bool> = starts.map(|start| start <= first_needed).collect();
        let released = starts.iter().rposition(|is_enough| *is_enough).map_or(0, |at| at + 1);
        if released == 0 || self.closed.is_empty() {
            return Ok(());
        }
        assert!(released <= self.closed.len(), "the active segment stays");
        let kept =
            self.closed.get(released).map_or(self.active.name.sequence, |kept| kept.sequence);
        // ORDER: a reader that finds a file gone sees where the log starts now.
        self.durable.lock().forget_before(kept);
        for _ in 0..released {
            let Some(segment) = self.closed.front() else { break };
            remove_if_present(&self.env, &segment.path)?;
            self.closed.pop_front();
        }
        let synced = self.folder.sync().map_err(Error::Io);
        self.poisoning(synced)
    }
}

/// The header of a segment that begins now.
fn head(shape: &LogShape, metadata: &Bytes, previous: Option<PreviousSegment>) -> SegmentHeader {
    SegmentHeader {
        reserved: 0,
        first_index: shape.next_index,
        start: shape.start,
        hard_state: shape.hard_state,
        previous,
        metadata: metadata.clone(),
    }
}
