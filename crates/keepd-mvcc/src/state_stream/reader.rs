//! A view as a stream of chunks, made as they are pulled.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::digest;
use crate::error::Error;
use crate::kept::KeptWalk;
use crate::state_stream::format::{
    self, ITEM_MAX, KIND_HEAD, KIND_META, KIND_RECORD, KIND_TRAILER, PAYLOAD_MAX, StateHead,
    Trailer,
};
use crate::view::View;

/// The state of a view, chunk by chunk. It pins the view, with the files and the tail of its time,
/// until it is dropped: whoever sends it gives up on a receiver that takes nothing (rule 9.20).
#[derive(Debug)]
pub struct StateReader {
    view: Arc<View>,
    next: Next,
    /// Items, and the part of them that no chunk has taken, from `taken` on.
    items: Vec<u8>,
    taken: usize,
    hash: Sha256,
    metas: u64,
    records: u64,
    /// The number of the next chunk.
    number: u32,
}

/// The items that come next.
#[derive(Debug)]
enum Next {
    Head,
    /// The meta entries behind this one.
    Metas(Option<(u8, Bytes)>),
    Records(Box<KeptWalk>),
    Trailer,
    Nothing,
}

impl StateReader {
    /// A stream of this view. Reads nothing yet.
    #[must_use]
    pub fn new(view: Arc<View>) -> Self {
        Self {
            view,
            next: Next::Head,
            items: Vec::new(),
            taken: 0,
            hash: Sha256::new(),
            metas: 0,
            records: 0,
            number: 0,
        }
    }

    /// The state that the stream carries.
    #[must_use]
    pub fn head(&self) -> StateHead {
        let view = &self.view;
        StateHead {
            applied: view.applied(),
            revision: view.revision(),
            compact_revision: view.compact_revision(),
            live_keys: view.live_keys(),
            digest: view.digest(),
        }
    }

    /// The next chunk, of 256 KiB at most; `None` after the last one. Reads files, so not for an async
    /// task.
    ///
    /// # Errors
    /// If a file cannot be read; the stream ends there.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        while self.items.len() - self.taken < PAYLOAD_MAX {
            if matches!(self.next, Next::Nothing) {
                break;
            }
            if let Err(error) = self.next_item() {
                self.next = Next::Nothing;
                self.items.truncate(self.taken);
                return Err(error);
            }
        }
        let rest = &self.items[self.taken..];
        let payload = &rest[..rest.len().min(PAYLOAD_MAX)];
        if payload.is_empty() {
            return Ok(None);
        }
        let chunk = format::chunk(self.number, payload);
        self.number = self.number.checked_add(1).expect("a stream has less than 2^50 bytes");
        self.taken += payload.len();
        if self.taken == self.items.len() {
            self.items.clear();
            self.items.shrink_to(2 * PAYLOAD_MAX);
            self.taken = 0;
        } else if self.taken >= PAYLOAD_MAX && self.items.len() - self.taken < PAYLOAD_MAX {
            self.items.drain(..self.taken);
            self.taken = 0;
        }
        Ok(Some(chunk))
    }

    fn next_item(&mut self) -> Result<(), Error> {
        match &mut self.next {
            Next::Head => {
                let body = self.head().encode();
                self.push(KIND_HEAD, &body);
                self.next = Next::Metas(None);
            }
            Next::Metas(last) => match next_meta(&self.view, last.as_ref()) {
                Some((table, key, value)) => {
                    let body = format::encode_meta(table, &key, &value);
                    *last = Some((table, key));
                    self.metas += 1;
                    self.push(KIND_META, &body);
                }
                None => self.next = Next::Records(Box::new(self.view.kept_records())),
            },
            Next::Records(walk) => match walk.next_of_all() {
                Some(next) => {
                    let (entry, is_kept) = next?;
                    if is_kept {
                        let body = format::encode_record(&entry);
                        self.records += 1;
                        self.push(KIND_RECORD, &body);
                    }
                }
                None => self.next = Next::Trailer,
            },
            Next::Trailer => {
                let hash = self.hash.finalize_reset().into();
                let trailer = Trailer { metas: self.metas, records: self.records, hash };
                self.push(KIND_TRAILER, &trailer.encode());
                self.next = Next::Nothing;
            }
            Next::Nothing => {}
        }
        Ok(())
    }

    fn push(&mut self, kind: u8, body: &[u8]) {
        assert!(body.len() <= ITEM_MAX, "what the log can hold fits into an item");
        let before = self.items.len();
        format::write_item(kind, body, &mut self.items);
        self.hash.update(&self.items[before..]);
    }
}

/// The meta entry behind `last`. The tables are persistent, so each step is a search.
fn next_meta(view: &View, last: Option<&(u8, Bytes)>) -> Option<(u8, Bytes, Bytes)> {
    for (number, table) in view.meta.tables() {
        let from = match last {
            _ if number == digest::OWN_TABLE => continue,
            Some((at, _)) if number < *at => continue,
            Some((at, key)) if number == *at => Bound::Excluded(key.clone()),
            _ => Bound::Unbounded,
        };
        if let Some((key, value)) = table.range((from, Bound::Unbounded)).next() {
            return Some((number, key.clone(), value.clone()));
        }
    }
    None
}
