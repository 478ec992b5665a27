//! Directories: temporary ones, what is in them, and whether certain bytes are.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// A directory that goes away with this value, unless the test fails.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// A fresh directory whose name begins with `name`.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // Short: the path of a unix socket has at most 107 bytes.
        let dir = std::env::temp_dir().join(format!("{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).expect("a temporary directory can be made");
        Self(dir)
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A path inside.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file inside that only its owner can read; returns its path.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, content).expect("a temporary file can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// One file or directory of a tree, with everything that a program could have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeEntry {
    /// Its path below the root.
    pub path: PathBuf,
    /// Its permissions.
    pub mode: u32,
    /// The time it was written; `None` for a directory.
    pub modified: Option<SystemTime>,
    /// Its content; empty for a directory or socket.
    pub content: Vec<u8>,
}

/// A tree in the order of its paths.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn tree(root: &Path) -> Vec<TreeEntry> {
    let mut entries = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        let Some(list) = unless_gone(fs::read_dir(&directory)) else { continue };
        for entry in list {
            let path = entry.expect("a directory can be listed").path();
            let Some(meta) = unless_gone(fs::symlink_metadata(&path)) else { continue };
            let mode = meta.permissions().mode();
            let (mut modified, mut content) = (None, Vec::new());
            if meta.is_dir() {
                directories.push(path.clone());
            } else if meta.is_file() {
                let Some(bytes) = unless_gone(fs::read(&path)) else { continue };
                (modified, content) = (meta.modified().ok(), bytes);
            }
            let path = path.strip_prefix(root).expect("listed below the root").to_owned();
            entries.push(TreeEntry { path, mode, modified, content });
        }
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    entries
}

/// A running program may remove what was just listed.
fn unless_gone<T>(result: io::Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => panic!("a tree can be read: {error}"),
    }
}

/// The files of a tree, and their names, that contain one of the `needles`.
#[must_use]
pub fn files_with(root: &Path, needles: &[Vec<u8>]) -> Vec<PathBuf> {
    let has = |bytes: &[u8]| needles.iter().any(|needle| contains(bytes, needle));
    tree(root)
        .into_iter()
        .filter(|entry| has(&entry.content) || has(entry.path.as_os_str().as_encoded_bytes()))
        .map(|entry| entry.path)
        .collect()
}

/// Whether `bytes` contain `needle`.
#[must_use]
pub fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let Some((&first, _)) = needle.split_first() else { return true };
    let mut from = 0;
    while let Some(found) = bytes[from..].iter().position(|byte| *byte == first) {
        if bytes[from + found..].starts_with(needle) {
            return true;
        }
        from += found + 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needles_are_found_in_contents_and_names() {
        let dir = TempDir::new("testkit");
        fs::create_dir(dir.join("sub")).unwrap();
        let _ = dir.write("sub/plain", "xx needle xx");
        let _ = dir.write("sub/needle.txt", "");
        let _ = dir.write("other", "neeedle");
        let found = files_with(dir.path(), &[b"needle".to_vec()]);
        assert_eq!(found, [PathBuf::from("sub/needle.txt"), PathBuf::from("sub/plain")]);
        assert_eq!(tree(dir.path()).len(), 4);
    }
}
