//! A folder for what is on its way: emptied when it goes out of scope, and by the next one if that did not
//! happen. What lies in it is sealed.

use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use keepd_env::{DirLock, DiskFile, Env, IoError, IoOp, Random};
use zeroize::Zeroizing;

use crate::Error;

const PREFIX: &str = "keepd-scratch-";
/// Space that is left to others.
const RESERVE_BYTES: u64 = 64 << 20;

/// A folder of its own.
#[derive(Debug)]
pub struct Scratch {
    env: Env,
    path: PathBuf,
    /// Tells a folder in use from one that was left over.
    _lock: Box<dyn DirLock>,
}

impl Scratch {
    /// Makes one in `parent`, and removes those that a process which was killed has left there.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(env: &Env, parent: &Path) -> Result<Self, Error> {
        for name in env.disk.list(parent)? {
            if name.starts_with(PREFIX) {
                remove_left_over(env, &parent.join(name));
            }
        }
        let path = parent.join(format!("{PREFIX}{:016x}", env.random.next_u64()));
        env.disk.create_dir(&path)?;
        let lock = env.disk.lock_dir(&path)?;
        Ok(Self { env: env.clone(), path, _lock: lock })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses to go on if so many bytes would fill the disk.
    ///
    /// # Errors
    /// If they would.
    pub fn check_space(&self, bytes: u64) -> Result<(), Error> {
        check_space(&self.env, &self.path, bytes)
    }

    /// Begins a file under a key that exists in memory only.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(&self, name: &str) -> Result<ScratchWriter, Error> {
        let file = self.env.disk.create(&self.path.join(name))?;
        Ok(ScratchWriter::new(file, &*self.env.random))
    }

    /// Removes a file whose readers are done, if it is there.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        match self.env.disk.remove(&self.path.join(name)) {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is sealed under a key that nobody has, and the next one tries again.
        let _left_over = self.env.disk.remove_dir_all(&self.path);
    }
}

/// Refuses to go on if so many bytes would fill the disk that holds `path`.
///
/// # Errors
/// If they would, or the disk cannot tell.
pub fn check_space(env: &Env, path: &Path, bytes: u64) -> Result<(), Error> {
    let available = env.disk.space(path)?.available_bytes;
    let needed = bytes.saturating_add(RESERVE_BYTES);
    if available < needed {
        let path = path.display().to_string();
        return Err(Error::Space { path, available, needed });
    }
    Ok(())
}

fn remove_left_over(env: &Env, path: &Path) {
    // Whoever else may write in the parent could have put a link there.
    let is_folder = matches!(env.disk.probe(path), Ok(Some(found)) if found.is_dir);
    if is_folder && let Ok(_lock) = env.disk.lock_dir(path) {
        let _foreign = env.disk.remove_dir_all(path);
    }
}

const BLOCK_LEN: usize = 4096;
const TAG_LEN: usize = 16;
const SEALED_LEN: usize = BLOCK_LEN + TAG_LEN;
/// Blocks that are read or written at once.
const BATCH: usize = 64;

struct Blocks {
    key: LessSafeKey,
}

impl Blocks {
    /// A block is sealed once, so its number is its nonce.
    fn nonce(number: u64) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[4..].copy_from_slice(&number.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }
}

/// A file that is being written.
pub struct ScratchWriter {
    file: Box<dyn DiskFile>,
    blocks: Blocks,
    /// The block that is not full yet.
    block: Vec<u8>,
    /// Sealed blocks that are not written yet.
    batch: Vec<u8>,
    count: u64,
    written: u64,
    len: u64,
}

impl std::fmt::Debug for ScratchWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScratchWriter").field("len", &self.len).finish_non_exhaustive()
    }
}

