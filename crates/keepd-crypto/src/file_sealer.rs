//! Sealer of one file, and the frames that the file consists of after its header.
//!
//! A frame is a head of [`FRAME_HEAD_LEN`] bytes, the payload and, in a sealed file, a tag. The
//! checksum finds damage in either kind of file before anything is decrypted; it starts from the
//! header's, so that a frame left over from another file is damage here. The tag binds kind and id
//! of the file, the frame's ordinal and its head. The layout is in `docs/formats/sealed-file.md`.

use std::fmt;

use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};
use keepd_env::mutants::{self, Mutant};
use thiserror::Error;

use crate::file_header::{DataKeyId, FILE_HEADER_LEN};

/// The length of a frame's head.
pub const FRAME_HEAD_LEN: usize = 16;
/// The longest payload of a frame; a longer length in a head is damage.
pub const FRAME_PLAIN_MAX: usize = 64 * 1024 * 1024;

const TAG_LEN: usize = 16;
const FLAG_SEALED: u8 = 1;
/// Kind and id of the file, the ordinal and the head's first eight bytes.
const AAD_LEN: usize = 1 + 8 + 8 + 8;

/// A frame that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Kind of the payload, a number of the file's owner.
    pub kind: u8,
    /// The payload.
    pub plain: Vec<u8>,
    /// The length of the whole frame in the file.
    pub len: usize,
}

/// Reason why there is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The bytes end before the frame does.
    #[error("the frame is cut short: it needs {needed} bytes, there are {found}")]
    Truncated {
        /// Length of the frame by its head, or the length of a head.
        needed: usize,
        /// Number of bytes.
        found: usize,
    },
    /// The head is zero: nothing was ever written here.
    #[error("no frame was ever written here")]
    Zeroed,
    /// The checksum does not match: torn or damaged.
    #[error("the frame is damaged: its checksum does not match")]
    BadCrc,
    /// The checksum matches, the seal does not: another key, another place, or tampering.
    #[error("the frame's seal does not open: it was moved, tampered with or sealed by another key")]
    BadSeal,
    /// The length is beyond [`FRAME_PLAIN_MAX`].
    #[error("the frame claims {len} bytes, the limit is {FRAME_PLAIN_MAX}")]
    TooLong {
        /// The length in the head.
        len: u32,
    },
    /// A whole frame of this file, from another place in it.
    #[error("expected frame {expected}, found one whose number ends in {found:08x}")]
    WrongOrdinal {
        /// The ordinal asked for.
        expected: u64,
        /// The low half of the ordinal in the head.
        found: u32,
    },
}

impl FrameError {
    /// Whether a frame may look like this because it was being written when the power went.
    #[must_use]
    pub const fn is_torn(self) -> bool {
        // A checksum that matches means that the frame is whole.
        !matches!(self, Self::BadSeal | Self::WrongOrdinal { .. })
    }
}

/// A payload that is longer than [`FRAME_PLAIN_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{len} bytes do not fit into a frame, the limit is {FRAME_PLAIN_MAX}")]
pub struct FrameTooLong {
    /// Its length.
    pub len: usize,
}

/// Seals and opens the frames of one file.
pub struct FileSealer {
    header: [u8; FILE_HEADER_LEN],
    kind: u8,
    file_id: u64,
    data_key: DataKeyId,
    /// The file's own key; none in a plain file.
    key: Option<LessSafeKey>,
    /// The checksum in the header, where every frame's checksum starts.
    crc_seed: u32,
}

impl FileSealer {
    pub(crate) fn new(
        header: [u8; FILE_HEADER_LEN],
        kind: u8,
        file_id: u64,
        data_key: DataKeyId,
        key: Option<LessSafeKey>,
    ) -> Self {
        // Not the checksum of the whole header: after its own checksum every CRC is the same.
        let crc_seed = header.last_chunk().map_or(0, |crc| u32::from_le_bytes(*crc));
        Self { header, kind, file_id, data_key, key, crc_seed }
    }

    /// The file's first bytes.
    #[must_use]
    pub const fn header(&self) -> [u8; FILE_HEADER_LEN] {
        self.header
    }

    /// Whether frames are encrypted.
    #[must_use]
    pub const fn is_sealed(&self) -> bool {
        self.key.is_some()
    }

    /// The data key that encrypts the file.
    #[must_use]
    pub const fn data_key(&self) -> DataKeyId {
        self.data_key
    }

    /// The length of a frame with `plain_len` bytes of payload.
    #[must_use]
    pub const fn frame_len(&self, plain_len: usize) -> usize {
        FRAME_HEAD_LEN + plain_len + if self.is_sealed() { TAG_LEN } else { 0 }
    }

    /// Appends one frame to `out`.
    ///
    /// `ordinal` is the nonce: never the same one twice in one file; the caller counts from 0.
    ///
    /// # Errors
    /// If the payload is longer than [`FRAME_PLAIN_MAX`]; nothing is appended then. Every caller
    /// says what bounds its payload.
    pub fn seal_frame(
        &self,
        ordinal: u64,
        kind: u8,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), FrameTooLong> {
        let len = u32::try_from(plain.len()).ok().filter(|_| plain.len() <= FRAME_PLAIN_MAX);
        let len = len.ok_or(FrameTooLong { len: plain.len() })?;
        let head = Head { len, kind, flags: self.flags(), ordinal_low: low(ordinal) };
        let fields = head.fields();
        out.reserve(self.frame_len(plain.len()));
        let start = out.len();
        out.extend_from_slice(&[0; FRAME_HEAD_LEN]);
        out.extend_from_slice(plain);
        let (_, frame) = out.split_at_mut(start);
        let (head_bytes, payload) = frame.split_at_mut(FRAME_HEAD_LEN);
        let tag = self.key.as_ref().map(|key| {
            key.seal_in_place_separate_tag(nonce(ordinal), self.aad(ordinal, fields), payload)
                .expect("the payload is far below AES-GCM's limit")
        });
        let tag: &[u8] = tag.as_ref().map_or(&[], AsRef::as_ref);
        let crc = self.crc(&head, &[payload, tag]);
        head_bytes.copy_from_slice(&head.encode(crc));
        out.extend_from_slice(tag);
        Ok(())
    }

