//! Joins neighbouring small DATA frames of a stream.
//!
//! The library keeps each frame that was not read in memory of its own, and ends the *connection* once
//! too many small ones wait (`too_many_data_frames`). A client that sends thousands of small messages
//! at once, each in a frame of its own, is no attack: the window of its stream bounds it, and etcd
//! answers every one. Joined frames cost the library what their bytes cost. Empty frames, of which it
//! takes a hundred in the life of a connection, are left out.

use super::{FRAME_BYTES_MAX, HEAD_BYTES, Head};

const DATA: u8 = 0;

/// Joins neighbouring DATA frames of `bytes`, in which the first head of a frame is at `first`; returns
/// the number of bytes that are left. No byte of a message is changed, moved to another stream or
/// past another frame.
pub(super) fn join_data(bytes: &mut [u8], first: usize) -> usize {
    let (mut read, mut write) = (first, first);
    // The offset and the head of the frame to which the next one may be joined.
    let mut open: Option<(usize, Head)> = None;
    while let Some(head) = bytes.get(read..).and_then(Head::parse) {
        let end = read + HEAD_BYTES + head.len;
        if end > bytes.len() {
            break;
        }
        // One with a flag ends the stream or is padded.
        let is_plain = head.kind == DATA && head.flags == 0;
        if is_plain && head.len == 0 {
            read = end;
            continue;
        }
        let joined = open.as_ref().filter(|(_, last)| {
            is_plain && last.stream == head.stream && last.len + head.len <= FRAME_BYTES_MAX
        });
        if let Some((at, last)) = joined {
            let (at, len) = (*at, last.len + head.len);
            bytes.copy_within(read + HEAD_BYTES..end, write);
            write += head.len;
            let len_bytes = u32::try_from(len).expect("a frame's length was just bounded");
            bytes[at..at + 3].copy_from_slice(&len_bytes.to_be_bytes()[1..]);
            open = Some((at, Head { len, ..head }));
        } else {
            if read != write {
                bytes.copy_within(read..end, write);
            }
            open = is_plain.then_some((write, head));
            write += end - read;
        }
        read = end;
    }
    let rest = bytes.len().saturating_sub(read);
    if rest > 0 && read != write {
        bytes.copy_within(read.., write);
    }
    bytes.len().min(write + rest)
}

#[cfg(test)]
mod tests {
    use super::super::END_STREAM;
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&len[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    }

    fn joined(frames: &[Vec<u8>], first: usize) -> Vec<u8> {
        let mut bytes = frames.concat();
        let len = join_data(&mut bytes, first);
        bytes.truncate(len);
        bytes
    }

    #[test]
    fn neighbours_of_one_stream_become_one_frame() {
        let data = |stream, payload: &[u8]| frame(DATA, 0, stream, payload);
        let ping = frame(6, 0, 0, b"8 bytes.");
        let last = frame(DATA, END_STREAM, 1, b"end");
        let frames = [data(1, b"a"), data(1, b""), data(1, b"bc"), data(3, b"d"), data(1, b"e")];
        let expected = [data(1, b"abc"), data(3, b"d"), data(1, b"e")].concat();
        assert_eq!(joined(&frames, 0), expected);
        let empty = [data(1, b"a"), data(1, b""), data(3, b""), ping.clone(), data(1, b"")];
        assert_eq!(joined(&empty, 0), [data(1, b"a"), ping.clone()].concat());
        // What stands between is not overtaken, and what ends a stream stays as it is.
        let frames = [data(1, b"a"), ping, data(1, b"b"), last, data(3, b"c")];
        assert_eq!(joined(&frames, 0), frames.concat());
        let padded = frame(DATA, 0x8, 1, b"\x01p\0");
        let frames = [data(1, b"a"), padded];
        assert_eq!(joined(&frames, 0), frames.concat());
    }

    #[test]
    fn no_frame_becomes_too_long_and_what_is_cut_off_follows() {
        let half = vec![7; FRAME_BYTES_MAX / 2];
        let data = |payload: &[u8]| frame(DATA, 0, 1, payload);
        let whole = data(&vec![7; FRAME_BYTES_MAX]);
        assert_eq!(
            joined(&[data(&half), data(&half), data(&half)], 0),
            [whole, data(&half)].concat()
        );
        // The end of a frame that began before, then two, then the beginning of a third.
        let (tail, begun) = (b"tail".to_vec(), data(b"rest")[..11].to_vec());
        let frames = [tail.clone(), data(b"a"), data(b"b"), begun.clone()];
        assert_eq!(joined(&frames, 4), [tail.clone(), data(b"ab"), begun].concat());
        for first in 4..6 {
            assert_eq!(joined(std::slice::from_ref(&tail), first), tail, "nothing begins here");
        }
    }
}
