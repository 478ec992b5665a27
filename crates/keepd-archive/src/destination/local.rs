//! A folder on a disk. Objects appear whole: written beside their name, synced, renamed, and the folder
//! synced. Files have mode 0600, folders 0700.

use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keepd_env::{DiskFile, Env, IoError};

use super::limit::PIECE_BYTES;
use super::url::Url;
use super::{Destination, Entry, FOLDER_OBJECTS_MAX, Limit, Names, OBJECTS_MAX, is_plain};
use crate::Error;

/// The ending of a file that is being written; with a random word before it.
const PARTIAL: &str = ".partial";
/// BOUND: folders within folders that are looked into.
const DEPTH_MAX: usize = 4;

/// A folder.
#[derive(Debug)]
pub(super) struct Folder {
    env: Env,
    root: PathBuf,
    limit: Arc<Limit>,
}

impl Folder {
    pub(super) fn new(env: &Env, url: &Url, limit: Arc<Limit>) -> Self {
        Self { env: env.clone(), root: PathBuf::from(&url.path), limit }
    }

    fn path(&self, key: &str) -> PathBuf {
        assert!(is_plain(key), "keys are made of plain words");
        self.root.join(key)
    }

    /// Makes the folders of a key, each durable in its parent.
    fn make_parents(&self, key: &str) -> Result<PathBuf, Error> {
        let disk = &*self.env.disk;
        let mut folder = self.root.clone();
        if !disk.exists(&folder)? {
            disk.create_dir(&folder)?;
            if let Some(parent) = folder.parent() {
                disk.sync_dir(parent)?;
            }
        }
        let mut words = key.split('/').peekable();
        while let Some(word) = words.next().filter(|_| words.peek().is_some()) {
            let parent = folder.clone();
            folder.push(word);
            if !disk.exists(&folder)? {
                disk.create_dir(&folder)?;
                disk.sync_dir(&parent)?;
            }
        }
        Ok(folder)
    }