impl ScratchWriter {
    fn new(file: Box<dyn DiskFile>, random: &dyn Random) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        random.fill(key.as_mut_slice());
        let key = UnboundKey::new(&AES_256_GCM, key.as_slice()).expect("AES-256 takes 32 bytes");
        let blocks = Blocks { key: LessSafeKey::new(key) };
        let (block, batch) = (Vec::with_capacity(SEALED_LEN), Vec::new());
        Self { file, blocks, block, batch, count: 0, written: 0, len: 0 }
    }

    /// Bytes so far.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The file, to be read.
    ///
    /// # Errors
    /// If the rest cannot be written.
    pub fn finish(mut self) -> io::Result<ScratchFile> {
        if !self.block.is_empty() {
            self.seal_block()?;
        }
        self.write_batch()?;
        let inner = Inner { file: self.file, blocks: self.blocks, len: self.len };
        Ok(ScratchFile(Arc::new(inner)))
    }

    fn seal_block(&mut self) -> io::Result<()> {
        let nonce = Blocks::nonce(self.count);
        let sealed = self.blocks.key.seal_in_place_append_tag(nonce, Aad::empty(), &mut self.block);
        sealed.expect("a block is below AES-GCM's limit");
        self.batch.extend_from_slice(&self.block);
        self.block.clear();
        self.count += 1;
        if self.batch.len() >= BATCH * SEALED_LEN { self.write_batch() } else { Ok(()) }
    }

    fn write_batch(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.batch, self.written).map_err(|error| error.source)?;
        self.written += self.batch.len() as u64;
        self.batch.clear();
        Ok(())
    }
}

impl Write for ScratchWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK_LEN - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        self.len += taken as u64;
        if self.block.len() == BLOCK_LEN {
            self.seal_block()?;
        }
        Ok(taken)
    }

    /// Nobody reads it before it is finished.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Inner {
    file: Box<dyn DiskFile>,
    blocks: Blocks,
    len: u64,
}

/// A file that was written: read at any place, by many.
#[derive(Clone)]
pub struct ScratchFile(Arc<Inner>);

impl std::fmt::Debug for ScratchFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScratchFile").field("len", &self.0.len).finish_non_exhaustive()
    }
}

impl ScratchFile {
    /// A reader of all of it.
    #[must_use]
    pub fn reader(&self) -> ScratchReader {
        ScratchReader { file: self.clone(), at: 0 }
    }

    /// Its length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.len
    }

    fn failed(&self, op: IoOp, source: io::Error) -> IoError {
        IoError { op, path: self.0.file.path().to_owned(), source }
    }

    fn read_blocks(&self, bytes: &mut [u8], offset: u64) -> Result<(), IoError> {
        let block_len = BLOCK_LEN as u64;
        let (mut done, mut at) = (0, offset);
        let mut sealed = Vec::new();
        while done < bytes.len() {
            let first = at / block_len;
            let skip = usize::try_from(at % block_len).expect("less than a block");
            let wanted = (skip + bytes.len() - done).div_ceil(BLOCK_LEN).min(BATCH);
            let end = self.0.len.min((first + wanted as u64) * block_len);
            let plain_len = usize::try_from(end - first * block_len).expect("a batch at most");
            sealed.resize(plain_len + plain_len.div_ceil(BLOCK_LEN) * TAG_LEN, 0);
            self.0.file.read_exact_at(&mut sealed, first * SEALED_LEN as u64)?;
            let mut skipped = skip;
            for (number, block) in (first..).zip(sealed.chunks_mut(SEALED_LEN)) {
                let key = &self.0.blocks.key;
                let opened = key.open_in_place(Blocks::nonce(number), Aad::empty(), block);
                let opened = opened.map_err(|_unspecified| {
                    let text = "a file in the scratch folder was changed by somebody";
                    self.failed(IoOp::Read, io::Error::new(ErrorKind::InvalidData, text))
                })?;
                let part = opened.get(skipped..).unwrap_or_default();
                let len = part.len().min(bytes.len() - done);
                bytes[done..done + len].copy_from_slice(&part[..len]);
                (done, skipped) = (done + len, 0);
            }
            at = offset + done as u64;
        }
        Ok(())
    }
}

impl DiskFile for ScratchFile {
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), IoError> {
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.0.len) {
            return Err(self.failed(IoOp::Read, ErrorKind::UnexpectedEof.into()));
        }
        self.read_blocks(bytes, offset)
    }

    fn write_all_at(&self, _bytes: &[u8], _offset: u64) -> Result<(), IoError> {
        Err(self.failed(IoOp::Write, ErrorKind::Unsupported.into()))
    }

    fn sync(&self) -> Result<(), IoError> {
        self.0.file.sync()
    }

    fn len(&self) -> Result<u64, IoError> {
        Ok(self.0.len)
    }

    fn set_len(&self, _len: u64) -> Result<(), IoError> {
        Err(self.failed(IoOp::Resize, ErrorKind::Unsupported.into()))
    }

    fn allocate(&self, _len: u64) -> Result<(), IoError> {
        Err(self.failed(IoOp::Resize, ErrorKind::Unsupported.into()))
    }

    fn path(&self) -> &Path {
        self.0.file.path()
    }
}

