//! Frames: round trips, every flipped bit, frames out of place.
#![expect(clippy::indexing_slicing, reason = "tests may panic")]

use keepd_env::SeededRandom;
use proptest::prelude::*;

use super::*;
use crate::file_header::FileKind;
use crate::file_keys::FileKeys;

fn sealer(sealed: bool, file_id: u64) -> FileSealer {
    let random = SeededRandom::new(5);
    let keys = if sealed { FileKeys::ephemeral(&random) } else { FileKeys::plain() };
    keys.create(FileKind::Segment, file_id, &random)
}

fn frame(sealer: &FileSealer, ordinal: u64, plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    sealer.seal_frame(ordinal, 3, plain, &mut out).unwrap();
    assert_eq!(out.len(), sealer.frame_len(plain.len()));
    out
}

#[test]
fn the_layout_is_the_documented_one() {
    let plain = frame(&sealer(false, 1), 0x1_0000_0002, b"hello");
    assert_eq!(plain[..8], [5, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!(plain[12..], *b"\x02\0\0\0hello");
    let sealed = frame(&sealer(true, 1), 2, b"hello");
    assert_eq!(sealed[..8], [5, 0, 0, 0, 3, 1, 0, 0]);
    assert_eq!(sealed.len(), 16 + 5 + 16);
    assert!(!sealed.windows(5).any(|window| window == b"hello"));
}

#[test]
fn every_flipped_bit_of_a_frame_is_found() {
    for sealed in [false, true] {
        let sealer = sealer(sealed, 1);
        let whole = frame(&sealer, 7, b"some payload");
        for at in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            assert!(sealer.open_frame(7, &bytes).is_err(), "bit {at} sealed {sealed}");
        }
        for len in 0..whole.len() {
            let opened = sealer.open_frame(7, &whole[..len]);
            assert!(matches!(opened, Err(FrameError::Truncated { .. })), "{len} bytes");
        }
    }
}

#[test]
fn a_forged_checksum_does_not_pass_the_seal() {
    let sealer = sealer(true, 1);
    let mut bytes = frame(&sealer, 0, b"payload");
    bytes[FRAME_HEAD_LEN] ^= 1;
    let (head, _) = Head::decode(bytes.first_chunk().unwrap());
    let crc = sealer.crc(&head, &[&bytes[FRAME_HEAD_LEN..]]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(sealer.open_frame(0, &bytes), Err(FrameError::BadSeal));
}

#[test]
fn a_frame_opens_only_in_its_place() {
    for sealed in [false, true] {
        let sealer = sealer(sealed, 1);
        let bytes = frame(&sealer, 4, b"payload");
        assert_eq!(
            sealer.open_frame(5, &bytes),
            Err(FrameError::WrongOrdinal { expected: 5, found: 4 })
        );
        let other = self::sealer(sealed, 2);
        assert_eq!(other.open_frame(4, &bytes), Err(FrameError::BadCrc));
    }
    let sealer = sealer(true, 1);
    let bytes = frame(&sealer, 4, b"payload");
    assert_eq!(sealer.open_frame(4 + (1 << 32), &bytes), Err(FrameError::BadSeal));
}

#[test]
fn unwritten_space_is_told_from_damage() {
    let sealer = sealer(false, 1);
    assert_eq!(sealer.open_frame(0, &[0; 64]), Err(FrameError::Zeroed));
    assert_ne!(frame(&sealer, 0, b"")[..FRAME_HEAD_LEN], [0; FRAME_HEAD_LEN]);
    assert_eq!(sealer.open_frame(0, &[0xff; 64]), Err(FrameError::TooLong { len: u32::MAX }));
}

proptest! {
    #[test]
    fn frames_round_trip(sealed: bool, ordinal: u64, kind: u8, plain: Vec<u8>, after: Vec<u8>) {
        let sealer = sealer(sealed, 1);
        let mut bytes = Vec::new();
        sealer.seal_frame(ordinal, kind, &plain, &mut bytes).unwrap();
        let len = bytes.len();
        bytes.extend_from_slice(&after);
        prop_assert_eq!(sealer.open_frame(ordinal, &bytes), Ok(Frame { kind, plain, len }));
    }

    #[test]
    fn hostile_bytes_never_panic(sealed: bool, bytes: Vec<u8>) {
        let _ = sealer(sealed, 1).open_frame(0, &bytes);
        let _ = FileKeys::plain().open(FileKind::Wal, 0, &bytes);
    }
}

#[test]
fn a_payload_that_is_too_long_is_an_error_and_appends_nothing() {
    let sealer = FileKeys::plain().create(FileKind::Segment, 1, &SeededRandom::new(1));
    let mut out = vec![7];
    let plain = vec![0; FRAME_PLAIN_MAX + 1];
    let error = sealer.seal_frame(0, 3, &plain, &mut out).unwrap_err();
    assert_eq!((error, out.as_slice()), (FrameTooLong { len: plain.len() }, &[7][..]));
    sealer.seal_frame(0, 3, &plain[1..], &mut out).unwrap();
    let opened = sealer.open_frame(0, &out[1..]).unwrap();
    assert_eq!(opened.plain.len(), FRAME_PLAIN_MAX);
}
