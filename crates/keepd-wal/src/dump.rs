//! The log frame by frame as it lies on the disk: for tests and for whoever has to look into a
//! damaged log (`keepd debug dump-log`).
//!
//! Unlike recovery it shows everything, overwritten and released entries too, and goes on with the
//! next segment after damage. The log may be written meanwhile: segments that are begun later are
//! not shown, and what the newest one ends in may be a write that is under way.

use std::path::{Path, PathBuf};

use keepd_crypto::{FileKeys, FrameError};
use keepd_env::Env;

use crate::error::{Error, Result};
use crate::record::Record;
use crate::recovery::list_segments;
use crate::segment::SegmentName;
use crate::segment_reader::{FrameReader, PlacedRecord, Step};
use crate::types::TornTail;

/// One frame of the log.
#[derive(Clone, Debug)]
pub struct DumpedFrame {
    /// The segment's file.
    pub path: PathBuf,
    /// The segment's number.
    pub sequence: u64,
    /// The data key that seals the segment; 0 is none.
    pub data_key: u32,
    /// The frame's number in it.
    pub frame: u64,
    /// Its offset in the file.
    pub offset: u64,
    /// Its content.
    pub record: Record,
}

/// All frames, segment by segment. A segment that cannot be read to its end gives one error there.
///
/// BOUND: one segment is in memory, two for the moment in which it is judged how one ended.
#[derive(Debug)]
pub struct Dump {
    env: Env,
    dir: PathBuf,
    keys: FileKeys,
    /// The segments that are still to come, newest first.
    waiting: Vec<SegmentName>,
    reader: Option<(SegmentName, FrameReader)>,
    torn: Option<TornTail>,
}

impl Dump {
    /// Starts with the oldest segment; changes nothing on the disk.
    ///
    /// # Errors
    /// If the directory cannot be listed.
    pub fn new(env: Env, dir: &Path, keys: FileKeys) -> Result<Self> {
        let waiting = list_segments(&env, dir)?.into_values().rev().collect();
        Ok(Self { env, dir: dir.to_owned(), keys, waiting, reader: None, torn: None })
    }

    /// The cut-off write that the segment before the frame or error that came last ended in; to be
    /// taken after each.
    pub fn take_torn(&mut self) -> Option<TornTail> {
        self.torn.take()
    }

    fn step(&mut self) -> Result<Option<DumpedFrame>> {
        loop {
            let (name, mut reader) = match self.reader.take() {
                Some(reader) => reader,
                None => match self.waiting.pop() {
                    Some(name) => {
                        let reader = FrameReader::open(&self.env, &self.dir, &name, &self.keys)?;
                        (name, reader)
                    }
                    None => return Ok(None),
                },
            };
            match reader.step()? {
                Step::Frame(PlacedRecord { offset, frame, record, .. }) => {
                    let path = reader.path().to_owned();
                    let (sequence, data_key) = (name.sequence, reader.data_key());
                    self.reader = Some((name, reader));
                    let placed = DumpedFrame { path, sequence, data_key, frame, offset, record };
                    return Ok(Some(placed));
                }
                // A cut-off write may have lost its beginning and not its end.
                Step::Broken(_) if reader.has_nothing_more() => {}
                Step::Broken(error) => self.torn = self.judge(&reader, &name, error)?,
            }
        }
    }

    /// Judges the broken frame that a segment ends in: its successor tells where it ended, the newest
    /// one by what follows.
    fn judge(
        &self,
        reader: &FrameReader,
        name: &SegmentName,
        error: FrameError,
    ) -> Result<Option<TornTail>> {
        let Some(next) = self.waiting.last() else { return reader.judge(error) };
        let next = FrameReader::open(&self.env, &self.dir, next, &self.keys);
        let head = next.and_then(|mut next| next.step());
        let Ok(Step::Frame(PlacedRecord { record: Record::Head(head), .. })) = head else {
            return Err(reader.corrupt(error));
        };
        match head.previous {
            Some(link) if link.sequence == name.sequence && reader.is_behind(link.end) => {
                Ok(Some(reader.torn_here()))
            }
            _ => Err(reader.corrupt(error)),
        }
    }
}

impl Iterator for Dump {
    type Item = Result<DumpedFrame, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
