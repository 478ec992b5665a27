//! The log frame by frame as it lies on the disk: for tests and for whoever has to look into a
//! damaged log. No command prints it.
//!
//! Unlike recovery it shows everything, overwritten and released entries too, and goes on with the
//! next segment after damage.

use std::path::{Path, PathBuf};

use keepd_crypto::{FileKeys, FrameError};
use keepd_env::Env;

use crate::error::{Error, Result};
use crate::record::Record;
use crate::recovery::list_segments;
use crate::segment::SegmentName;
use crate::segment_reader::{FrameReader, PlacedRecord, Step};

/// One frame of the log.
#[derive(Clone, Debug)]
pub struct DumpedFrame {
    /// The segment's file.
    pub path: PathBuf,
    /// The frame's number in it.
    pub frame: u64,
    /// Its offset in the file.
    pub offset: u64,
    /// Its content.
    pub record: Record,
}

/// All frames, segment by segment. A segment that cannot be read to its end gives one error there.
#[derive(Debug)]
pub struct Dump {
    env: Env,
    dir: PathBuf,
    keys: FileKeys,
    /// The segments that are still to come, newest first.
    waiting: Vec<SegmentName>,
    reader: Option<FrameReader>,
}

impl Dump {
    /// Starts with the oldest segment; changes nothing on the disk.
    ///
    /// # Errors
    /// If the directory cannot be listed.
    pub fn new(env: Env, dir: &Path, keys: FileKeys) -> Result<Self> {
        let waiting = list_segments(&env, dir)?.into_values().rev().collect();
        Ok(Self { env, dir: dir.to_owned(), keys, waiting, reader: None })
    }

    fn step(&mut self) -> Result<Option<DumpedFrame>> {
        loop {
            let mut reader = match self.reader.take() {
                Some(reader) => reader,
                None => match self.waiting.pop() {
                    Some(name) => FrameReader::open(&self.env, &self.dir, &name, &self.keys)?,
                    None => return Ok(None),
                },
            };
            match reader.step()? {
                Step::Frame(PlacedRecord { offset, frame, record, .. }) => {
                    let path = reader.path().to_owned();
                    self.reader = Some(reader);
                    return Ok(Some(DumpedFrame { path, frame, offset, record }));
                }
                Step::Broken(FrameError::Zeroed | FrameError::Truncated { found: 0, .. }) => {}
                Step::Broken(error) => return Err(reader.corrupt(error)),
            }
        }
    }
}

impl Iterator for Dump {
    type Item = Result<DumpedFrame, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
