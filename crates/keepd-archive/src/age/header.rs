//! The header of an age file: lines of text, and a MAC under the file's key.

use std::io::BufRead;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;

use super::FileKey;
use crate::Error;

pub(super) const VERSION_LINE: &[u8] = b"age-encryption.org/v1\n";
const STANZA_MARK: &str = "-> ";
const MAC_MARK: &str = "---";
/// Characters of a whole line of a stanza's body; the last line of a body is shorter.
const COLUMNS: usize = 64;
/// BOUND: bytes of a header that is read. A stanza of a public key has about 120.
const HEADER_BYTES_MAX: usize = 256 << 10;

/// The file's key for one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stanza {
    /// The kind of recipient.
    pub(super) kind: String,
    pub(super) args: Vec<String>,
    pub(super) body: Vec<u8>,
}

impl Stanza {
    /// The key that opens it, as far as it can be told.
    pub(super) fn described(&self) -> String {
        match self.kind.as_str() {
            "X25519" => "an age identity (AGE-SECRET-KEY-1...) of a recipient".to_owned(),
            "scrypt" => "a passphrase, which keepd does not take".to_owned(),
            kind => format!("an age identity of the kind {kind}"),
        }
    }
}

/// A header that was read.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) stanzas: Vec<Stanza>,
    /// The bytes that the MAC covers.
    covered: Vec<u8>,
    mac: Vec<u8>,
}

/// The header for a file's key.
pub(super) fn encode(stanzas: &[Stanza], file_key: &FileKey) -> Vec<u8> {
    let mut out = VERSION_LINE.to_vec();
    for stanza in stanzas {
        out.extend_from_slice(STANZA_MARK.as_bytes());
        out.extend_from_slice(stanza.kind.as_bytes());
        for arg in &stanza.args {
            out.push(b' ');
            out.extend_from_slice(arg.as_bytes());
        }
        out.push(b'\n');
        let body = BASE64.encode(&stanza.body);
        let mut lines = body.as_bytes().chunks_exact(COLUMNS);
        for line in &mut lines {
            out.extend_from_slice(line);
            out.push(b'\n');
        }
        out.extend_from_slice(lines.remainder());
        out.push(b'\n');
    }
    out.extend_from_slice(MAC_MARK.as_bytes());
    let mac = hmac::sign(&mac_key(file_key), &out);
    out.push(b' ');
    out.extend_from_slice(BASE64.encode(mac.as_ref()).as_bytes());
    out.push(b'\n');
    out
}

fn mac_key(file_key: &FileKey) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, file_key.derive(&[], b"header").as_slice())
}

impl Header {
    /// Reads a header; what follows it stays unread.
    pub(super) fn read(from: &mut impl BufRead) -> Result<Self, Error> {
        let mut lines = Lines { from, left: HEADER_BYTES_MAX, read: Vec::new() };
        if lines.next()?.as_bytes() != VERSION_LINE.strip_suffix(b"\n").unwrap_or_default() {
            return Err(Error::NotSealed);
        }
        let mut stanzas = Vec::new();
        loop {
            let before = lines.read.len();
            let line = lines.next()?;
            if let Some(mac) = line.strip_prefix(MAC_MARK) {
                let mac = mac.strip_prefix(' ').ok_or(Error::Header("its last line has no MAC"))?;
                let mac = decoded(mac)?;
                let mut covered = lines.read;
                covered.truncate(before + MAC_MARK.len());
                if stanzas.is_empty() {
                    return Err(Error::Header("it names no recipient"));
                }
                return Ok(Self { stanzas, covered, mac });
            }
            let words = line.strip_prefix(STANZA_MARK);
            let mut words = words.ok_or(Error::Header("a line is no stanza"))?.split(' ');
            let is_word =
                |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic());
            let mut word =
                || words.next().map(|word| Some(word).filter(is_word).map(str::to_owned));
            let malformed = Error::Header("a stanza has a malformed word");
            let Some(Some(kind)) = word() else { return Err(malformed) };
            let args: Option<Vec<String>> = std::iter::from_fn(word).collect();
            let Some(args) = args else { return Err(malformed) };
            stanzas.push(Stanza { kind, args, body: body(&mut lines)? });
        }
    }

    /// Compares the MAC.
    pub(super) fn check(&self, file_key: &FileKey) -> Result<(), Error> {
        hmac::verify(&mac_key(file_key), &self.covered, &self.mac).ok().ok_or(Error::HeaderMac)
    }
}

/// The lines after a stanza's first one.
fn body(lines: &mut Lines<'_, impl BufRead>) -> Result<Vec<u8>, Error> {
    let mut text = String::new();
    loop {
        let line = lines.next()?;
        if line.len() > COLUMNS {
            return Err(Error::Header("a line is too long"));
        }
        text.push_str(&line);
        if line.len() < COLUMNS {
            return decoded(&text);
        }
    }
}

fn decoded(text: &str) -> Result<Vec<u8>, Error> {
    BASE64.decode(text).ok().ok_or(Error::Header("it has malformed base64"))
}

/// Lines that end with a line feed, and all bytes read so far.
struct Lines<'a, R> {
    from: &'a mut R,
    left: usize,
    read: Vec<u8>,
}

impl<R: BufRead> Lines<'_, R> {
    fn next(&mut self) -> Result<String, Error> {
        let begin = self.read.len();
        loop {
            let bytes = self.from.fill_buf().map_err(Error::reading)?;
            if bytes.is_empty() {
                return Err(if begin == 0 { Error::NotSealed } else { Error::Truncated });
            }
            let bytes = bytes.get(..bytes.len().min(self.left)).unwrap_or_default();
            if bytes.is_empty() {
                return Err(if begin == 0 {
                    Error::NotSealed
                } else {
                    Error::Header("it is too long")
                });
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(bytes.len(), |end| end + 1);
            self.read.extend_from_slice(bytes.get(..taken).unwrap_or_default());
            self.from.consume(taken);
            self.left -= taken;
            if end.is_some() {
                break;
            }
        }
        let line = self.read.get(begin..self.read.len() - 1).unwrap_or_default();
        let fault = if begin == 0 { Error::NotSealed } else { Error::Header("it is not text") };
        String::from_utf8(line.to_vec()).ok().ok_or(fault)
    }
}
