//! The state of a simulated disk, and its files' contents: as processes see them, and as they are
//! durable.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::faults::Faults;
use super::names::{Names, Node};

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
    /// The content that a read sees.
    pub(super) current: Vec<u8>,
    /// The content as of the last sync.
    pub(super) durable: Vec<u8>,
    /// The changes since, in order.
    pub(super) unsynced: Vec<Change>,
    /// The number of open handles.
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

/// A whole disk.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) names: Names,
    pub(super) inodes: BTreeMap<u64, Inode>,
    pub(super) next_inode: u64,
    pub(super) locks: BTreeSet<PathBuf>,
    pub(super) faults: Faults,
    /// Syncs are acknowledged and make nothing durable.
    pub(super) lies: bool,
}

impl State {
    pub(super) fn inode(&mut self, inode: u64) -> &mut Inode {
        self.inodes.get_mut(&inode).expect("an inode lives as long as a handle or a name")
    }

    pub(super) fn file(&self, path: &Path) -> Option<u64> {
        self.names.get(path).and_then(|node| node.file())
    }

    pub(super) fn files(&self) -> Vec<PathBuf> {
        let is_file = |(_, node): &(&PathBuf, &Node)| matches!(node, Node::File(_));
        self.names.all().iter().filter(is_file).map(|(path, _)| path.clone()).collect()
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<u64> {
        let inode = self.next_inode;
        self.names.link(path, Node::File(inode))?;
        self.next_inode += 1;
        self.inodes.insert(inode, Inode::default());
        Ok(inode)
    }

    pub(super) fn sync_file(&mut self, inode: u64) {
        if !self.lies {
            self.inode(inode).sync();
        }
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        if self.lies {
            return Ok(());
        }
        self.names.sync(dir)?;
        self.collect();
        Ok(())
    }

    /// Fails if a change does not fit on the disk.
    pub(super) fn reserve(&mut self, inode: u64, change: &Change) -> io::Result<()> {
        let Some(capacity) = self.faults.capacity else { return Ok(()) };
        let (before, used) = (self.len_of(inode), self.used());
        let after = change.len_after(before);
        let wanted = u64::try_from((used - before.min(used)) + after).map_err(io::Error::other)?;
        if after > before && wanted > capacity {
            self.faults.refuse();
            return Err(ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn len_of(&self, inode: u64) -> usize {
        self.inodes.get(&inode).map_or(0, |file| file.current.len())
    }

    fn used(&self) -> usize {
        let files = self.names.all().values().filter_map(Node::file);
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
        self.names.keep(path, inode);
        let file = self.inode(inode);
        file.unsynced.clear();
        file.current = bytes.to_vec();
        file.durable = bytes.to_vec();
    }

    pub(super) fn find(&self, needle: &[u8]) -> Option<PathBuf> {
        let holds = |content: &[u8]| content.windows(needle.len().max(1)).any(|w| w == needle);
        let durable = self.names.durable();
        let all = self.names.all().iter().chain(&durable);
        let mut files = all.filter_map(|(path, node)| Some((path, node.file()?)));
        files.find_map(|(path, inode)| {
            let file = self.inodes.get(&inode)?;
            (holds(&file.current) || holds(&file.durable)).then(|| path.clone())
        })
    }

    /// Frees the content that neither a name nor an open file can reach.
    pub(super) fn collect(&mut self) {
        let named = self.names.files();
        self.inodes.retain(|inode, file| file.handles > 0 || named.contains(inode));
    }
}
