//! The payload of an age file: chunks of 64 KiB under ChaCha20-Poly1305, of which the last says so.

use std::io::{self, ErrorKind, Read, Write};

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::Error;

/// Bytes of a chunk's plaintext.
const CHUNK_LEN: usize = 64 << 10;
const TAG_LEN: usize = 16;
const SEALED_LEN: usize = CHUNK_LEN + TAG_LEN;

/// Counts chunks; a nonce is never used twice under a key.
struct Chunks {
    key: LessSafeKey,
    count: u64,
}

impl Chunks {
    fn new(key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("ChaCha20 takes 32 bytes");
        Self { key: LessSafeKey::new(key), count: 0 }
    }

    /// The nonce of the next chunk: its number in 11 bytes, and whether it is the last.
    fn nonce(&mut self, is_last: bool) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[3..11].copy_from_slice(&self.count.to_be_bytes());
        nonce[11] = u8::from(is_last);
        self.count = self.count.checked_add(1).expect("2^64 chunks are never written");
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Seals what is written; [`Self::finish`] ends it.
pub struct SealWriter<W> {
    out: W,
    chunks: Chunks,
    buffer: Vec<u8>,
}

impl<W> std::fmt::Debug for SealWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealWriter").field("chunks", &self.chunks.count).finish_non_exhaustive()
    }
}

impl<W: Write> SealWriter<W> {
    pub(super) fn new(out: W, key: &[u8; 32]) -> Self {
        Self { out, chunks: Chunks::new(key), buffer: Vec::with_capacity(SEALED_LEN) }
    }

    /// The writer below.
    pub const fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// Writes the last chunk.
    ///
    /// # Errors
    /// If the writer below fails.
    pub fn finish(mut self) -> io::Result<W> {
        self.write_chunk(true)?;
        Ok(self.out)
    }

    fn write_chunk(&mut self, is_last: bool) -> io::Result<()> {
        let nonce = self.chunks.nonce(is_last);
        let sealed =
            self.chunks.key.seal_in_place_append_tag(nonce, Aad::empty(), &mut self.buffer);
        sealed.expect("a chunk is below ChaCha20-Poly1305's limit");
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

impl<W: Write> Write for SealWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A whole chunk waits until something follows: it may be the last.
        if self.buffer.len() == CHUNK_LEN && !bytes.is_empty() {
            self.write_chunk(false)?;
        }
        let taken = bytes.len().min(CHUNK_LEN - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    /// Chunks have their length, so nothing is written early.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens a payload; nothing is given before its chunk is authenticated.
pub struct OpenReader<R> {
    from: R,
    chunks: Chunks,
    /// A sealed chunk and the first byte of the next one; then the opened chunk.
    buffer: Vec<u8>,
    /// The part of `buffer` that is not read yet.
    open: std::ops::Range<usize>,
    next: Option<u8>,
    is_ended: bool,
}

impl<R> std::fmt::Debug for OpenReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenReader").field("chunks", &self.chunks.count).finish_non_exhaustive()
    }
}

impl<R: Read> OpenReader<R> {
    pub(super) fn new(from: R, key: &[u8; 32]) -> Self {
        let (chunks, buffer) = (Chunks::new(key), vec![0; SEALED_LEN + 1]);
        Self { from, chunks, buffer, open: 0..0, next: None, is_ended: false }
    }

    /// The reader below.
    pub const fn get_ref(&self) -> &R {
        &self.from
    }

    /// The reader below. It was read to its end if this one was.
    pub fn into_inner(self) -> R {
        self.from
    }

    fn read_chunk(&mut self) -> io::Result<()> {
        let mut len = 0;
        if let Some(first) = self.next.take() {
            self.buffer[0] = first;
            len = 1;
        }
        while len < self.buffer.len() {
            match self.from.read(&mut self.buffer[len..]) {
                Ok(0) => break,
                Ok(read) => len += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let is_last = len <= SEALED_LEN;
        if !is_last {
            self.next = self.buffer.last().copied();
            len = SEALED_LEN;
        }
        let is_first = self.chunks.count == 0;
        let nonce = self.chunks.nonce(is_last);
        let sealed = &mut self.buffer[..len];
        let opened = self.chunks.key.open_in_place(nonce, Aad::empty(), sealed);
        let len = opened.map_err(|_unspecified| Error::Chunk { is_last }.into_io())?.len();
        // Only a file without any content has an empty chunk.
        if len == 0 && !is_first {
            return Err(Error::Chunk { is_last }.into_io());
        }
        (self.open, self.is_ended) = (0..len, is_last);
        Ok(())
    }
}

impl<R: Read> Read for OpenReader<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.open.is_empty() && !self.is_ended && !bytes.is_empty() {
            self.read_chunk()?;
        }
        let len = bytes.len().min(self.open.len());
        bytes[..len].copy_from_slice(&self.buffer[self.open.start..self.open.start + len]);
        self.open.start += len;
        Ok(len)
    }
}
