//! A filter between the connection and the HTTP/2 library, for requests that etcd serves and the
//! library rejects.
//!
//! The library ends a stream, or the whole connection, because of fields that mean nothing to gRPC:
//! an `:authority` that is no host (the path of a socket, a list of endpoints), a missing `:scheme`,
//! `te: gzip`, one bad name of a field. Clients of etcd send all of these. The filter passes every
//! byte on unchanged, except for header blocks with such fields: it rewrites them so that the library
//! accepts them. It also joins neighbouring small DATA frames of a stream ([`join`]).
//!
//! Bytes are scanned in the buffer into which they were read. Only header blocks are decoded, each
//! once, because HPACK's dynamic table has to be followed. After the first rewritten block the
//! library's table differs from the client's, so all later blocks of that connection are rewritten
//! too, without references to the table. Decision 0501 tells what else was considered.
//!
//! Bytes that are not HTTP/2, or violate it, are passed on: the library judges them.

mod fields;
mod hpack;
mod huffman;
mod join;

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use fields::Verdict;
use hpack::{Decoder, Field, FieldList};
use join::join_data;

use crate::unfinished::{Held, Share};

/// The field that carries a path which the library rejects.
pub(crate) const PATH: &str = "keepd-path";
/// The field that carries a method which the library rejects.
pub(crate) const METHOD: &str = "keepd-method";

/// BOUND: the fields of one request, as HTTP/2 counts them: a kilobyte for each of a thousand.
pub(crate) const FIELD_BYTES_MAX: u32 = 1024 * 1024;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_BYTES: usize = 9;
/// Bytes that a connection reads before it yields to other tasks, among them the readers of its
/// streams: the library ends a connection on which too many small messages are unread.
const TURN_BYTES: usize = 32 * 1024;
/// The size of a read while a header block is not whole.
const READ_BYTES: usize = 4096;
/// The largest frame that the library announces to accept.
const FRAME_BYTES_MAX: usize = 16 * 1024;
/// BOUND: an encoded header block and the heads of its frames.
const BLOCK_BYTES_MAX: usize = FIELD_BYTES_MAX as usize + 64 * 1024;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// A connection with the filter applied to what it reads.
#[derive(Debug)]
pub(crate) struct Mended<S> {
    stream: S,
    blocks: Blocks,
    /// Bytes that came and end within a header block.
    input: Vec<u8>,
    /// Bytes that are ready for the library.
    output: BytesMut,
    /// Counts `input`.
    held: Held,
    /// Bytes read since the connection last yielded.
    turn_bytes: usize,
}

impl<S> Mended<S> {
    pub(crate) fn new(stream: S, share: Arc<Share>) -> Self {
        Self {
            stream,
            blocks: Blocks::default(),
            input: Vec::new(),
            output: BytesMut::new(),
            held: Held::new(share),
            turn_bytes: 0,
        }
    }

