//! Headers of files and frames in them (`docs/formats/sealed-file.md`), as they lie there and with
//! their checksums set right.

use keepd_crypto::{FILE_HEADER_LEN, FRAME_HEAD_LEN, FileKeys, FileKind, FileSealer};

use crate::files;

const KINDS: [FileKind; 4] =
    [FileKind::Wal, FileKind::Manifest, FileKind::Segment, FileKind::Checkpoint];
/// The id of every file here.
const ID: u64 = 5;
/// Where a frame's checksum lies in its head.
const CRC_AT: usize = 8;

/// Opens the header of a file and the frames behind it.
pub fn frames(bytes: &[u8]) {
    let (&choice, bytes) = bytes.split_first().unwrap_or((&0, &[]));
    let (keys, kind) = (files::keys(choice), KINDS[usize::from(choice >> 1) % KINDS.len()]);
    // As it lies there.
    if let Ok(sealer) = keys.open(kind, ID, bytes) {
        open_all(&sealer, bytes);
    }
    // The same with right checksums.
    if let Some(summed) = summed(bytes)
        && let Ok(sealer) = keys.open(kind, ID, &summed)
    {
        open_all(&sealer, &summed);
    }
    // Frames of a file that was begun rightly.
    let sealer = files::sealer(&keys, kind, ID);
    let mut file = sealer.header().to_vec();
    file.extend_from_slice(bytes);
    open_all(&sealer, &file);
    sum_frames(&mut file);
    open_all(&sealer, &file);
    round_trip(&sealer, bytes);
}

/// What is sealed is opened again, and only in its own place.
fn round_trip(sealer: &FileSealer, payload: &[u8]) {
    let (kind, ordinal) = (3, 1 << 33);
    let mut out = Vec::new();
    sealer.seal_frame(ordinal, kind, payload, &mut out).expect("an input is short");
    let frame = sealer.open_frame(ordinal, &out).expect("it was just sealed");
    assert_eq!((frame.kind, frame.plain.as_slice(), frame.len), (kind, payload, out.len()));
    assert!(sealer.open_frame(ordinal + 1, &out).is_err(), "another place");
}

/// Opens one frame behind the other, and every one of them in a wrong place as well.
fn open_all(sealer: &FileSealer, file: &[u8]) {
    let mut at = FILE_HEADER_LEN;
    for ordinal in 0.. {
        let rest = file.get(at..).unwrap_or_default();
        let _refused = sealer.open_frame(ordinal ^ 1, rest).is_err();
        match sealer.open_frame(ordinal, rest) {
            Ok(frame) => {
                assert!(frame.len <= rest.len() && frame.plain.len() < frame.len);
                at += frame.len;
            }
            Err(error) => {
                let _told = error.to_string();
                return;
            }
        }
    }
}

/// The bytes with the checksums of header and frames set right.
fn summed(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut file = bytes.to_vec();
    let (covered, crc) = file.get_mut(..FILE_HEADER_LEN)?.split_last_chunk_mut::<4>()?;
    *crc = crc32c::crc32c(covered).to_le_bytes();
    sum_frames(&mut file);
    Some(file)
}

/// Sets the checksums of a file's frames right, as far as their lengths lead.
pub(crate) fn sum_frames(file: &mut [u8]) {
    let Some((header, mut rest)) = file.split_at_mut_checked(FILE_HEADER_LEN) else { return };
    let Some(seed) = header.last_chunk().map(|crc| u32::from_le_bytes(*crc)) else { return };
    // A plain file's data key is 0; a sealed one has a tag behind each payload.
    let tag_len = if header.get(12..16) == Some(&[0; 4]) { 0 } else { 16 };
    while let Some((head, behind)) = rest.split_first_chunk_mut::<FRAME_HEAD_LEN>() {
        let [a, b, c, d, ..] = *head;
        let body_len = (u32::from_le_bytes([a, b, c, d]) as usize).saturating_add(tag_len);
        let Some((body, behind)) = behind.split_at_mut_checked(body_len) else { return };
        let crc = crc32c::crc32c_append(seed, &head[..CRC_AT]);
        let crc = crc32c::crc32c_append(crc, &head[CRC_AT + 4..]);
        let crc = crc32c::crc32c_append(crc, body);
        head[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        rest = behind;
    }
}

/// A file of two frames under either choice of keys, and frames alone.
pub(crate) fn first_inputs() -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    for (choice, kind) in (0..8).map(|choice| (choice, KINDS[usize::from(choice >> 1)])) {
        let keys: FileKeys = files::keys(choice);
        let frames = [(1, b"head".to_vec()), (2, vec![7; 40]), (3, Vec::new())];
        let (file, _) = files::sealed(&files::sealer(&keys, kind, ID), &frames);
        inputs.push([&[choice], file.as_slice()].concat());
        inputs.push([&[choice], &file[FILE_HEADER_LEN..]].concat());
    }
    inputs
}
