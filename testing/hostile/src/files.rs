//! A directory as one input: its files, each as it lies there or as frames that are sealed anew.
//!
//! ```text
//! input   = keys (u8: even is plain, odd is sealed), files
//! file    = name (three u8, which the target reads), form (u8), length (u24), content
//! content = the file's bytes (form even), or frames (form odd)
//! frame   = kind (u8), length (u16), payload
//! ```
//!
//! Numbers are little endian. What is cut short counts as far as it is there.

use keepd_crypto::{FILE_HEADER_LEN, FileKeys, FileKind, FileSealer};
use keepd_env::SeededRandom;

/// More files make an input slow and nothing new.
const FILES_MAX: usize = 12;

/// The three bytes that a target makes a file's name of.
pub(crate) type Name = [u8; 3];

/// A frame's kind and payload.
pub(crate) type Frame = (u8, Vec<u8>);

/// One file of an input.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) name: Name,
    pub(crate) content: Content,
}

/// How the input tells what is in a file.
#[derive(Debug)]
pub(crate) enum Content {
    /// Its bytes.
    Raw(Vec<u8>),
    /// Its frames; header, checksums and seals are made when it is written.
    Frames(Vec<Frame>),
}

/// The keys that the files of an input lie under.
pub(crate) fn keys(choice: u8) -> FileKeys {
    if choice.is_multiple_of(2) {
        FileKeys::plain()
    } else {
        FileKeys::ephemeral(&SeededRandom::new(99))
    }
}

/// Reads an input.
pub(crate) fn read(bytes: &[u8]) -> (u8, Vec<File>) {
    let (&choice, mut rest) = bytes.split_first().unwrap_or((&0, &[]));
    let mut files = Vec::new();
    while let Some((&[a, b, c, form, x, y, z], behind)) = rest.split_first_chunk() {
        let len = u32::from_le_bytes([x, y, z, 0]) as usize;
        let (content, behind) = behind.split_at(len.min(behind.len()));
        rest = behind;
        let content = if form.is_multiple_of(2) {
            Content::Raw(content.to_vec())
        } else {
            Content::Frames(frames(content))
        };
        files.push(File { name: [a, b, c], content });
        if files.len() == FILES_MAX {
            break;
        }
    }
    (choice, files)
}

/// Reads frames that follow each other.
pub(crate) fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some((&[kind, x, y], behind)) = bytes.split_first_chunk() {
        let len = usize::from(u16::from_le_bytes([x, y]));
        let (payload, behind) = behind.split_at(len.min(behind.len()));
        bytes = behind;
        frames.push((kind, payload.to_vec()));
    }
    frames
}

/// Makes an input.
pub(crate) fn write(choice: u8, files: &[File]) -> Vec<u8> {
    let mut out = vec![choice];
    for File { name, content } in files {
        out.extend_from_slice(name);
        let (form, content) = match content {
            Content::Raw(bytes) => (0, bytes.clone()),
            Content::Frames(frames) => (1, write_frames(frames)),
        };
        let [x, y, z, _] =
            u32::try_from(content.len()).expect("first inputs are small").to_le_bytes();
        out.extend_from_slice(&[form, x, y, z]);
        out.extend_from_slice(&content);
    }
    out
}

/// Makes what [`frames`] reads.
pub(crate) fn write_frames(frames: &[Frame]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, payload) in frames {
        let len = u16::try_from(payload.len()).expect("first inputs are small");
        out.push(*kind);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(payload);
    }
    out
}

/// Begins a file; the same one each time, so that inputs stay what they are.
pub(crate) fn sealer(keys: &FileKeys, kind: FileKind, id: u64) -> FileSealer {
    keys.create(kind, id, &SeededRandom::new(id ^ 0x5eed))
}

/// A file of these frames, and where each of them ends.
pub(crate) fn sealed(sealer: &FileSealer, frames: &[Frame]) -> (Vec<u8>, Vec<usize>) {
    let (mut bytes, mut ends) = (sealer.header().to_vec(), Vec::new());
    for (ordinal, (kind, payload)) in (0..).zip(frames) {
        sealer
            .seal_frame(ordinal, *kind, payload, &mut bytes)
            .expect("an input's frames are short");
        ends.push(bytes.len());
    }
    (bytes, ends)
}

/// The frames of a file that was written, up to the first that does not open.
pub(crate) fn opened(keys: &FileKeys, kind: FileKind, id: u64, bytes: &[u8]) -> Vec<Frame> {
    let sealer = keys.open(kind, id, bytes).expect("the file was just written");
    let (mut frames, mut at) = (Vec::new(), FILE_HEADER_LEN);
    for ordinal in 0.. {
        let rest = bytes.get(at..).unwrap_or_default();
        let Ok(frame) = sealer.open_frame(ordinal, rest) else { break };
        at += frame.len;
        frames.push((frame.kind, frame.plain));
    }
    frames
}