    /// Moves what is complete from `input` to `output`.
    fn settle(&mut self) -> io::Result<()> {
        let mut input = std::mem::take(&mut self.input);
        loop {
            let Scanned { pass, joined, stop } = self.blocks.scan(&mut input);
            self.output.extend_from_slice(&input[..joined]);
            input.drain(..pass);
            match stop {
                Stop::End => break,
                Stop::Within => {
                    self.input = input;
                    break;
                }
                Stop::Anew { len, block } => {
                    self.output.extend_from_slice(&block);
                    input.drain(..len);
                }
            }
        }
        let more = self.input.len().saturating_sub(self.held.bytes());
        if self.input.is_empty() {
            self.held.release();
        } else if more > FRAME_BYTES_MAX && !self.held.try_add(more) {
            return Err(io::Error::other("no room for the fields of a request"));
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> Mended<S> {
    /// Reads from the stream, unless it is time to yield.
    fn read_some(
        &mut self,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.turn_bytes >= TURN_BYTES {
            self.turn_bytes = 0;
            task.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(task, buffer);
        let read = buffer.filled().len() - before;
        self.turn_bytes = if result.is_pending() { 0 } else { self.turn_bytes + read };
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Mended<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.output.is_empty() {
                let ready = this.output.len().min(buffer.remaining());
                buffer.put_slice(&this.output[..ready]);
                this.output.advance(ready);
                return Poll::Ready(Ok(()));
            }
            if this.input.is_empty() {
                let before = buffer.filled().len();
                ready!(this.read_some(task, buffer))?;
                let came = &mut buffer.filled_mut()[before..];
                let is_end = came.is_empty();
                let Scanned { pass, joined, stop } = this.blocks.scan(came);
                if stop == Stop::End {
                    buffer.set_filled(before + joined);
                    // Nothing would mean the end of the connection.
                    if joined == 0 && !is_end {
                        continue;
                    }
                    return Poll::Ready(Ok(()));
                }
                // The rare case: the bytes after `pass` are kept, and scanned again later.
                let rest = match stop {
                    Stop::End | Stop::Within => pass,
                    Stop::Anew { len, block } => {
                        this.output.extend_from_slice(&came[..joined]);
                        this.output.extend_from_slice(&block);
                        pass + len
                    }
                };
                this.input = came[rest..].to_vec();
                let passed = if this.output.is_empty() { joined } else { 0 };
                buffer.set_filled(before + passed);
                if !this.output.is_empty() {
                    this.settle()?;
                } else if passed > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                let mut came = [0; READ_BYTES];
                let mut came = ReadBuf::new(&mut came);
                ready!(this.read_some(task, &mut came))?;
                if came.filled().is_empty() {
                    // The end of the connection: the library judges what is left.
                    this.blocks.off = true;
                }
                this.input.extend_from_slice(came.filled());
                this.settle()?;
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Mended<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(task, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(task, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(task)
    }
}

/// The place at which a scan stopped.
#[derive(Debug, PartialEq, Eq)]
enum Stop {
    /// At the end of the bytes.
    End,
    /// Before the head of a frame, or a header block, that is not whole.
    Within,
    /// Before `len` bytes of a header block, which `block` is to replace.
    Anew { len: usize, block: Vec<u8> },
}

/// The result of a scan.
#[derive(Debug)]
struct Scanned {
    /// The number of bytes that were scanned and can be passed on.
    pass: usize,
    /// The number of bytes that they are after joining; they are the first ones of the buffer.
    joined: usize,
    /// The reason for which it stopped.
    stop: Stop,
}

/// Follows the frames and header blocks of a connection.
#[derive(Debug, Default)]
struct Blocks {
    /// Nothing more is scanned: this is not HTTP/2, or violates it.
    off: bool,
    preface_len: usize,
    /// Bytes still to come of a frame that is passed on.
    skip: usize,
    /// Bytes of an incomplete header block that were scanned.
    walked: usize,
    decoder: Decoder,
    /// The buffer of a list of fields, empty.
    fields: Vec<Field>,
    /// The highest stream so far: further blocks of it and of earlier ones are trailers.
    newest: u32,
    /// Whether the library's table differs from the client's.
    rewrites: bool,
}

impl Blocks {
    /// Scans the next bytes of the connection, and joins their small frames.
    fn scan(&mut self, bytes: &mut [u8]) -> Scanned {
        let first = self.preface(bytes) + self.skip;
        let (pass, stop) = self.passable(bytes, first - self.skip);
        // Bytes that are not understood are passed on unchanged.
        let joined = if self.off { pass } else { join_data(&mut bytes[..pass], first) };
        Scanned { pass, joined, stop }
    }

    /// The end of the bytes from `at` on that can be passed on, and the reason for which it is there.
    fn passable(&mut self, bytes: &[u8], mut at: usize) -> (usize, Stop) {
        while !self.off {
            let skipped = self.skip.min(bytes.len() - at);
            self.skip -= skipped;
            at += skipped;
            let rest = &bytes[at..];
            let Some(head) = Head::parse(rest) else {
                return (at, if rest.is_empty() { Stop::End } else { Stop::Within });
            };
            if head.kind != HEADERS && head.len <= FRAME_BYTES_MAX {
                self.skip = HEAD_BYTES + head.len;
                continue;
            }
            let len = match self.block_len(&head, rest) {
                Ok(Some(len)) => len,
                Ok(None) => return (at, Stop::Within),
                Err(Broken) => {
                    self.off = true;
                    break;
                }
            };
            match self.judge(&head, &rest[..len]) {
                Ok(None) => at += len,
                Ok(Some(block)) => return (at, Stop::Anew { len, block }),
                Err(Broken) => self.off = true,
            }
        }
        (bytes.len(), Stop::End)
    }

    /// Compares the first bytes of the connection with the preface; returns the number of `bytes`
    /// that belong to it.
    fn preface(&mut self, bytes: &[u8]) -> usize {
        let left = &PREFACE[self.preface_len..];
        let len = left.len().min(bytes.len());
        self.off |= left[..len] != bytes[..len];
        self.preface_len += len;
        len
    }

    /// The length of the header block at the start of `bytes`, with the heads of its frames; `None`
    /// if it is not whole.
    fn block_len(&mut self, first: &Head, bytes: &[u8]) -> Result<Option<usize>, Broken> {
        loop {
            let rest = &bytes[self.walked..];
            let Some(head) = Head::parse(rest) else { return Ok(None) };
            let kind = if self.walked == 0 { HEADERS } else { CONTINUATION };
            if head.kind != kind
                || head.stream != first.stream
                || head.len > FRAME_BYTES_MAX
                || self.walked > BLOCK_BYTES_MAX
            {
                return Err(Broken);
            }
            if rest.len() < HEAD_BYTES + head.len {
                return Ok(None);
            }
            self.walked += HEAD_BYTES + head.len;
            if head.flags & END_HEADERS != 0 {
                return Ok(Some(std::mem::take(&mut self.walked)));
            }
        }
    }

    /// The frames to pass on instead of a complete block; `None` if the library accepts it.
    fn judge(&mut self, head: &Head, frames: &[u8]) -> Result<Option<Vec<u8>>, Broken> {
        let block = fragment(frames).ok_or(Broken)?;
        let mut list = FieldList::new(std::mem::take(&mut self.fields));
        self.decoder.decode(&block, &mut list).map_err(|_malformed| Broken)?;
        let is_request = head.stream > self.newest;
        self.newest = self.newest.max(head.stream);
        let verdict = fields::judge(&list, is_request);
        self.rewrites |= verdict != Verdict::Pass;
        let anew = self.rewrites.then(|| {
            let block = fields::write(&list, verdict, is_request);
            write_frames(&block, head.stream, head.flags & END_STREAM)
        });
        self.fields = list.into_empty();
        Ok(anew)
    }
}

/// The head of a frame.
struct Head {
    len: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, kind, flags, d, e, f, g, ..] = bytes else { return None };
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        Some(Self { len, kind, flags, stream: u32::from_be_bytes([d & 0x7f, e, f, g]) })
    }
}

/// A violation of HTTP/2, which the library answers with the end of the connection.
struct Broken;

/// The header block that whole frames carry.
fn fragment(frames: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut block: Option<Cow<'_, [u8]>> = None;
    let mut rest = frames;
    while let Some(head) = Head::parse(rest) {
        let (payload, next) = rest[HEAD_BYTES..].split_at_checked(head.len)?;
        rest = next;
        match &mut block {
            None => block = Some(unpadded(payload, head.flags)?.into()),
            Some(block) => block.to_mut().extend_from_slice(payload),
        }
    }
    block
}

/// The part of a HEADERS frame that is the header block's.
fn unpadded(mut payload: &[u8], flags: u8) -> Option<&[u8]> {
    if flags & PADDED != 0 {
        let (padding, rest) = payload.split_first()?;
        let len = rest.len().checked_sub(usize::from(*padding))?;
        payload = &rest[..len];
    }
    if flags & PRIORITY != 0 {
        payload = payload.get(5..)?;
    }
    Some(payload)
}

/// Cuts a block into frames of a size that every peer accepts.
fn write_frames(block: &[u8], stream: u32, end_stream: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(block.len() + HEAD_BYTES);
    let count = block.chunks(FRAME_BYTES_MAX).count();
    for (number, part) in block.chunks(FRAME_BYTES_MAX).enumerate() {
        let kind = if number == 0 { HEADERS } else { CONTINUATION };
        let mut flags = if number + 1 == count { END_HEADERS } else { 0 };
        flags |= if number == 0 { end_stream } else { 0 };
        let len = u32::try_from(part.len()).expect("no longer than a frame");
        out.extend_from_slice(&len.to_be_bytes()[1..]);
        out.extend_from_slice(&[kind, flags]);
        out.extend_from_slice(&stream.to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests;