    fn write(
        &self,
        object: &mut dyn Read,
        to: &dyn DiskFile,
        tell: &mut dyn FnMut(u64),
    ) -> Result<u64, Error> {
        let mut buffer = vec![0; PIECE_BYTES];
        let mut written = 0;
        loop {
            let len = match object.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::reading(error)),
            };
            self.limit.pass(len);
            to.write_all_at(&buffer[..len], written)?;
            written += len as u64;
            tell(written);
        }
        to.sync()?;
        Ok(written)
    }

    fn collect(
        &self,
        folder: &Path,
        prefix: &str,
        max: usize,
        found: &mut Vec<Entry>,
    ) -> Result<(), Error> {
        for name in self.env.disk.list(folder)? {
            let path = folder.join(&name);
            let key = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            let Some(entry) = self.env.disk.probe(&path)? else { continue };
            if entry.is_dir {
                if key.matches('/').count() + 1 < DEPTH_MAX {
                    self.collect(&path, &key, max, found)?;
                }
                continue;
            }
            if found.len() == max {
                return Err(Error::TooManyObjects { at: self.place(prefix), max });
            }
            found.push(Entry { key, bytes: entry.len });
        }
        Ok(())
    }

    fn not_found(&self, key: &str, error: IoError) -> Error {
        if error.is_not_found() { Error::NotFound { at: self.place(key) } } else { error.into() }
    }

    fn read_small(&self, key: &str, bytes_max: usize) -> Result<Vec<u8>, Error> {
        let file = self.env.disk.open(&self.path(key)).map_err(|it| self.not_found(key, it))?;
        let len = file.len()?;
        let len = usize::try_from(len).ok().filter(|len| *len <= bytes_max);
        let len = len.ok_or(Error::TooLong { max: bytes_max as u64 })?;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

impl Destination for Folder {
    fn place(&self, key: &str) -> String {
        self.root.join(key).display().to_string()
    }

    fn put(
        &self,
        key: &str,
        object: &mut dyn Read,
        tell: &mut dyn FnMut(u64),
    ) -> Result<u64, Error> {
        let path = self.path(key);
        let folder = self.make_parents(key)?;
        let disk = &*self.env.disk;
        let exists = || Error::Exists { at: self.place(key) };
        if disk.exists(&path)? {
            return Err(exists());
        }
        let mut partial = path.clone().into_os_string();
        partial.push(format!(".{:08x}{PARTIAL}", self.env.random.next_u64() & 0xffff_ffff));
        let partial = PathBuf::from(partial);
        let file = disk.create(&partial)?;
        let written = self.write(object, &*file, tell);
        let written = match written {
            Ok(_) if disk.exists(&path)? => Err(exists()),
            written => written,
        };
        if written.is_err() {
            // The first failure is told; what stays is not taken for a backup.
            let _left_over = disk.remove(&partial);
        }
        let written = written?;
        disk.rename(&partial, &path)?;
        disk.sync_dir(&folder)?;
        Ok(written)
    }

    fn replace(&self, key: &str, bytes: &[u8]) -> Result<(), Error> {
        self.make_parents(key)?;
        Ok(self.env.disk.replace(&self.path(key), bytes)?)
    }

    fn get(&self, key: &str) -> Result<Box<dyn Read + Send>, Error> {
        let file = self.env.disk.open(&self.path(key)).map_err(|it| self.not_found(key, it))?;
        let len = file.len()?;
        Ok(Box::new(FileReader { file, len, at: 0, limit: Arc::clone(&self.limit) }))
    }

    fn get_all(&self, keys: &[String], bytes_max: usize) -> Vec<Result<Vec<u8>, Error>> {
        keys.iter().map(|key| self.read_small(key, bytes_max)).collect()
    }

    fn list(&self) -> Result<Vec<Entry>, Error> {
        let mut found = Vec::new();
        self.collect(&self.root, "", OBJECTS_MAX, &mut found)?;
        found.retain(|entry| !entry.key.ends_with(PARTIAL));
        found.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(found)
    }

    fn interrupted(&self) -> Result<Vec<String>, Error> {
        let mut found = Vec::new();
        self.collect(&self.root, "", FOLDER_OBJECTS_MAX, &mut found)?;
        let partial = found.into_iter().map(|entry| entry.key);
        Ok(partial.filter(|key| key.ends_with(PARTIAL)).collect())
    }

    fn list_below(&self, folder: &str, after: Option<&str>) -> Result<Vec<Entry>, Error> {
        let mut found = Vec::new();
        self.collect(&self.path(folder), folder, FOLDER_OBJECTS_MAX, &mut found)?;
        found.retain(|entry| !entry.key.ends_with(PARTIAL));
        found.retain(|entry| after.is_none_or(|after| entry.key.as_str() > after));
        found.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(found)
    }

    fn names(&self, folder: &str) -> Result<Names, Error> {
        let path = if folder.is_empty() { self.root.clone() } else { self.path(folder) };
        let mut names = Names::default();
        for name in self.env.disk.list(&path)? {
            match self.env.disk.probe(&path.join(&name))? {
                Some(found) if found.is_dir => names.folders.push(name),
                Some(_) if !name.ends_with(PARTIAL) => names.objects.push(name),
                _ => {}
            }
        }
        Ok(names)
    }

    fn remove(&self, key: &str) -> Result<(), Error> {
        let path = self.path(key);
        match self.env.disk.remove(&path) {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            Err(_gone) => return Ok(()),
            Ok(()) => {}
        }
        Ok(self.env.disk.sync_dir(path.parent().unwrap_or(&self.root))?)
    }
}

/// Reads a file from its begin to the end that it had.
struct FileReader {
    file: Box<dyn DiskFile>,
    len: u64,
    at: u64,
    limit: Arc<Limit>,
}

impl Read for FileReader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.len - self.at).unwrap_or(usize::MAX);
        let len = bytes.len().min(left).min(PIECE_BYTES);
        self.limit.pass(len);
        let read = self.file.read_exact_at(&mut bytes[..len], self.at);
        read.map_err(|error| error.source)?;
        self.at += len as u64;
        Ok(len)
    }
}
