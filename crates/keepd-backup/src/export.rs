//! A snapshot file made from one view, without a temporary file.
//!
//! The first pass over the view learns the lengths and with them the exact size, the second makes
//! pages as they are pulled, in blobs of the size that `Maintenance.Snapshot` sends; the last blob
//! is the SHA-256 alone. A third pass, if values are sealed, binds each of them to its key.
//!
//! Sealed values stay ciphertext. Everything else in the file is plain.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::buf::Writer as BufWriter;
use bytes::{BufMut, Bytes, BytesMut};
use keepd_bolt::{Planner, Writer};
use keepd_crypto::ValueSealer;
use keepd_mvcc::View;
use keepd_types::limits::SNAPSHOT_BLOB_BYTES;
use keepd_types::version::STORAGE_VERSION;
use sha2::{Digest, Sha256};

use crate::Error;
use crate::buckets::{small_buckets, state};
use crate::format::{self, SEAL_ENTRY_LEN, SealEntry, TRAILER_LEN, record_key};

/// The length of a record's key that is no tombstone's.
const RECORD_KEY_LEN: usize = 17;

type Items = Box<dyn Iterator<Item = Result<(Bytes, Bytes), Error>> + Send>;

/// A snapshot file that is pulled blob by blob. It pins its view.
pub struct Export {
    view: Arc<View>,
    sealer: Arc<ValueSealer>,
    sections: VecDeque<Section>,
    items: Option<Items>,
    pages: Pages,
    sha256: Sha256,
    remaining: u64,
}

enum Pages {
    /// Items are being written.
    Open(Box<Writer<BufWriter<BytesMut>>>),
    /// All pages are made; these are not yet pulled.
    Finished(BytesMut),
    /// The trailer was pulled, or an error ended the file.
    Done,
}

struct Section {
    name: &'static [u8],
    content: Content,
}

enum Content {
    Small(Vec<(Bytes, Bytes)>),
    Records,
    /// The marks of this many sealed records.
    Seals(usize),
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export").field("remaining", &self.remaining).finish_non_exhaustive()
    }
}

impl Export {
    /// Plans the file: reads every record of the view once, so not for an async task. `sealer` has
    /// the keys of the values that are sealed.
    ///
    /// # Errors
    /// If the view cannot be read or a meta table is malformed.
    pub fn new(view: Arc<View>, sealer: Arc<ValueSealer>) -> Result<Self, Error> {
        let mut sections: VecDeque<Section> = small_buckets(&view)?
            .into_iter()
            .map(|(name, items)| Section { name, content: Content::Small(items) })
            .collect();
        let after = sections.iter().position(|section| section.name > format::KEY);
        let records = Section { name: format::KEY, content: Content::Records };
        sections.insert(after.unwrap_or(sections.len()), records);

        let mut planner = Planner::default();
        let mut sealed = 0;
        for Section { name, content } in &sections {
            planner.bucket(name)?;
            match content {
                Content::Small(items) => {
                    for (key, value) in items {
                        planner.item(key.len(), value.len())?;
                    }
                }
                Content::Records => {
                    for record in view.records() {
                        let (_, record) = record?;
                        let key_len = RECORD_KEY_LEN + usize::from(record.tombstone);
                        planner.item(key_len, record.encoded.len())?;
                        sealed += usize::from(record.seal.is_some());
                    }
                }
                Content::Seals(_) => {}
            }
        }
        if sealed > 0 {
            planner.bucket(format::SEALED)?;
            for _ in 0..sealed {
                planner.item(RECORD_KEY_LEN, SEAL_ENTRY_LEN)?;
            }
            sections.push_back(Section { name: format::SEALED, content: Content::Seals(sealed) });
        }
        let state = state(&view);
        planner.bucket(format::STATE)?;
        for (key, value) in &state {
            planner.item(key.len(), value.len())?;
        }
        sections.push_back(Section { name: format::STATE, content: Content::Small(state) });
        let plan = planner.finish()?;
        let remaining = plan.image_len() + TRAILER_LEN;
        let writer = Writer::new(plan, BytesMut::new().writer())?;
        let pages = Pages::Open(Box::new(writer));
        Ok(Self { view, sealer, sections, items: None, pages, sha256: Sha256::new(), remaining })
    }

    /// The number of bytes still to come; at first the length of the file.
    #[must_use]
    pub const fn remaining_bytes(&self) -> u64 {
        self.remaining
    }

    /// The storage version in the file.
    #[must_use]
    pub const fn version(&self) -> &'static str {
        STORAGE_VERSION
    }

    /// The next blob; `None` after the trailer. Reads records, so not for an async task.
    ///
    /// # Errors
    /// If the view cannot be read; the file is then unusable.
    pub fn next_blob(&mut self) -> Result<Option<Bytes>, Error> {
        let blob = self.pull();
        match &blob {
            Ok(Some(blob)) => self.remaining -= blob.len() as u64,
            Ok(None) | Err(_) => self.pages = Pages::Done,
        }
        blob
    }

    fn pull(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let (ready, is_finished) = match &mut self.pages {
                Pages::Open(writer) => (writer.out().get_mut(), false),
                Pages::Finished(ready) => (ready, true),
                Pages::Done => return Ok(None),
            };
            if ready.len() >= SNAPSHOT_BLOB_BYTES || (is_finished && !ready.is_empty()) {
                let blob = ready.split_to(ready.len().min(SNAPSHOT_BLOB_BYTES)).freeze();
                self.sha256.update(&blob);
                return Ok(Some(blob));
            }
            if is_finished {
                self.pages = Pages::Done;
                return Ok(Some(Bytes::copy_from_slice(&self.sha256.finalize_reset())));
            }
            self.write_some()?;
        }
    }

    /// Writes one item, begins the next bucket or ends the image.
    fn write_some(&mut self) -> Result<(), Error> {
        let Pages::Open(writer) = &mut self.pages else { return Ok(()) };
        if let Some(items) = &mut self.items {
            match items.next() {
                Some(item) => {
                    let (key, value) = item?;
                    writer.item(key, value)?;
                }
                None => self.items = None,
            }
            return Ok(());
        }
        if let Some(section) = self.sections.pop_front() {
            writer.bucket(Bytes::from_static(section.name))?;
            self.items = Some(section.content.items(&self.view, &self.sealer));
            return Ok(());
        }
        if let Pages::Open(writer) = std::mem::replace(&mut self.pages, Pages::Done) {
            self.pages = Pages::Finished(writer.finish()?.into_inner());
        }
        Ok(())
    }
}

impl Iterator for Export {
    type Item = Result<Bytes, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_blob().transpose()
    }
}

impl Content {
    fn items(self, view: &Arc<View>, sealer: &Arc<ValueSealer>) -> Items {
        match self {
            Self::Small(items) => Box::new(items.into_iter().map(Ok)),
            Self::Records => Box::new(view.records().map(|record| {
                let (revision, record) = record?;
                Ok((record_key(revision, record.tombstone), record.encoded))
            })),
            Self::Seals(sealed) => {
                let sealer = Arc::clone(sealer);
                let marks = view.records().filter_map(move |record| match record {
                    Ok((revision, record)) => record.seal.map(|seal| {
                        let (key, key_id) = (record_key(revision, false), seal.key_id);
                        let mark = SealEntry::of(&sealer, key_id, &key, &record.encoded)
                            .ok_or(Error::KeyMissing { revision, key_id })?;
                        Ok((key, mark.encode()))
                    }),
                    Err(error) => Some(Err(error.into())),
                });
                Box::new(marks.take(sealed))
            }
        }
    }
}