/// Reads a scratch file from its begin to its end.
#[derive(Debug)]
pub struct ScratchReader {
    file: ScratchFile,
    at: u64,
}

impl Read for ScratchReader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.file.0.len - self.at).unwrap_or(usize::MAX);
        let len = left.min(bytes.len()).min(BATCH * BLOCK_LEN);
        self.file.read_blocks(&mut bytes[..len], self.at).map_err(|error| error.source)?;
        self.at += len as u64;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use keepd_env::SimDisk;
    use proptest::prelude::*;

    use super::*;

    fn scratch() -> (Env, SimDisk, Scratch) {
        let (env, disk, _clock) = Env::simulated(1);
        env.disk.create_dir(Path::new("/scratch")).unwrap();
        let scratch = Scratch::new(&env, Path::new("/scratch")).unwrap();
        (env, disk, scratch)
    }

    #[test]
    fn the_folder_goes_and_so_does_one_that_was_left_over() {
        let (env, _disk, scratch) = scratch();
        let left_over = Path::new("/scratch/keepd-scratch-0000000000000001");
        env.disk.create_dir(left_over).unwrap();
        env.disk.create_dir(Path::new("/scratch/other")).unwrap();
        scratch.create("a").unwrap();
        let second = Scratch::new(&env, Path::new("/scratch")).unwrap();
        assert!(!env.disk.exists(left_over).unwrap());
        assert!(env.disk.exists(scratch.path()).unwrap(), "one in use stays");
        drop(scratch);
        drop(second);
        assert_eq!(env.disk.list(Path::new("/scratch")).unwrap(), ["other"]);
    }

    #[test]
    fn a_disk_without_space_is_refused_before_it_is_full() {
        let (_env, disk, scratch) = scratch();
        disk.set_capacity(Some(RESERVE_BYTES + 1_000_000));
        scratch.check_space(0).unwrap();
        let error = scratch.check_space(2_000_000).unwrap_err().to_string();
        assert!(error.contains("--scratch-dir"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn what_is_read_was_written_and_is_nowhere_on_the_disk(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..9000), 0..30),
            reads in prop::collection::vec((any::<u64>(), 0..20_000_usize), 0..8),
        ) {
            let (env, _disk, scratch) = scratch();
            let mut writer = scratch.create("file").unwrap();
            let content = pieces.concat();
            for piece in &pieces {
                writer.write_all(piece).unwrap();
            }
            let file = writer.finish().unwrap();
            let mut all = Vec::new();
            file.reader().read_to_end(&mut all).unwrap();
            prop_assert_eq!(&all, &content);
            for (at, len) in reads {
                let at = usize::try_from(at % (content.len() as u64 + 1)).unwrap();
                let mut bytes = vec![0; len];
                let read = file.read_exact_at(&mut bytes, at as u64);
                match content.get(at..at + len) {
                    Some(expected) => {
                        read.unwrap();
                        prop_assert_eq!(expected, bytes);
                    }
                    None => prop_assert!(read.is_err()),
                }
            }
            let stored = env.disk.read(&scratch.path().join("file")).unwrap();
            if content.len() >= 16 {
                prop_assert!(!testkit::files::contains(&stored, &content[..16]));
            }
        }

        #[test]
        fn a_changed_byte_is_found(at in any::<prop::sample::Index>()) {
            let (env, disk, scratch) = scratch();
            let mut writer = scratch.create("file").unwrap();
            writer.write_all(&[7; 10_000]).unwrap();
            let file = writer.finish().unwrap();
            let path = scratch.path().join("file");
            let mut stored = env.disk.read(&path).unwrap();
            let at = at.index(stored.len());
            stored[at] ^= 1;
            disk.poke(&path, &stored);
            let error = file.reader().read_to_end(&mut Vec::new()).unwrap_err();
            prop_assert!(error.to_string().contains("was changed"), "{}", error);
        }
    }
}
