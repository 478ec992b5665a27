//! A bucket of an object store: S3, Google Cloud Storage, Azure Blob Storage.
//!
//! Objects go up in parts, several at once, each repeated by the library while the store fails; they come
//! down in ranges, so that a broken connection costs a range. Calls block; the runtime of the handle does
//! the work.

mod build;

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::io::{self, ErrorKind, Read};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayload};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::limit::PIECE_BYTES;
use super::url::Url;
use super::{Destination, Entry, FOLDER_OBJECTS_MAX, Limit, Names, OBJECTS_MAX, is_plain, remedy};
use crate::{Error, Remedy};

/// Bytes of a part; all but the last are equal, as some stores demand.
const PART_BYTES: usize = 8 << 20;
/// BOUND: parts of an object, as in S3.
const PARTS_MAX: u64 = 10_000;
/// BOUND: parts that are on their way at once, so 32 MiB of memory.
const PARTS_AT_ONCE: usize = 3;
/// BOUND: small objects that are asked for at once.
const SMALL_AT_ONCE: usize = 16;

/// A bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    store: Arc<dyn ObjectStore>,
    /// Without slashes around it; may be empty.
    prefix: String,
    shown: String,
    handle: Handle,
    limit: Arc<Limit>,
}

impl Bucket {
    pub(super) fn new(url: &Url, handle: &Handle, limit: Arc<Limit>) -> Result<Self, Error> {
        let store = build::store(url)?;
        let (prefix, shown) = (url.path.clone(), url.shown.clone());
        Ok(Self { store, prefix, shown, handle: handle.clone(), limit })
    }

    fn path(&self, key: &str) -> Path {
        assert!(is_plain(key), "keys are made of plain words");
        Path::from(if self.prefix.is_empty() {
            key.to_owned()
        } else {
            format!("{}/{key}", self.prefix)
        })
    }

    fn failed(&self, action: &'static str, key: &str, error: &object_store::Error) -> Error {
        failed(action, self.place(key), error)
    }

    async fn exists(&self, key: &str) -> Result<bool, Error> {
        match self.store.head(&self.path(key)).await {
            Ok(_) => Ok(true),
            Err(error) => match self.failed("look for", key, &error) {
                Error::NotFound { .. } => Ok(false),
                error => Err(error),
            },
        }
    }

    fn put_parts(
        &self,
        key: &str,
        first: Bytes,
        object: &mut dyn Read,
        tell: &mut dyn FnMut(u64),
    ) -> Result<u64, Error> {
        let begun = self.handle.block_on(self.store.put_multipart(&self.path(key)));
        let mut upload = begun.map_err(|error| self.failed("begin to upload", key, &error))?;
        let sent = self.send_parts(key, &mut *upload, first, object, tell).and_then(|sent| {
            let completed = self.handle.block_on(upload.complete());
            completed.map(|_| sent).map_err(|error| self.failed("complete", key, &error))
        });
        if sent.is_err() {
            // The first failure is told. Parts that stay cost space until a lifecycle rule removes them.
            let _left_over = self.handle.block_on(upload.abort());
        }
        sent
    }

    fn send_parts(
        &self,
        key: &str,
        upload: &mut dyn MultipartUpload,
        first: Bytes,
        object: &mut dyn Read,
        tell: &mut dyn FnMut(u64),
    ) -> Result<u64, Error> {
        let mut under_way: VecDeque<JoinHandle<object_store::Result<()>>> = VecDeque::new();
        let arrived = |part: JoinHandle<object_store::Result<()>>| {
            let ended = self.handle.block_on(part).map_err(|stopped| Error::Store {
                action: "upload",
                at: self.place(key),
                reason: stopped.to_string(),
                remedy: Remedy::None,
            })?;
            ended.map_err(|error| self.failed("upload", key, &error))
        };
        let (mut part, mut sent, mut count) = (first, 0, 0);
        while !part.is_empty() {
            count += 1;
            if count > PARTS_MAX {
                let max = PARTS_MAX * PART_BYTES as u64;
                return Err(Error::TooLarge { at: self.place(key), max });
            }
            sent += part.len() as u64;
            if under_way.len() == PARTS_AT_ONCE
                && let Some(oldest) = under_way.pop_front()
            {
                arrived(oldest)?;
            }
            under_way.push_back(self.handle.spawn(upload.put_part(PutPayload::from(part))));
            tell(sent);
            part = self.read_part(object)?;
        }
        under_way.into_iter().try_for_each(arrived)?;
        Ok(sent)
    }

