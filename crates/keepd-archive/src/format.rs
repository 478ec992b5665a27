//! The content of a backup's object: etcd's snapshot, compressed with zstd, sealed as an age file.
//!
//! Both directions are readers that are pulled, so that whoever uploads or restores sets the pace and
//! memory stays the same whatever the size.

use std::io::{self, BufReader, Read};

use keepd_env::Random;
use zstd::stream::read::Decoder;
use zstd::stream::write::Encoder;

use crate::Error;
use crate::age::{self, FileKey, Keys, OpenReader, Recipients, SealWriter};
use crate::digest::Meter;

pub use crate::digest::{DigestReader, Passed};

/// zstd's own default: a third of the size at the rate of a disk.
const LEVEL: i32 = 3;
/// BOUND: the window that opening allocates, 128 MiB; level 3 writes 2 MiB.
const WINDOW_LOG_MAX: u32 = 27;
/// Bytes that are taken from the snapshot at once.
const STEP_BYTES: usize = 256 << 10;
/// Bytes that are read from the object at once.
const READ_BYTES: usize = 256 << 10;

/// Those that can open a backup.
#[derive(Clone, Debug)]
pub enum Sealing {
    /// These.
    To(Recipients),
    /// Everybody: somebody said so in words.
    Plain,
}

impl Sealing {
    /// Whether the content is encrypted.
    #[must_use]
    pub const fn is_sealed(&self) -> bool {
        matches!(self, Self::To(_))
    }

    /// The keys that open it, for a sidecar.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::To(recipients) => recipients.names(),
            Self::Plain => Vec::new(),
        }
    }
}

/// The end of the sealing: a writer into memory that is emptied as it fills.
enum Sink {
    Sealed(Box<SealWriter<Vec<u8>>>),
    Plain(Vec<u8>),
}

impl Sink {
    const fn out(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Sealed(writer) => writer.get_mut(),
            Self::Plain(out) => out,
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Sealed(writer) => writer.finish(),
            Self::Plain(out) => Ok(out),
        }
    }
}

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Sealed(writer) => writer.write(bytes),
            Self::Plain(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A snapshot's reader, read as the object that it becomes.
pub struct SealingReader<R> {
    snapshot: R,
    /// None once the end was written.
    encoder: Option<Encoder<'static, Sink>>,
    ready: Vec<u8>,
    read: usize,
    meter: Meter,
    file_key: Option<FileKey>,
}

impl<R> std::fmt::Debug for SealingReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealingReader").field("bytes", &self.meter.bytes()).finish_non_exhaustive()
    }
}

/// An object that was sealed.
#[derive(Debug)]
pub struct Sealed {
    /// Its size and digest.
    pub object: Passed,
    /// The key of the file, with which it can be opened again while it is in memory.
    pub file_key: Option<FileKey>,
}

impl<R: Read> SealingReader<R> {
    /// Begins to seal a snapshot.
    ///
    /// # Errors
    /// If there is nobody to seal it to.
    pub fn new(snapshot: R, sealing: &Sealing, random: &dyn Random) -> Result<Self, Error> {
        let (sink, file_key) = match sealing {
            Sealing::To(recipients) => {
                let (writer, key) = age::seal(Vec::new(), recipients, random)?;
                (Sink::Sealed(Box::new(writer)), Some(key))
            }
            Sealing::Plain => (Sink::Plain(Vec::new()), None),
        };
        let mut encoder = Encoder::new(sink, LEVEL).map_err(Error::Write)?;
        encoder.include_checksum(true).map_err(Error::Write)?;
        let (meter, encoder) = (Meter::new(), Some(encoder));
        Ok(Self { snapshot, encoder, ready: Vec::new(), read: 0, meter, file_key })
    }

