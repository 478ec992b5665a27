//! The files and directories of a simulated disk: as processes see them, and as they are durable.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::faults::Faults;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// A directory.
    Dir,
    /// A file, by inode number.
    File(u64),
}

/// A change of a file's content.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Bytes written.
    Write { offset: usize, bytes: Vec<u8> },
    /// The length set.
    Resize { len: usize },
    /// Space reserved; never shortens.
    Allocate { len: usize },
}

impl Change {
    /// Carries the change out.
    pub(super) fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => {
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(bytes);
            }
            Self::Resize { len } => content.resize(*len, 0),
            Self::Allocate { len } => content.resize((*len).max(content.len()), 0),
        }
    }

    fn len_after(&self, len: usize) -> usize {
        match self {
            Self::Write { offset, bytes } => len.max(offset + bytes.len()),
            Self::Resize { len } => *len,
            Self::Allocate { len: wanted } => len.max(*wanted),
        }
    }
}

/// A file's content.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    /// What a read sees.
    pub(super) current: Vec<u8>,
    /// What the last sync made durable.
    pub(super) durable: Vec<u8>,
    /// The changes since, in order.
    pub(super) unsynced: Vec<Change>,
    /// How many open files use it.
    pub(super) handles: usize,
}

impl Inode {
    pub(super) fn apply(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.unsynced.push(change);
    }

    pub(super) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.durable);
        }
    }
}

/// A change of directory entries.
#[derive(Clone, Debug)]
pub(super) enum DirOp {
    /// A name appears.
    Link { path: PathBuf, node: Node },
    /// A name goes away.
    Unlink { path: PathBuf },
    /// A name is exchanged for another.
    Rename { from: PathBuf, to: PathBuf, node: Node },
}

impl DirOp {
    /// Carries the change out.
    pub(super) fn apply(&self, entries: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Link { path, node } => {
                entries.insert(path.clone(), *node);
            }
            Self::Unlink { path } => {
                entries.remove(path);
            }
            Self::Rename { from, to, node } => {
                entries.remove(from);
                entries.insert(to.clone(), *node);
            }
        }
    }

    fn touches(&self, dir: &Path) -> bool {
        let is_in = |path: &Path| path.parent() == Some(dir);
        match self {
            Self::Link { path, .. } | Self::Unlink { path } => is_in(path),
            Self::Rename { from, to, .. } => is_in(from) || is_in(to),
        }
    }

    fn names(&self, inode: u64) -> bool {
        match self {
            Self::Link { node, .. } | Self::Rename { node, .. } => *node == Node::File(inode),
            Self::Unlink { .. } => false,
        }
    }
}

/// A whole disk.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) entries: BTreeMap<PathBuf, Node>,
    pub(super) durable_entries: BTreeMap<PathBuf, Node>,
    /// Directory changes that no sync has made durable, in order.
    pub(super) unsynced: Vec<DirOp>,
    pub(super) inodes: BTreeMap<u64, Inode>,
    pub(super) next_inode: u64,
    pub(super) locks: BTreeSet<PathBuf>,
    pub(super) faults: Faults,
}

impl State {
    pub(super) fn inode(&mut self, inode: u64) -> &mut Inode {
        self.inodes.get_mut(&inode).expect("an inode lives as long as a handle or a name")
    }

    pub(super) fn file(&self, path: &Path) -> Option<u64> {
        match self.entries.get(path) {
            Some(Node::File(inode)) => Some(*inode),
            Some(Node::Dir) | None => None,
        }
    }

    pub(super) fn files(&self) -> Vec<PathBuf> {
        let is_file = |(_, node): &(&PathBuf, &Node)| matches!(node, Node::File(_));
        self.entries.iter().filter(is_file).map(|(path, _)| path.clone()).collect()
    }

    pub(super) fn list(&self, dir: &Path) -> Vec<String> {
        let names = self.entries.keys().filter(|path| path.parent() == Some(dir));
        names.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect()
    }