    /// The next part, as fast as the limit allows; shorter than others only at the end.
    fn read_part(&self, object: &mut dyn Read) -> Result<Bytes, Error> {
        let mut part = Vec::with_capacity(PART_BYTES);
        while part.len() < PART_BYTES {
            let begin = part.len();
            part.resize((begin + PIECE_BYTES).min(PART_BYTES), 0);
            let read = object.read(&mut part[begin..]);
            match read {
                Ok(len) => part.truncate(begin + len),
                Err(_) => part.truncate(begin),
            }
            match read {
                Ok(0) => break,
                Ok(len) => self.limit.pass(len),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::reading(error)),
            }
        }
        Ok(part.into())
    }

    /// The path of a folder; none for the whole bucket.
    fn folder(&self, folder: &str) -> Option<Path> {
        match (folder.is_empty(), self.prefix.is_empty()) {
            (false, _) => Some(self.path(folder)),
            (true, false) => Some(Path::from(self.prefix.as_str())),
            (true, true) => None,
        }
    }

    fn list_folder(
        &self,
        folder: &str,
        after: Option<&str>,
        max: usize,
    ) -> Result<Vec<Entry>, Error> {
        let prefix = self.folder(folder);
        let after = after.map(|after| self.path(after));
        let listing = async {
            let mut found = Vec::new();
            let mut pages = match &after {
                Some(after) => self.store.list_with_offset(prefix.as_ref(), after),
                None => self.store.list(prefix.as_ref()),
            };
            while let Some(object) = pages.try_next().await? {
                if found.len() == max {
                    return Ok(Err(Error::TooManyObjects { at: self.place(folder), max }));
                }
                // Not every store begins a listing where it is asked to.
                if after.as_ref().is_some_and(|after| object.location <= *after) {
                    continue;
                }
                let path = object.location.as_ref();
                let key = path.strip_prefix(&self.prefix).unwrap_or(path).trim_start_matches('/');
                found.push(Entry { key: key.to_owned(), bytes: object.size });
            }
            Ok(Ok(found))
        };
        let listed: object_store::Result<_> = self.handle.block_on(listing);
        let mut found = listed.map_err(|error| self.failed("list", folder, &error))??;
        found.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(found)
    }

    async fn get_small(&self, key: &str, bytes_max: usize) -> Result<Vec<u8>, Error> {
        let failed = |error: &object_store::Error| self.failed("read", key, error);
        let answer = self.store.get(&self.path(key)).await.map_err(|error| failed(&error))?;
        let mut stream = answer.into_stream();
        let mut bytes = Vec::new();
        while let Some(piece) = stream.try_next().await.map_err(|error| failed(&error))? {
            if bytes.len() + piece.len() > bytes_max {
                return Err(Error::TooLong { max: bytes_max as u64 });
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }
}

impl Destination for Bucket {
    fn place(&self, key: &str) -> String {
        if key.is_empty() { self.shown.clone() } else { format!("{}/{key}", self.shown) }
    }

    fn put(
        &self,
        key: &str,
        object: &mut dyn Read,
        tell: &mut dyn FnMut(u64),
    ) -> Result<u64, Error> {
        if self.handle.block_on(self.exists(key))? {
            return Err(Error::Exists { at: self.place(key) });
        }
        let first = self.read_part(object)?;
        if first.len() == PART_BYTES {
            return self.put_parts(key, first, object, tell);
        }
        let len = first.len() as u64;
        tell(len);
        let put = self.handle.block_on(self.store.put(&self.path(key), first.into()));
        put.map(|_| len).map_err(|error| self.failed("upload", key, &error))
    }

    fn replace(&self, key: &str, bytes: &[u8]) -> Result<(), Error> {
        let payload = PutPayload::from(bytes.to_vec());
        let put = self.handle.block_on(self.store.put(&self.path(key), payload));
        put.map(drop).map_err(|error| self.failed("write", key, &error))
    }

    fn get(&self, key: &str) -> Result<Box<dyn Read + Send>, Error> {
        let path = self.path(key);
        let found = self.handle.block_on(self.store.head(&path));
        let len = found.map_err(|error| self.failed("read", key, &error))?.size;
        let mut reader = RangeReader {
            store: Arc::clone(&self.store),
            handle: self.handle.clone(),
            limit: Arc::clone(&self.limit),
            path,
            place: self.place(key),
            len,
            asked: 0,
            next: None,
            bytes: Bytes::new(),
        };
        reader.ask();
        Ok(Box::new(reader))
    }

    fn get_all(&self, keys: &[String], bytes_max: usize) -> Vec<Result<Vec<u8>, Error>> {
        let answers = stream::iter(keys).map(|key| self.get_small(key, bytes_max));
        self.handle.block_on(answers.buffered(SMALL_AT_ONCE).collect())
    }

    fn list(&self) -> Result<Vec<Entry>, Error> {
        self.list_folder("", None, OBJECTS_MAX)
    }

    fn list_below(&self, folder: &str, after: Option<&str>) -> Result<Vec<Entry>, Error> {
        self.list_folder(folder, after, FOLDER_OBJECTS_MAX)
    }

    fn names(&self, folder: &str) -> Result<Names, Error> {
        let prefix = self.folder(folder);
        let listed = self.handle.block_on(self.store.list_with_delimiter(prefix.as_ref()));
        let listed = listed.map_err(|error| self.failed("list", folder, &error))?;
        let name = |path: &Path| path.filename().unwrap_or_default().to_owned();
        let mut names = Names {
            folders: listed.common_prefixes.iter().map(name).collect(),
            objects: listed.objects.iter().map(|object| name(&object.location)).collect(),
        };
        names.folders.sort_unstable();
        names.objects.sort_unstable();
        Ok(names)
    }

    fn remove(&self, key: &str) -> Result<(), Error> {
        match self.handle.block_on(self.store.delete(&self.path(key))) {
            Ok(()) => Ok(()),
            Err(error) => match self.failed("remove", key, &error) {
                Error::NotFound { .. } => Ok(()),
                error => Err(error),
            },
        }
    }
}

/// An error of the library in our words.
fn failed(action: &'static str, at: String, error: &object_store::Error) -> Error {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    let advice = remedy::of(&text);
    // A missing bucket is a missing object too, to some stores.
    if matches!(error, object_store::Error::NotFound { .. }) && advice != Remedy::Bucket {
        return Error::NotFound { at };
    }
    Error::Store { action, at, reason: remedy::reason(&text), remedy: advice }
}

type Asked = JoinHandle<object_store::Result<Bytes>>;

/// Reads an object in ranges, of which one is on its way while another is read.
struct RangeReader {
    store: Arc<dyn ObjectStore>,
    handle: Handle,
    limit: Arc<Limit>,
    path: Path,
    place: String,
    len: u64,
    /// The end of what was asked for.
    asked: u64,
    next: Option<(u64, Asked)>,
    bytes: Bytes,
}

impl RangeReader {
    fn ask(&mut self) {
        let end = self.len.min(self.asked + PART_BYTES as u64);
        if end == self.asked {
            return;
        }
        let (store, path, range) = (Arc::clone(&self.store), self.path.clone(), self.asked..end);
        let len = end - self.asked;
        self.asked = end;
        let asked = self.handle.spawn(async move { store.get_range(&path, range).await });
        self.next = Some((len, asked));
    }

    fn receive(&mut self) -> Result<bool, Error> {
        let Some((len, asked)) = self.next.take() else { return Ok(false) };
        let ended = self.handle.block_on(asked).map_err(|stopped| Error::Store {
            action: "read",
            at: self.place.clone(),
            reason: stopped.to_string(),
            remedy: Remedy::None,
        })?;
        self.bytes = ended.map_err(|error| failed("read", self.place.clone(), &error))?;
        if self.bytes.len() as u64 != len {
            return Err(Error::Truncated);
        }
        self.ask();
        Ok(true)
    }
}

impl Read for RangeReader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.bytes.is_empty() && !self.receive().map_err(Error::into_io)? {
            return Ok(0);
        }
        let len = self.bytes.len().min(bytes.len()).min(PIECE_BYTES);
        self.limit.pass(len);
        self.bytes.copy_to_slice(&mut bytes[..len]);
        Ok(len)
    }
}
