//! The primitive layer of the command encoding: varints, byte strings, zero-copy reading.

use bytes::Bytes;
use keepd_types::varint;
use thiserror::Error;

/// Bytes in the log that are no command this version knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CommandError {
    /// The command ends early.
    #[error("command is cut short")]
    Truncated,
    /// The command is longer than its content.
    #[error("command has {0} bytes too many")]
    TrailingBytes(usize),
    /// A number does not fit its field.
    #[error("command has a number out of range")]
    NumberOutOfRange,
    /// A tag or version from the future, or damage.
    #[error("command has unknown {what} {value}")]
    Unknown {
        /// Which field.
        what: &'static str,
        /// Its value.
        value: u8,
    },
    /// A command from the future.
    #[error("command is of feature level {level}, and this version reads level {known} at most")]
    Level {
        /// Its level.
        level: u32,
        /// The newest level of this version.
        known: u32,
    },
    /// A field holds what it cannot.
    #[error("command has a malformed {0}")]
    Malformed(&'static str),
}

/// Appends to a command under construction.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    out: Vec<u8>,
}

impl Writer {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self { out: Vec::with_capacity(capacity) }
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    pub(crate) fn u64(&mut self, value: u64) {
        varint::write_u64(value, &mut self.out);
    }

    pub(crate) fn u64_fixed(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        // Zigzag, so that the negative numbers which etcd allows stay short.
        self.u64(((value << 1) ^ (value >> 63)).cast_unsigned());
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.u64(value.len() as u64);
        self.out.extend_from_slice(value);
    }

    pub(crate) fn texts(&mut self, texts: &[String]) {
        self.u64(texts.len() as u64);
        for text in texts {
            self.bytes(text.as_bytes());
        }
    }

    pub(crate) fn finish(self) -> Bytes {
        self.out.into()
    }
}

/// Reads a command; byte strings share the command's memory.
#[derive(Debug)]
pub(crate) struct Reader {
    rest: Bytes,
}

impl Reader {
    pub(crate) const fn new(bytes: Bytes) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn u8(&mut self) -> Result<u8, CommandError> {
        if self.rest.is_empty() {
            return Err(CommandError::Truncated);
        }
        Ok(self.rest.split_to(1)[0])
    }

    pub(crate) fn u64(&mut self) -> Result<u64, CommandError> {
        let mut slice: &[u8] = &self.rest;
        let before = slice.len();
        let value = varint::read_u64(&mut slice).ok_or(CommandError::Truncated)?;
        let used = before - slice.len();
        let _ = self.rest.split_to(used);
        Ok(value)
    }

    pub(crate) fn u64_fixed(&mut self) -> Result<u64, CommandError> {
        let bytes = self.rest.first_chunk().copied().ok_or(CommandError::Truncated)?;
        let _ = self.rest.split_to(bytes.len());
        Ok(u64::from_be_bytes(bytes))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, CommandError> {
        u32::try_from(self.u64()?).map_err(|_wide| CommandError::NumberOutOfRange)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, CommandError> {
        let value = self.u64()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes, CommandError> {
        let len = usize::try_from(self.u64()?).map_err(|_wide| CommandError::Truncated)?;
        if len > self.rest.len() {
            return Err(CommandError::Truncated);
        }
        Ok(self.rest.split_to(len))
    }

    pub(crate) fn text(&mut self) -> Result<String, CommandError> {
        let bytes = self.bytes()?;
        String::from_utf8(bytes.into()).map_err(|_other| CommandError::Malformed("text"))
    }

    pub(crate) fn texts(&mut self) -> Result<Vec<String>, CommandError> {
        (0..self.count()?).map(|_| self.text()).collect()
    }

    pub(crate) fn flag(&mut self, what: &'static str) -> Result<bool, CommandError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(CommandError::Unknown { what, value }),
        }
    }

    /// A count of items that each take at least one byte: never more than what is left.
    pub(crate) fn count(&mut self) -> Result<usize, CommandError> {
        let count = usize::try_from(self.u64()?).map_err(|_wide| CommandError::Truncated)?;
        if count > self.rest.len() {
            return Err(CommandError::Truncated);
        }
        Ok(count)
    }

    pub(crate) fn finish(&self) -> Result<(), CommandError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(CommandError::TrailingBytes(self.rest.len()))
        }
    }
}
