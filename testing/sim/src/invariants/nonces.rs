//! No nonce is used twice under one key: frames of all files ever seen have streams of their own.
//!
//! The stream of a frame is what its text was mixed with. If two are equal, whoever has both frames has
//! the difference of their texts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use keepd_crypto::{
    EncryptionConfig, FILE_HEADER_LEN, FILE_MAGIC, FRAME_HEAD_LEN, FileError, FileKeys, FileKind,
    FileSealer,
};
use keepd_env::SimDisk;
use keepd_types::MemberId;

use super::{Verdict, verdict};
use crate::logs;

/// Bytes of a stream that tell it from all others.
const STREAM_BYTES: usize = 8;
const KINDS: [FileKind; 5] =
    [FileKind::Wal, FileKind::Manifest, FileKind::Segment, FileKind::Checkpoint, FileKind::Install];

/// A frame: the member, its file and its number there, and the checksum of its bytes.
type Place = (MemberId, PathBuf, u64, u32);

/// The streams of all frames that were seen.
#[derive(Debug, Default)]
pub struct Nonces {
    seen: BTreeMap<[u8; STREAM_BYTES], Place>,
}

impl Nonces {
    /// Takes in the frames of all files of a disk. What is damaged is passed over.
    ///
    /// # Errors
    /// If a stream was used twice.
    pub fn observe(
        &mut self,
        member: MemberId,
        disk: &SimDisk,
        data_dir: &Path,
        config: EncryptionConfig,
    ) -> Verdict {
        let Ok((_env, keys)) = logs::keys(disk, data_dir, config) else { return Ok(()) };
        for path in disk.files() {
            let Some(bytes) = disk.peek(&path) else { continue };
            let Some(sealer) = sealer(&keys, &bytes) else { continue };
            let mut at = FILE_HEADER_LEN;
            for ordinal in 0.. {
                let rest = &bytes[at.min(bytes.len())..];
                let Ok(frame) = sealer.open_frame(ordinal, rest) else { break };
                at += frame.len;
                let crc = crc32c::crc32c(&rest[..frame.len]);
                let Some(stream) = stream(&frame.plain, &rest[FRAME_HEAD_LEN..]) else { continue };
                let place = (member, path.clone(), ordinal, crc);
                let known = self.seen.entry(stream).or_insert_with(|| place.clone());
                if *known != place {
                    let what = format!("{known:?} and {place:?} have the same stream");
                    return verdict("nonces", Err(what));
                }
            }
        }
        Ok(())
    }
}

/// The sealer of a file, whose kind and id its header tells.
fn sealer(keys: &FileKeys, bytes: &[u8]) -> Option<FileSealer> {
    if !bytes.starts_with(&FILE_MAGIC) || bytes.len() < FILE_HEADER_LEN {
        return None;
    }
    let opened = KINDS.into_iter().find_map(|kind| match keys.open(kind, 0, bytes) {
        Err(FileError::WrongFileId { found, .. }) => Some(keys.open(kind, found, bytes)),
        Err(_) => None,
        Ok(sealer) => Some(Ok(sealer)),
    });
    opened?.ok().filter(FileSealer::is_sealed)
}

fn stream(plain: &[u8], sealed: &[u8]) -> Option<[u8; STREAM_BYTES]> {
    let mut stream: [u8; STREAM_BYTES] = *plain.first_chunk()?;
    let sealed: &[u8; STREAM_BYTES] = sealed.first_chunk()?;
    stream.iter_mut().zip(sealed).for_each(|(byte, other)| *byte ^= *other);
    Some(stream)
}