    pub(super) fn change_dir(&mut self, op: DirOp) {
        op.apply(&mut self.entries);
        self.unsynced.push(op);
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let mut missing: Vec<&Path> = Vec::new();
        for dir in path.ancestors().filter(|dir| !is_root(dir)) {
            match self.entries.get(dir) {
                Some(Node::Dir) => break,
                Some(Node::File(_)) => return Err(ErrorKind::NotADirectory.into()),
                None => missing.push(dir),
            }
        }
        for dir in missing.into_iter().rev() {
            self.change_dir(DirOp::Link { path: dir.to_owned(), node: Node::Dir });
        }
        Ok(())
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<u64> {
        if self.entries.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        self.check_parent(path)?;
        let inode = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(inode, Inode::default());
        self.change_dir(DirOp::Link { path: path.to_owned(), node: Node::File(inode) });
        Ok(inode)
    }

    fn check_parent(&self, path: &Path) -> io::Result<()> {
        let parent = path.parent().ok_or(ErrorKind::InvalidInput)?;
        let found = is_root(parent) || self.entries.get(parent) == Some(&Node::Dir);
        if found { Ok(()) } else { Err(ErrorKind::NotFound.into()) }
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = *self.entries.get(from).ok_or(ErrorKind::NotFound)?;
        self.check_parent(to)?;
        if node == Node::Dir {
            if self.entries.contains_key(to) && !self.list(to).is_empty() {
                return Err(ErrorKind::DirectoryNotEmpty.into());
            }
            // Children carry their whole path, so they are renamed one by one.
            let below: Vec<(PathBuf, Node)> = self
                .entries
                .iter()
                .filter(|(path, _)| path.starts_with(from) && path.as_path() != from)
                .map(|(path, node)| (path.clone(), *node))
                .collect();
            self.move_tree(from, to, &below);
        }
        self.change_dir(DirOp::Rename { from: from.to_owned(), to: to.to_owned(), node });
        Ok(())
    }

    fn move_tree(&mut self, from: &Path, to: &Path, below: &[(PathBuf, Node)]) {
        for (path, node) in below {
            let rest = path.strip_prefix(from).expect("the path starts with its directory");
            let target = to.join(rest);
            self.change_dir(DirOp::Rename { from: path.clone(), to: target, node: *node });
        }
    }

    pub(super) fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        if self.entries.get(path) != Some(&Node::Dir) {
            return Err(ErrorKind::NotFound.into());
        }
        let doomed: Vec<PathBuf> =
            self.entries.keys().filter(|name| name.starts_with(path)).cloned().collect();
        for path in doomed.into_iter().rev() {
            self.change_dir(DirOp::Unlink { path });
        }
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        if !is_root(dir) && self.entries.get(dir) != Some(&Node::Dir) {
            return Err(ErrorKind::NotFound.into());
        }
        let durable = &mut self.durable_entries;
        self.unsynced.retain(|op| {
            let is_ancestor = matches!(
                op,
                DirOp::Link { path, node: Node::Dir } if dir.starts_with(path)
            );
            let synced = is_ancestor || op.touches(dir) || is_removal_below(op, dir);
            if synced {
                op.apply(durable);
            }
            !synced
        });
        self.collect();
        Ok(())
    }

    /// Fails if a change does not fit on the disk.
    pub(super) fn reserve(&self, inode: u64, change: &Change) -> io::Result<()> {
        let Some(capacity) = self.faults.capacity else { return Ok(()) };
        let (before, used) = (self.len_of(inode), self.used());
        let after = change.len_after(before);
        let wanted = u64::try_from((used - before.min(used)) + after).map_err(io::Error::other)?;
        if after > before && wanted > capacity {
            return Err(ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn len_of(&self, inode: u64) -> usize {
        self.inodes.get(&inode).map_or(0, |file| file.current.len())
    }

    fn used(&self) -> usize {
        let files = self.entries.values().filter_map(Node::file);
        files.map(|inode| self.len_of(inode)).sum()
    }

    /// The sum of all files' lengths.
    pub(super) fn used_bytes(&self) -> u64 {
        u64::try_from(self.used()).expect("a simulated disk fits into memory")
    }

    pub(super) fn poke(&mut self, path: &Path, bytes: &[u8]) {
        let inode = self.file(path).unwrap_or_else(|| {
            self.create_file(path).expect("the directory of a poked file exists")
        });
        self.durable_entries.insert(path.to_owned(), Node::File(inode));
        let file = self.inode(inode);
        file.unsynced.clear();
        file.current = bytes.to_vec();
        file.durable = bytes.to_vec();
    }

    pub(super) fn find(&self, needle: &[u8]) -> Option<PathBuf> {
        let holds = |content: &[u8]| content.windows(needle.len().max(1)).any(|w| w == needle);
        let all = self.entries.iter().chain(&self.durable_entries);
        let mut files = all.filter_map(|(path, node)| Some((path, node.file()?)));
        files.find_map(|(path, inode)| {
            let file = self.inodes.get(&inode)?;
            (holds(&file.current) || holds(&file.durable)).then(|| path.clone())
        })
    }

    /// Frees the content that neither a name nor an open file can reach.
    pub(super) fn collect(&mut self) {
        let Self { entries, durable_entries, unsynced, inodes, .. } = self;
        let named: BTreeSet<u64> =
            entries.values().chain(durable_entries.values()).filter_map(Node::file).collect();
        inodes.retain(|inode, file| {
            file.handles > 0 || named.contains(inode) || unsynced.iter().any(|op| op.names(*inode))
        });
    }
}

impl Node {
    fn file(&self) -> Option<u64> {
        match self {
            Self::File(inode) => Some(*inode),
            Self::Dir => None,
        }
    }
}

/// A removed tree goes as a whole: what was inside cannot outlive the directory's own entry.
fn is_removal_below(op: &DirOp, dir: &Path) -> bool {
    matches!(op, DirOp::Unlink { path } if path.starts_with(dir))
}

fn is_root(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.parent().is_none() || path == Path::new(".")
}
