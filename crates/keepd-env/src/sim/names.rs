//! The directories of a simulated disk: as processes see them, and as they are durable.
//!
//! A directory holds names as a file holds bytes, and its own name is in its parent. So a renamed
//! directory keeps its content, durable or not: the rename
//! itself needs a sync of the parent, the names inside need one of the directory.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::disk::FileId;

/// The number of a directory, independent of its name.
pub(super) type DirId = u64;

/// The root directory; relative paths begin there too.
const ROOT: DirId = 0;

/// A name and the directory it stands in.
type Place = (DirId, OsString);

/// The file or directory that a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// A directory.
    Dir(DirId),
    /// A file, by inode number.
    File(u64),
}

impl Node {
    /// The inode number of a file.
    pub(super) fn file(&self) -> Option<u64> {
        match self {
            Self::File(inode) => Some(*inode),
            Self::Dir(_) => None,
        }
    }

    /// Directories and files are numbered apart.
    pub(super) const fn identity(self) -> FileId {
        match self {
            Self::Dir(inode) => FileId { device: 0, inode },
            Self::File(inode) => FileId { device: 1, inode },
        }
    }

    fn dir(&self) -> Option<DirId> {
        match self {
            Self::Dir(dir) => Some(*dir),
            Self::File(_) => None,
        }
    }
}

/// A change of names.
#[derive(Clone, Debug)]
enum Change {
    /// A name is added.
    Link { at: Place, node: Node },
    /// A name is removed.
    Unlink { at: Place },
    /// A name is changed.
    Rename { from: Place, to: Place, node: Node },
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<Place, Node>) {
        match self {
            Self::Link { at, node } => insert(names, at, *node),
            Self::Unlink { at } => {
                names.remove(at);
            }
            Self::Rename { from, to, node } => {
                names.remove(from);
                insert(names, to, *node);
            }
        }
    }

    fn touches(&self, dir: DirId) -> bool {
        match self {
            Self::Link { at, .. } | Self::Unlink { at } => at.0 == dir,
            Self::Rename { from, to, .. } => from.0 == dir || to.0 == dir,
        }
    }

    fn node(&self) -> Option<Node> {
        match self {
            Self::Link { node, .. } | Self::Rename { node, .. } => Some(*node),
            Self::Unlink { .. } => None,
        }
    }
}

/// A directory has one name, also where a change before this one was lost.
fn insert(names: &mut BTreeMap<Place, Node>, at: &Place, node: Node) {
    if node.dir().is_some() {
        names.retain(|_, other| *other != node);
    }
    names.insert(at.clone(), node);
}

/// All names of a disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// The names that processes see, by whole paths.
    current: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<Place, Node>,
    /// The changes that no sync has made durable, in order.
    unsynced: Vec<Change>,
    last_dir: DirId,
}

impl Names {
    /// The file or directory at a path.
    pub(super) fn get(&self, path: &Path) -> Option<Node> {
        self.current.get(path).copied()
    }

    /// All that processes see.
    pub(super) fn all(&self) -> &BTreeMap<PathBuf, Node> {
        &self.current
    }

    /// The names in a directory.
    pub(super) fn list(&self, dir: &Path) -> Vec<String> {
        let names = self.current.keys().filter(|path| path.parent() == Some(dir));
        names.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect()
    }

    fn dir(&self, path: &Path) -> io::Result<DirId> {
        if is_root(path) {
            return Ok(ROOT);
        }
        self.get(path).and_then(|node| node.dir()).ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// The directory of a path's last name.
    fn place(&self, path: &Path) -> io::Result<Place> {
        let parent = path.parent().ok_or(ErrorKind::InvalidInput)?;
        if is_root(parent) {
            // The whole path, which tells `/a` from `a`.
            return Ok((ROOT, path.as_os_str().to_owned()));
        }
        let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
        Ok((self.dir(parent)?, name.to_owned()))
    }

    /// Creates a directory and its missing parents.
    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let mut missing: Vec<&Path> = Vec::new();
        for dir in path.ancestors().filter(|dir| !is_root(dir)) {
            match self.get(dir) {
                Some(Node::Dir(_)) => break,
                Some(Node::File(_)) => return Err(ErrorKind::NotADirectory.into()),
                None => missing.push(dir),
            }
        }
        for dir in missing.into_iter().rev() {
            self.last_dir += 1;
            self.link(dir, Node::Dir(self.last_dir))?;
        }
        Ok(())
    }

    /// Adds a name.
    pub(super) fn link(&mut self, path: &Path, node: Node) -> io::Result<()> {
        let at = self.place(path)?;
        if self.current.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        self.current.insert(path.to_owned(), node);
        self.unsynced.push(Change::Link { at, node });
        Ok(())
    }