    /// Opens the whole frame at the start of `bytes`; the rest is ignored.
    ///
    /// # Errors
    /// If there is none, or it is damaged or not the one of this ordinal in this file.
    pub fn open_frame(&self, ordinal: u64, bytes: &[u8]) -> Result<Frame, FrameError> {
        let found = bytes.len();
        let Some((head_bytes, rest)) = bytes.split_first_chunk::<FRAME_HEAD_LEN>() else {
            return Err(FrameError::Truncated { needed: FRAME_HEAD_LEN, found });
        };
        if head_bytes.iter().all(|byte| *byte == 0) {
            return Err(FrameError::Zeroed);
        }
        let (head, crc) = Head::decode(head_bytes);
        let plain_len = usize::try_from(head.len).unwrap_or(usize::MAX);
        if plain_len > FRAME_PLAIN_MAX {
            return Err(FrameError::TooLong { len: head.len });
        }
        let len = self.frame_len(plain_len);
        let Some((body, _)) = rest.split_at_checked(len - FRAME_HEAD_LEN) else {
            return Err(FrameError::Truncated { needed: len, found });
        };
        if self.crc(&head, &[body]) != crc || head.encode(crc) != *head_bytes {
            return Err(FrameError::BadCrc);
        }
        if head.ordinal_low != low(ordinal) {
            let found = head.ordinal_low;
            return Err(FrameError::WrongOrdinal { expected: ordinal, found });
        }
        if head.flags != self.flags() {
            return Err(FrameError::BadSeal);
        }
        let mut plain = body.to_vec();
        if let Some(key) = &self.key {
            key.open_in_place(nonce(ordinal), self.aad(ordinal, head.fields()), &mut plain)
                .ok()
                .ok_or(FrameError::BadSeal)?;
            plain.truncate(plain_len);
        }
        Ok(Frame { kind: head.kind, plain, len })
    }

    const fn flags(&self) -> u8 {
        if self.is_sealed() { FLAG_SEALED } else { 0 }
    }

    fn crc(&self, head: &Head, parts: &[&[u8]]) -> u32 {
        let crc = crc32c::crc32c_append(self.crc_seed, &head.fields());
        let crc = crc32c::crc32c_append(crc, &head.ordinal_low.to_le_bytes());
        parts.iter().fold(crc, |crc, part| crc32c::crc32c_append(crc, part))
    }

    fn aad(&self, ordinal: u64, fields: [u8; 8]) -> Aad<[u8; AAD_LEN]> {
        let mut aad = [0; AAD_LEN];
        let parts =
            [self.kind].into_iter().chain(self.file_id.to_le_bytes()).chain(ordinal.to_le_bytes());
        for (place, byte) in aad.iter_mut().zip(parts.chain(fields)) {
            *place = byte;
        }
        Aad::from(aad)
    }
}

impl fmt::Debug for FileSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSealer")
            .field("kind", &self.kind)
            .field("file_id", &self.file_id)
            .field("data_key", &self.data_key)
            .finish_non_exhaustive()
    }
}

/// A frame's head without its checksum.
struct Head {
    len: u32,
    kind: u8,
    flags: u8,
    ordinal_low: u32,
}

impl Head {
    /// The bytes before the checksum: length, kind, flags, two reserved zeros.
    fn fields(&self) -> [u8; 8] {
        let [a, b, c, d] = self.len.to_le_bytes();
        [a, b, c, d, self.kind, self.flags, 0, 0]
    }

    fn encode(&self, crc: u32) -> [u8; FRAME_HEAD_LEN] {
        let mut head = [0; FRAME_HEAD_LEN];
        let bytes = self
            .fields()
            .into_iter()
            .chain(crc.to_le_bytes())
            .chain(self.ordinal_low.to_le_bytes());
        for (place, byte) in head.iter_mut().zip(bytes) {
            *place = byte;
        }
        head
    }

    fn decode(bytes: &[u8; FRAME_HEAD_LEN]) -> (Self, u32) {
        let [a, b, c, d, kind, flags, _, _, e, f, g, h, i, j, k, l] = *bytes;
        let head = Self {
            len: u32::from_le_bytes([a, b, c, d]),
            kind,
            flags,
            ordinal_low: u32::from_le_bytes([i, j, k, l]),
        };
        (head, u32::from_le_bytes([e, f, g, h]))
    }
}

/// The low half of an ordinal.
fn low(ordinal: u64) -> u32 {
    u32::try_from(ordinal & u64::from(u32::MAX)).expect("masked to 32 bits")
}

/// Four zero bytes and the ordinal, little endian.
fn nonce(ordinal: u64) -> Nonce {
    let ordinal = if mutants::is_active(Mutant::NonceReuse) { 0 } else { ordinal };
    let [a, b, c, d, e, f, g, h] = ordinal.to_le_bytes();
    let bytes: [u8; NONCE_LEN] = [0, 0, 0, 0, a, b, c, d, e, f, g, h];
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests;
