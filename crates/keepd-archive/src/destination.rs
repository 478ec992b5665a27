//! Destinations: folders for backups, on a disk or in an object store.
//!
//! Keys are relative to the URL and made of `/` and plain words ([`crate::name`]). What is written appears
//! whole or not at all, and objects are never written over; only sidecars are.

mod limit;
mod local;
mod remedy;
mod remote;
mod url;

use std::fmt::Debug;
use std::io::Read;
use std::sync::Arc;

use keepd_env::Env;
use tokio::runtime::Handle;

use crate::Error;

pub use limit::{Limit, rate};

/// BOUND: objects below a destination, a year of one a minute.
pub const OBJECTS_MAX: usize = 500_000;

/// BOUND: objects of one folder that are listed, two months of a log with a batch each 5 s.
pub const FOLDER_OBJECTS_MAX: usize = 1_000_000;

/// The names directly in a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Folders, sorted.
    pub folders: Vec<String>,
    /// Objects, sorted.
    pub objects: Vec<String>,
}

/// An object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Its size.
    pub bytes: u64,
}

/// A folder for backups.
pub trait Destination: Send + Sync + Debug {
    /// The place of a key, for messages; shows no secret.
    fn place(&self, key: &str) -> String;

    /// Writes a new object; `tell` hears of the bytes that are on their way. The size that was written.
    ///
    /// # Errors
    /// If it exists, cannot be read to its end, or the place refuses it.
    fn put(
        &self,
        key: &str,
        object: &mut dyn Read,
        tell: &mut dyn FnMut(u64),
    ) -> Result<u64, Error>;

    /// Writes a small object, over one that is there.
    ///
    /// # Errors
    /// If the place refuses it.
    fn replace(&self, key: &str, bytes: &[u8]) -> Result<(), Error>;

    /// A reader of an object.
    ///
    /// # Errors
    /// If it is not there, or the place refuses.
    fn get(&self, key: &str) -> Result<Box<dyn Read + Send>, Error>;

    /// Small objects, each no longer than `bytes_max`, in the order of the keys.
    fn get_all(&self, keys: &[String], bytes_max: usize) -> Vec<Result<Vec<u8>, Error>>;

    /// Everything below the URL, sorted by key.
    ///
    /// # Errors
    /// If there are more than [`OBJECTS_MAX`], or the place refuses.
    fn list(&self) -> Result<Vec<Entry>, Error>;

    /// Keys of what was being written and did not become an object, where the place keeps such; no
    /// listing has them, and they may be removed.
    ///
    /// # Errors
    /// If the place refuses.
    fn interrupted(&self) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    /// Everything below a folder, sorted by key; only keys behind `after`, if there is one.
    ///
    /// # Errors
    /// If there are more than [`FOLDER_OBJECTS_MAX`], or the place refuses.
    fn list_below(&self, folder: &str, after: Option<&str>) -> Result<Vec<Entry>, Error>;

    /// The names directly in a folder; of the URL itself if it is empty.
    ///
    /// # Errors
    /// As [`Self::list_below`].
    fn names(&self, folder: &str) -> Result<Names, Error>;

    /// Removes an object; one that is gone is no error.
    ///
    /// # Errors
    /// If the place refuses.
    fn remove(&self, key: &str) -> Result<(), Error>;
}

/// Opens the destination of a URL: `file:///folder`, `s3://bucket/prefix`, `gs://bucket/prefix` or
/// `az://container/prefix`, with options behind `?`. Object stores are used on the runtime of `handle`;
/// nothing is asked of them yet.
///
/// # Errors
/// If the URL or a file that it names is wrong.
pub fn open(
    url: &str,
    env: &Env,
    handle: &Handle,
    limit: Arc<Limit>,
) -> Result<Arc<dyn Destination>, Error> {
    let parsed = url::Url::parse(url)?;
    Ok(match parsed.scheme {
        url::Scheme::File => Arc::new(local::Folder::new(env, &parsed, limit)),
        _ => Arc::new(remote::Bucket::new(&parsed, handle, limit)?),
    })
}

/// Checks a URL without opening anything.
///
/// # Errors
/// If it is wrong.
pub fn check(url: &str) -> Result<(), Error> {
    url::Url::parse(url).map(drop)
}

/// The URL of a folder.
#[must_use]
pub fn folder_url(folder: &std::path::Path) -> String {
    url::of_folder(folder)
}

/// A URL for messages: without options and without anything that could be a secret.
#[must_use]
pub fn shown(url: &str) -> String {
    url::harmless(url)
}

/// Whether a key is made of plain words: nothing leads out of the destination.
pub(crate) fn is_plain(key: &str) -> bool {
    let is_word = |word: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        !word.is_empty() && !word.starts_with('.') && word.bytes().all(is_plain)
    };
    key.split('/').all(is_word)
}

#[cfg(test)]
mod tests;