    /// The facts of the object, once it was read to its end.
    ///
    /// # Panics
    /// If it was not.
    #[must_use]
    pub fn finish(self) -> Sealed {
        assert!(self.encoder.is_none(), "an object is finished after it was read");
        Sealed { object: self.meter.passed(), file_key: self.file_key }
    }

    /// Takes a step; whether there is more.
    fn fill(&mut self) -> io::Result<bool> {
        let Some(encoder) = &mut self.encoder else { return Ok(false) };
        self.ready.clear();
        self.read = 0;
        let taken = io::copy(&mut (&mut self.snapshot).take(STEP_BYTES as u64), encoder)?;
        if taken > 0 {
            self.ready.append(encoder.get_mut().out());
        } else if let Some(encoder) = self.encoder.take() {
            self.ready = encoder.finish()?.finish()?;
        }
        self.meter.add(&self.ready);
        Ok(true)
    }
}

impl<R: Read> Read for SealingReader<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.read == self.ready.len() {
            if !self.fill()? {
                return Ok(0);
            }
        }
        let rest = &self.ready[self.read..];
        let len = rest.len().min(bytes.len());
        bytes[..len].copy_from_slice(&rest[..len]);
        self.read += len;
        Ok(len)
    }
}

enum Source<R> {
    Sealed(Box<OpenReader<BufReader<DigestReader<R>>>>),
    Plain(BufReader<DigestReader<R>>),
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Sealed(reader) => reader.read(bytes),
            Self::Plain(reader) => reader.read(bytes),
        }
    }
}

/// An object's reader, read as the snapshot in it.
pub struct OpeningReader<R: Read> {
    decoder: Decoder<'static, BufReader<Source<R>>>,
    bytes: u64,
    bytes_max: u64,
}

impl<R: Read> std::fmt::Debug for OpeningReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpeningReader").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl<R: Read> OpeningReader<R> {
    /// Begins to open an object. `is_sealed` says what its name and sidecar promise: a plain object in the
    /// place of a sealed one is refused. More than `bytes_max` bytes of snapshot are refused too.
    ///
    /// # Errors
    /// If it is not what was promised, or none of the keys opens it.
    pub fn new(object: R, is_sealed: bool, keys: &Keys, bytes_max: u64) -> Result<Self, Error> {
        let object = BufReader::with_capacity(READ_BYTES, DigestReader::new(object));
        let source = if is_sealed {
            Source::Sealed(Box::new(age::open(object, keys)?))
        } else {
            Source::Plain(object)
        };
        let mut decoder = Decoder::new(source).map_err(Error::reading)?.single_frame();
        decoder.window_log_max(WINDOW_LOG_MAX).map_err(Error::reading)?;
        Ok(Self { decoder, bytes: 0, bytes_max })
    }

    /// Bytes of the object that were read.
    #[must_use]
    pub fn object_bytes(&self) -> u64 {
        match self.decoder.get_ref().get_ref() {
            Source::Sealed(reader) => reader.get_ref().get_ref().bytes(),
            Source::Plain(reader) => reader.get_ref().bytes(),
        }
    }

    /// Checks that nothing follows the snapshot; the facts of the object.
    ///
    /// # Errors
    /// If something does, or the object cannot be read.
    pub fn finish(self) -> Result<Passed, Error> {
        let mut source = self.decoder.finish();
        let mut byte = [0];
        if source.read(&mut byte).map_err(Error::reading)? > 0 {
            return Err(Error::Trailing);
        }
        let object = match source.into_inner() {
            Source::Sealed(reader) => reader.into_inner().into_inner(),
            Source::Plain(reader) => reader.into_inner(),
        };
        object.finish().map_err(Error::reading)
    }
}

impl<R: Read> Read for OpeningReader<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let len = self.decoder.read(bytes)?;
        self.bytes += len as u64;
        if self.bytes > self.bytes_max {
            return Err(Error::TooLong { max: self.bytes_max }.into_io());
        }
        Ok(len)
    }
}

#[cfg(test)]
mod tests;
