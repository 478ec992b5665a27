//! Chunks into a fresh store.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use keepd_crypto::{DataKeyId, FileKeys};
use keepd_env::Env;
use keepd_types::{KeyId, Revision};
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::jobs::JobRequest;
use crate::options::Options;
use crate::record::Applied;
use crate::state_stream::format::{
    self, Fault, KIND_HEAD, KIND_META, KIND_RECORD, KIND_TRAILER, StateHead, StreamedRecord,
    Trailer,
};
use crate::store::Store;

/// Bytes of items that may wait in memory to be flushed.
const FLUSH_BYTES: usize = if cfg!(test) { 1024 } else { 8 << 20 };

/// Takes a stream and writes a store from it. Dropped before it is finished it removes what it wrote.
#[derive(Debug)]
pub struct StateWriter {
    env: Env,
    dir: PathBuf,
    keys: FileKeys,
    /// The data key that was active when the directory was begun.
    data_key: DataKeyId,
    /// `None` once it is finished.
    store: Option<Store>,
    /// The part of an item that has come. BOUND: one item and one chunk.
    buffer: BytesMut,
    hash: Sha256,
    /// Bytes of the stream that were taken.
    offset: u64,
    /// The number of the next chunk.
    number: u32,
    unflushed: usize,
    head: Option<StateHead>,
    last_meta: Option<(u8, Bytes)>,
    last_record: Option<Revision>,
    metas: u64,
    records: u64,
    is_whole: bool,
    /// Keys that values may be sealed under; `None` is any.
    readable: Option<BTreeSet<KeyId>>,
}

/// A store that a stream has filled: durable, closed and not yet in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedState {
    /// Its state.
    pub head: StateHead,
    /// Its directory.
    pub dir: PathBuf,
    /// The data key that all of its files are encrypted with.
    pub data_key: DataKeyId,
}