    /// Removes a file's name.
    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.get(path).and_then(|node| node.file()).ok_or(ErrorKind::NotFound)?;
        self.unlink(path)
    }

    fn unlink(&mut self, path: &Path) -> io::Result<()> {
        let at = self.place(path)?;
        self.current.remove(path);
        self.unsynced.push(Change::Unlink { at });
        Ok(())
    }

    /// Removes the name of a directory and all names in it.
    pub(super) fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        self.get(path).and_then(|node| node.dir()).ok_or(ErrorKind::NotFound)?;
        let doomed: Vec<PathBuf> =
            self.current.keys().filter(|name| name.starts_with(path)).cloned().collect();
        // Entries sort after their directory.
        for path in doomed.iter().rev() {
            self.unlink(path)?;
        }
        Ok(())
    }

    /// Renames; an existing file or directory of the same kind is replaced.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.get(from).ok_or(ErrorKind::NotFound)?;
        let (old, new) = (self.place(from)?, self.place(to)?);
        match (node, self.get(to)) {
            (Node::Dir(_), Some(Node::File(_))) => return Err(ErrorKind::NotADirectory.into()),
            (Node::File(_), Some(Node::Dir(_))) => return Err(ErrorKind::IsADirectory.into()),
            (Node::Dir(_), _) if to.starts_with(from) && to != from => {
                return Err(ErrorKind::InvalidInput.into());
            }
            (Node::Dir(_), Some(_)) if !self.list(to).is_empty() => {
                return Err(ErrorKind::DirectoryNotEmpty.into());
            }
            _ => {}
        }
        let moved: Vec<PathBuf> =
            self.current.keys().filter(|path| path.starts_with(from)).cloned().collect();
        for path in moved {
            let node = self.current.remove(&path).expect("it was just listed");
            let rest = path.strip_prefix(from).expect("the path starts with its directory");
            // Joining nothing would add a slash.
            let path = if path == from { to.to_owned() } else { to.join(rest) };
            self.current.insert(path, node);
        }
        self.unsynced.push(Change::Rename { from: old, to: new, node });
        Ok(())
    }

    /// Makes the names in a directory durable, and with them the creation of the directory and of
    /// those above it.
    pub(super) fn sync(&mut self, path: &Path) -> io::Result<()> {
        let dir = self.dir(path)?;
        let lineage: Vec<Node> =
            path.ancestors().filter_map(|ancestor| self.get(ancestor)).collect();
        let durable = &mut self.durable;
        self.unsynced.retain(|change| {
            let is_creation_above =
                matches!(change, Change::Link { node, .. } if lineage.contains(node));
            let is_synced = is_creation_above || change.touches(dir);
            if is_synced {
                change.apply(durable);
            }
            !is_synced
        });
        self.forget_lost_dirs();
        Ok(())
    }

    /// Makes a file's name durable at once.
    pub(super) fn keep(&mut self, path: &Path, inode: u64) {
        let at = self.place(path).expect("the directory of the file exists");
        self.durable.insert(at, Node::File(inode));
    }

    /// All that is durable, by whole paths.
    pub(super) fn durable(&self) -> BTreeMap<PathBuf, Node> {
        paths(&self.durable)
    }

    /// The inode numbers of all files with a name, be it a name that a crash brings back.
    pub(super) fn files(&self) -> BTreeSet<u64> {
        let unsynced = self.unsynced.iter().filter_map(Change::node);
        let nodes = self.current.values().chain(self.durable.values()).copied().chain(unsynced);
        nodes.filter_map(|node| node.file()).collect()
    }

    /// The names after a crash; `keeps` decides about each change that was not synced.
    pub(super) fn crashed(&self, mut keeps: impl FnMut() -> bool) -> Self {
        let mut durable = self.durable.clone();
        for change in &self.unsynced {
            if keeps() {
                change.apply(&mut durable);
            }
        }
        let current = paths(&durable);
        let mut image = Self { current, durable, unsynced: Vec::new(), last_dir: self.last_dir };
        image.forget_lost_dirs();
        image
    }

    /// Drops directories that no name leads to any more.
    fn forget_lost_dirs(&mut self) {
        let Self { current, durable, unsynced, .. } = self;
        let mut reached: BTreeSet<DirId> = current.values().filter_map(Node::dir).collect();
        reached.insert(ROOT);
        loop {
            let named = durable.iter().filter(|((dir, _), _)| reached.contains(dir));
            let changed =
                unsynced.iter().filter(|change| reached.iter().any(|d| change.touches(*d)));
            let nodes = named.map(|(_, node)| *node).chain(changed.filter_map(Change::node));
            let more: Vec<DirId> = nodes.filter_map(|node| node.dir()).collect();
            let before = reached.len();
            reached.extend(more);
            if reached.len() == before {
                break;
            }
        }
        durable.retain(|(dir, _), _| reached.contains(dir));
        unsynced.retain(|change| reached.iter().any(|dir| change.touches(*dir)));
    }
}

/// Places as whole paths, as far as names lead there from the root.
fn paths(names: &BTreeMap<Place, Node>) -> BTreeMap<PathBuf, Node> {
    let mut found = BTreeMap::new();
    let mut todo = vec![(ROOT, PathBuf::new())];
    while let Some((dir, path)) = todo.pop() {
        let here =
            names.range((dir, OsString::new())..).take_while(|((other, _), _)| *other == dir);
        for ((_, name), node) in here {
            let path = path.join(name);
            if let Node::Dir(below) = node {
                todo.push((*below, path.clone()));
            }
            found.insert(path, *node);
        }
    }
    found
}

fn is_root(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.parent().is_none() || path == Path::new(".")
}
