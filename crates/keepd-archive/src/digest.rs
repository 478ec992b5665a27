//! Readers that count and digest what passes.

use std::io::{self, Read};

use aws_lc_rs::digest::{Context, SHA256};

/// Count and digest of the bytes that have passed a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Bytes.
    pub bytes: u64,
    /// Their SHA-256, in hexadecimal.
    pub sha256: String,
}

/// A count and a digest that go on.
pub(crate) struct Meter {
    bytes: u64,
    context: Context,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self { bytes: 0, context: Context::new(&SHA256) }
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.context.update(bytes);
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn passed(&self) -> Passed {
        let digest = self.context.clone().finish();
        Passed { bytes: self.bytes, sha256: hex(digest.as_ref()) }
    }
}

/// A reader that is digested.
pub struct DigestReader<R> {
    from: R,
    meter: Meter,
}

impl<R: Read> DigestReader<R> {
    /// Digests what is read from here.
    pub fn new(from: R) -> Self {
        Self { from, meter: Meter::new() }
    }

    /// Reads what is left; what has passed in all.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn finish(mut self) -> io::Result<Passed> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.meter.passed())
    }

    /// Bytes so far.
    pub(crate) const fn bytes(&self) -> u64 {
        self.meter.bytes()
    }
}

impl<R> std::fmt::Debug for DigestReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DigestReader").field("bytes", &self.meter.bytes()).finish_non_exhaustive()
    }
}

impl<R: Read> Read for DigestReader<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let len = self.from.read(bytes)?;
        self.meter.add(&bytes[..len]);
        Ok(len)
    }
}

/// The SHA-256 of bytes, in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let mut meter = Meter::new();
    meter.add(bytes);
    meter.passed().sha256
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
