//! One segment while it is written: names, creation, appending.
//!
//! A segment gets its name only when its header frame and what it carries over are durable, so damage
//! there is never a torn write. The steps: create `<name>.tmp`, reserve space, write, sync, rename,
//! sync the directory.

use std::path::{Path, PathBuf};

use keepd_crypto::{FILE_HEADER_LEN, FileKeys, FileKind, FileSealer};
use keepd_env::mutants::{self, Mutant};
use keepd_env::{DiskDir, DiskFile, Env, IoError};

use crate::error::{Error, Result};
use crate::record::{self, PreviousSegment, Record, SegmentHeader, StartRecord, Watermark};
use crate::types::{Options, SegmentPosition, SegmentSummary};

const EXTENSION: &str = "wal";
const TEMPORARY_EXTENSION: &str = "tmp";

/// Name of a segment's file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentName {
    pub(crate) sequence: u64,
    pub(crate) first_index: u64,
}

impl SegmentName {
    /// Reads a file's name; `None` if it is not a segment's.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (numbers, extension) = name.split_once('.')?;
        let (sequence, first_index) = numbers.split_once('-')?;
        let hex = |digits: &str| u64::from_str_radix(digits, 16).ok();
        let parsed = Self { sequence: hex(sequence)?, first_index: hex(first_index)? };
        (extension == EXTENSION && parsed.file_name() == name).then_some(parsed)
    }

    /// Whether a file is a segment that did not get its name yet.
    pub(crate) fn is_temporary(name: &str) -> bool {
        name.strip_suffix(TEMPORARY_EXTENSION)
            .and_then(|name| name.strip_suffix('.'))
            .is_some_and(|name| Self::parse(name).is_some())
    }

    pub(crate) fn file_name(&self) -> String {
        format!("{:016x}-{:016x}.{EXTENSION}", self.sequence, self.first_index)
    }

    pub(crate) fn path(&self, dir: &Path) -> PathBuf {
        dir.join(self.file_name())
    }
}

/// A segment and the end of its durable frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) name: SegmentName,
    pub(crate) end: SegmentPosition,
}

/// The segment that is being written.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    file: Box<dyn DiskFile>,
    pub(crate) path: PathBuf,
    pub(crate) name: SegmentName,
    sealer: FileSealer,
    /// The end of the last frame.
    end: SegmentPosition,
    /// The length up to which space is reserved.
    reserved: u64,
    /// The part that the last sync has made durable.
    durable: Watermark,
    /// A write failed: what the file holds after `end` is unknown, and no ordinal is used twice.
    is_broken: bool,
}

/// Arguments of a segment's creation.
pub(crate) struct NewSegment<'a> {
    pub(crate) env: &'a Env,
    /// `dir`, opened before: once the segment has its name, nothing but a failed sync may end its
    /// creation, or the segment before it would be written beyond the end that it names.
    pub(crate) folder: &'a dyn DiskDir,
    pub(crate) dir: &'a Path,
    pub(crate) keys: &'a FileKeys,
    pub(crate) options: &'a Options,
    pub(crate) sequence: u64,
    /// Its header; `reserved` is filled in.
    pub(crate) head: SegmentHeader,
    /// Records that it holds before it has its name.
    pub(crate) carried: &'a [Record],
}

impl SegmentWriter {
    /// Creates a segment, durably. On a full disk it is begun without a reserve: a start that needs
    /// it in order to give space back must not fail for the reserve.
    pub(crate) fn create(new: NewSegment<'_>) -> Result<Self> {
        match Self::create_with(&new, new.options.reserve_bytes) {
            Err(error) if error.is_out_of_space() && new.options.reserve_bytes > 0 => {
                Self::create_with(&new, 0)
            }
            created => created,
        }
    }

    fn create_with(new: &NewSegment<'_>, reserve_bytes: u64) -> Result<Self> {
        let NewSegment { env, dir, keys, sequence, carried, .. } = *new;
        let name = SegmentName { sequence, first_index: new.head.first_index };
        let path = name.path(dir);
        let temporary = dir.join(format!("{}.{TEMPORARY_EXTENSION}", name.file_name()));
        remove_if_present(env, &temporary)?;
        let sealer = keys.create(FileKind::Wal, sequence, env.random.as_ref());
        let head = SegmentHeader { reserved: reserve_bytes, ..new.head.clone() };
        let mut payload = Vec::new();
        record::encode_head(&head, &mut payload);
        let mut bytes = sealer.header().to_vec();
        // BOUND: the member's metadata and some numbers.
        sealer.seal_frame(0, record::KIND_HEAD, &payload, &mut bytes)?;
        let mut count = 1;
        for record in carried {
            payload.clear();
            // Nothing of the file is durable yet.
            let kind = encode_carried(record, Watermark::default(), &mut payload);
            // BOUND: each was a frame with a longer watermark.
            sealer.seal_frame(count, kind, &payload, &mut bytes)?;
            count += 1;
        }
        if !carried.is_empty() {
            // True once the file has its name: damage to what it carries is never a torn write.
            payload.clear();
            let carried = Watermark { frames: count, len: head.reserved };
            record::encode_watermark(carried, &mut payload);
            sealer.seal_frame(count, record::KIND_CLOSED, &payload, &mut bytes)?;
            count += 1;
        }
        let frames = bytes.get(FILE_HEADER_LEN..).unwrap_or_default();
        let end = SegmentPosition::start().advance(count, frames);

        let file = env.disk.create(&temporary)?;
        let written = fill(&*file, &bytes, head.reserved)
            // ORDER: the name appears only when what it names is whole.
            .and_then(|()| env.disk.rename(&temporary, &path));
        if let Err(error) = written {
            // On a full disk it would take the space that others wait for; if it cannot go now, the
            // next creation or start removes it.
            let _is_gone = env.disk.remove(&temporary).is_ok();
            return Err(error.into());
        }
        if !mutants::is_active(Mutant::SkipDirSync) {
            new.folder.sync()?;
        }
        assert_eq!(end.frames, count, "every frame of a new segment is counted");
        let reserved = head.reserved.max(end.offset);
        let durable = Watermark { frames: end.frames, len: reserved };
        Ok(Self { file, path, name, sealer, end, reserved, durable, is_broken: false })
    }

