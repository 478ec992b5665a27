//! Headers: what is refused, and that no bit of one can change unseen.
#![expect(clippy::indexing_slicing, reason = "tests may panic")]

use keepd_env::SeededRandom;

use super::*;
use crate::file_header::FILE_HEADER_LEN;

fn keys() -> FileKeys {
    FileKeys::ephemeral(&SeededRandom::new(7))
}

#[test]
fn a_file_opens_only_as_what_it_is() {
    let keys = keys();
    let header = keys.create(FileKind::Wal, 9, &SeededRandom::new(1)).header();
    assert!(keys.open(FileKind::Wal, 9, &header).unwrap().is_sealed());
    let refused = |kind, id, bytes: &[u8]| keys.open(kind, id, bytes).unwrap_err();
    assert_eq!(
        refused(FileKind::Segment, 9, &header),
        FileError::WrongKind { expected: FileKind::Segment, found: 1 }
    );
    assert_eq!(
        refused(FileKind::Wal, 8, &header),
        FileError::WrongFileId { expected: 8, found: 9 }
    );
    assert_eq!(refused(FileKind::Wal, 9, &header[..95]), FileError::Short { len: 95 });
    assert_eq!(refused(FileKind::Wal, 9, &[0; FILE_HEADER_LEN]), FileError::Blank);
    assert_eq!(refused(FileKind::Wal, 9, &[1; FILE_HEADER_LEN]), FileError::NotOurs);
    assert_eq!(
        FileKeys::plain().open(FileKind::Wal, 9, &header).unwrap_err(),
        FileError::UnknownDataKey { id: DataKeyId(1) }
    );
}

#[test]
fn every_flipped_bit_of_a_header_is_found() {
    let keys = keys();
    let header = keys.create(FileKind::Manifest, 3, &SeededRandom::new(1)).header();
    for at in 0..FILE_HEADER_LEN * 8 {
        let mut bytes = header;
        bytes[at / 8] ^= 1 << (at % 8);
        assert!(keys.open(FileKind::Manifest, 3, &bytes).is_err(), "bit {at}");
    }
}

#[test]
fn two_files_never_share_a_salt() {
    let (keys, random) = (keys(), SeededRandom::new(1));
    let first = keys.create(FileKind::Wal, 1, &random).header();
    let second = keys.create(FileKind::Wal, 1, &random).header();
    assert_ne!(first, second);
}

#[test]
fn a_plain_file_is_refused_once_all_are_sealed() {
    let plain = FileKeys::plain();
    let header = plain.create(FileKind::Wal, 1, &SeededRandom::new(1)).header();
    assert!(plain.open(FileKind::Wal, 1, &header).is_ok());
    assert_eq!(plain.known(), [DataKeyId::PLAIN]);
    let sealing = keys();
    assert!(sealing.open(FileKind::Wal, 1, &header).is_ok());
    let mut set = KeySet::clone(&sealing.0.load());
    set.plain_allowed = false;
    sealing.store(set);
    let refused = sealing.open(FileKind::Wal, 1, &header).unwrap_err();
    assert_eq!(refused, FileError::PlainRefused);
    assert_eq!(sealing.known(), [DataKeyId(1)]);
}