impl StateWriter {
    /// Begins a store in `dir`. Whatever is there is removed first.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn create(env: Env, dir: &Path, keys: FileKeys, options: Options) -> Result<Self, Error> {
        if env.disk.exists(dir)? {
            env.disk.remove_dir_all(dir)?;
        }
        let data_key = keys.active();
        let mut writer = Self {
            env: env.clone(),
            dir: dir.to_owned(),
            keys: keys.clone(),
            data_key,
            store: None,
            buffer: BytesMut::new(),
            hash: Sha256::new(),
            offset: 0,
            number: 0,
            unflushed: 0,
            head: None,
            last_meta: None,
            last_record: None,
            metas: 0,
            records: 0,
            is_whole: false,
            readable: None,
        };
        // Dropped by an error, the writer removes what this has made.
        writer.store = Some(Store::open(env, dir, keys, options)?);
        Ok(writer)
    }

    /// Refuses values that are sealed under another key than these.
    #[must_use]
    pub fn with_readable(mut self, keys: BTreeSet<KeyId>) -> Self {
        self.readable = Some(keys);
        self
    }

    /// The state that is coming; `None` before the first chunk.
    #[must_use]
    pub const fn head(&self) -> Option<&StateHead> {
        self.head.as_ref()
    }

    /// Takes the next chunk. Writes and syncs files, so not for an async task.
    ///
    /// # Errors
    /// If the chunk is not the next of a sound stream, or the disk refuses; drop the writer then.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let payload = format::payload(self.number, chunk).map_err(|fault| self.error(fault))?;
        if self.is_whole {
            return Err(self.malformed("a chunk after the end"));
        }
        self.number =
            self.number.checked_add(1).ok_or_else(|| self.malformed("too many chunks"))?;
        self.buffer.extend_from_slice(payload);
        while let Some((kind, at, len)) =
            format::item_head(&self.buffer).map_err(|fault| self.error(fault))?
        {
            if self.buffer.len() - at < len {
                break;
            }
            let item = self.buffer.split_to(at + len).freeze();
            self.item(kind, &item.slice(at..), &item)?;
            self.offset += item.len() as u64;
            self.flush_if_due(item.len())?;
        }
        Ok(())
    }

    /// Checks the totals and makes the store durable. The names of its directory and of those above
    /// are the caller's to sync.
    ///
    /// # Errors
    /// If the stream is not whole, the active data key has changed meanwhile, or the disk refuses.
    /// Nothing is left then.
    pub fn finish(mut self) -> Result<StagedState, Error> {
        let head = match self.head {
            Some(head) if self.is_whole && self.buffer.is_empty() => head,
            _ => return Err(self.malformed("the stream ends before its trailer")),
        };
        let mut store = self.store.take().expect("only a finished writer has none");
        let last_main = self.last_record.map_or(1, |last| last.main);
        if last_main > head.revision || store.stats().keys != head.live_keys {
            return Err(self.malformed("the records are not those of the head"));
        }
        store.import_revisions(head.revision, head.compact_revision);
        store.import_digest(head.digest);
        store.publish(head.applied);
        while store.run(JobRequest::Flush)? {}
        store.run(JobRequest::Checkpoint)?;
        assert_eq!(store.durable(), head.applied, "everything that came has been flushed");
        drop(store);
        if self.keys.active() != self.data_key {
            // What is staged is counted nowhere: its key may be forgotten while it lies there.
            return Err(Error::KeyChanged { dir: self.dir.clone() });
        }
        let staged = StagedState { head, dir: self.dir.clone(), data_key: self.data_key };
        self.dir = PathBuf::new();
        Ok(staged)
    }

    fn item(&mut self, kind: u8, body: &Bytes, item: &Bytes) -> Result<(), Error> {
        if self.is_whole {
            return Err(self.malformed("an item after the trailer"));
        }
        match (kind, self.head) {
            (KIND_HEAD, None) => {
                let head = StateHead::decode(body).map_err(|fault| self.error(fault))?;
                self.head = Some(head);
            }
            (KIND_META, Some(_)) if self.records == 0 => self.meta(body)?,
            (KIND_RECORD, Some(head)) => self.record(body, &head)?,
            (KIND_TRAILER, Some(_)) => return self.trailer(body),
            _ => return Err(self.malformed("an item out of place")),
        }
        self.hash.update(item);
        Ok(())
    }

    fn meta(&mut self, body: &Bytes) -> Result<(), Error> {
        let found = format::decode_meta(body);
        let (table, key, value) = found.ok_or_else(|| self.malformed("a malformed meta entry"))?;
        let at = Some((table, Bytes::copy_from_slice(&key)));
        if at <= self.last_meta {
            return Err(self.malformed("a meta entry out of order"));
        }
        self.last_meta = at;
        self.metas += 1;
        let (key, value) = (Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value));
        self.store().meta_put(table, key, value);
        Ok(())
    }

    fn record(&mut self, body: &Bytes, head: &StateHead) -> Result<(), Error> {
        let found = format::decode_record(body);
        let StreamedRecord { revision, ended, record } =
            found.ok_or_else(|| self.malformed("a malformed record"))?;
        if let (Some(readable), Some(seal)) = (&self.readable, record.seal)
            && !readable.contains(&seal.key_id)
        {
            return Err(Error::KeyLacking { key: seal.key_id.0 });
        }
        if revision.main > head.revision {
            return Err(self.malformed("a record after the head's revision"));
        }
        self.store().import_exact(revision, record, ended)?;
        self.last_record = Some(revision);
        self.records += 1;
        Ok(())
    }

    fn trailer(&mut self, body: &[u8]) -> Result<(), Error> {
        let found = Trailer::decode(body);
        let trailer = found.ok_or_else(|| self.malformed("a malformed trailer"))?;
        let hash: [u8; 32] = self.hash.finalize_reset().into();
        if trailer != (Trailer { metas: self.metas, records: self.records, hash }) {
            return Err(self.malformed("the totals are not those of the trailer"));
        }
        self.is_whole = true;
        Ok(())
    }

    fn flush_if_due(&mut self, added: usize) -> Result<(), Error> {
        self.unflushed += added;
        if self.unflushed < FLUSH_BYTES {
            return Ok(());
        }
        self.unflushed = 0;
        let store = self.store();
        // Nothing of the log counts as applied until the stream is whole.
        store.publish(Applied::default());
        while store.run(JobRequest::Flush)? {}
        Ok(())
    }

    const fn store(&mut self) -> &mut Store {
        self.store.as_mut().expect("only a finished writer has none")
    }

    const fn malformed(&self, reason: &'static str) -> Error {
        self.error(Fault::Malformed(reason))
    }

    const fn error(&self, fault: Fault) -> Error {
        match fault {
            Fault::Malformed(reason) => Error::Stream { offset: self.offset, reason },
            Fault::Version(version) => Error::StreamVersion { version },
        }
    }
}

impl Drop for StateWriter {
    fn drop(&mut self) {
        self.store = None;
        if !self.dir.as_os_str().is_empty() {
            // What stays is removed by the next writer, or by the next start.
            let _is_gone = self.env.disk.remove_dir_all(&self.dir).is_ok();
        }
    }
}