    pub(crate) const fn sealer(&self) -> &FileSealer {
        &self.sealer
    }

    pub(crate) const fn end(&self) -> SegmentPosition {
        self.end
    }

    pub(crate) const fn durable(&self) -> Watermark {
        self.durable
    }

    /// Whether a failed write has ended the segment.
    pub(crate) const fn is_broken(&self) -> bool {
        self.is_broken
    }

    pub(crate) const fn is_dirty(&self) -> bool {
        self.durable.frames < self.end.frames
    }

    /// The reference to this segment for the next one's header.
    pub(crate) fn link(&self) -> PreviousSegment {
        PreviousSegment {
            sequence: self.name.sequence,
            header: self.sealer.header(),
            end: self.end,
        }
    }

    /// The frames of a segment that is synced.
    pub(crate) fn span(&self) -> Span {
        assert!(!self.is_dirty(), "readers see what is durable");
        Span { name: self.name.clone(), end: self.end }
    }

    pub(crate) fn summary(&self) -> SegmentSummary {
        SegmentSummary {
            path: self.path.clone(),
            sequence: self.name.sequence,
            first_index: self.name.first_index,
            bytes: self.reserved,
            data_key: self.sealer.data_key().0,
        }
    }

    /// Writes `frames` whole frames, sealed with the ordinals from `end().frames` on.
    pub(crate) fn write(&mut self, frames: u64, bytes: &[u8], options: &Options) -> Result<()> {
        assert!(!self.is_broken, "a segment ends with its first failed write");
        assert!(frames > 0 && !bytes.is_empty(), "a write has a frame");
        let end = self.end.advance(frames, bytes);
        if end.offset > self.reserved {
            let step = self.reserved.saturating_add(options.reserve_bytes);
            let wanted = step.min(options.segment_bytes).max(end.offset);
            let reserved = match self.file.allocate(wanted) {
                // The step may be too much where the write itself is not.
                Err(error) if error.is_out_of_space() && wanted > end.offset => {
                    self.file.allocate(end.offset).map(|()| end.offset)
                }
                result => result.map(|()| wanted),
            };
            self.reserved = reserved.map_err(|error| self.named(error))?;
        }
        if let Err(error) = self.file.write_all_at(bytes, self.end.offset) {
            self.is_broken = true;
            return Err(self.named(error));
        }
        self.end = end;
        Ok(())
    }

    /// Makes everything written durable.
    pub(crate) fn sync(&mut self) -> Result<()> {
        if !mutants::is_active(Mutant::SkipSync) {
            self.file.sync().map_err(|error| self.named(error))?;
        }
        let durable = Watermark { frames: self.end.frames, len: self.reserved };
        assert!(durable.frames >= self.durable.frames, "durable frames stay durable");
        self.durable = durable;
        Ok(())
    }

    /// The file was opened under its temporary name.
    fn named(&self, error: IoError) -> Error {
        Error::Io(IoError { path: self.path.clone(), ..error })
    }
}

/// Appends the payload of a record that comes from another segment; its kind.
fn encode_carried(record: &Record, watermark: Watermark, out: &mut Vec<u8>) -> u8 {
    match record {
        Record::Batch(batch) => {
            record::encode_batch(watermark, batch.hard_state, &batch.entries, out);
            record::KIND_BATCH
        }
        Record::Start(start) => {
            record::encode_start(&StartRecord { watermark, ..*start }, out);
            record::KIND_START
        }
        Record::Head(_) | Record::Closed(_) => unreachable!("they belong to their segment alone"),
    }
}

/// Reserves space for a new segment and writes how it begins.
fn fill(file: &dyn DiskFile, bytes: &[u8], reserved: u64) -> std::result::Result<(), IoError> {
    if reserved > 0 {
        file.allocate(reserved)?;
    }
    file.write_all_at(bytes, 0)?;
    file.sync()
}

/// Removes a file that may have gone already.
pub(crate) fn remove_if_present(env: &Env, path: &Path) -> Result<()> {
    match env.disk.remove(path) {
        Err(error) if !error.is_not_found() => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_not_ours() {
        let name = SegmentName { sequence: 0x1f, first_index: 7 };
        assert_eq!(name.file_name(), "000000000000001f-0000000000000007.wal");
        assert_eq!(SegmentName::parse(&name.file_name()), Some(name.clone()));
        assert!(SegmentName::is_temporary(&format!("{}.tmp", name.file_name())));
        for other in ["LOCK", "1f-7.wal", "000000000000001F-0000000000000007.wal", "x.tmp", ".tmp"]
        {
            assert_eq!(SegmentName::parse(other), None);
            assert!(!SegmentName::is_temporary(other));
        }
    }
}
