//! A buffer of random bytes per thread: the system's generator takes as long for one nonce as for
//! forty.
//!
//! A machine that is restored from a snapshot of its memory would hand out the same bytes twice,
//! and a nonce used twice breaks the cipher. The system's generator mixes in fresh entropy of the
//! processor at each call. The bytes of this buffer are combined with the wall clock, to the
//! nanosecond, when they are handed out; random bytes stay random whatever is combined with them.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

/// The longest request that is served from the buffer: nonces and identifiers. Longer ones are
/// keys, which must not be kept in memory before they are used.
const REQUEST_LEN_MAX: usize = 24;
const BUFFER_LEN: usize = 1024;

thread_local! {
    static BUFFER: RefCell<Buffer> = const { RefCell::new(Buffer { bytes: [0; BUFFER_LEN], left: 0 }) };
}

struct Buffer {
    bytes: [u8; BUFFER_LEN],
    /// The number of bytes, from the start on, that were not handed out yet.
    left: usize,
}

/// Fills `bytes` from this thread's buffer. `false` if they are too many for it; they are as they
/// were then. `draw` fills the buffer when it is used up.
pub(super) fn try_fill(bytes: &mut [u8], draw: impl FnOnce(&mut [u8])) -> bool {
    if bytes.len() > REQUEST_LEN_MAX {
        return false;
    }
    // It fails only in a thread that is ending.
    let served = BUFFER.try_with(|buffer| buffer.borrow_mut().hand_out(bytes, draw));
    if served.is_ok() {
        mix_in_time(bytes);
    }
    served.is_ok()
}

impl Buffer {
    fn hand_out(&mut self, bytes: &mut [u8], draw: impl FnOnce(&mut [u8])) {
        if self.left < bytes.len() {
            draw(&mut self.bytes);
            self.left = BUFFER_LEN;
        }
        let start = self.left - bytes.len();
        let taken = &mut self.bytes[start..self.left];
        bytes.copy_from_slice(taken);
        taken.fill(0);
        self.left = start;
    }
}

#[expect(clippy::disallowed_methods, reason = "this crate is the door to the clock")]
fn mix_in_time(bytes: &mut [u8]) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    for (byte, time) in bytes.iter_mut().zip(now.as_nanos().to_le_bytes()) {
        *byte ^= time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_handed_out_once_and_then_wiped() {
        let mut buffer = Buffer { bytes: [0; BUFFER_LEN], left: 0 };
        let mut draws = 0_u8;
        for request in 0..200_usize {
            let mut bytes = [0; 24];
            let len = 1 + request % 24;
            buffer.hand_out(&mut bytes[..len], |bytes| {
                draws += 1;
                bytes.fill(draws);
            });
            assert!(bytes[..len].iter().all(|byte| *byte == draws), "request {request}");
            assert!(buffer.bytes[buffer.left..].iter().all(|byte| *byte == 0));
            assert!(buffer.bytes[..buffer.left].iter().all(|byte| *byte == draws));
        }
        assert!(draws > 1);
    }

    #[test]
    fn a_buffer_that_comes_back_gives_other_bytes() {
        // As after the restoration of a snapshot: the same draw again.
        let handed_out = || {
            let mut bytes = [0; REQUEST_LEN_MAX];
            BUFFER.with_borrow_mut(|buffer| buffer.left = 0);
            assert!(try_fill(&mut bytes, |buffer| buffer.fill(7)));
            bytes
        };
        let first = handed_out();
        assert!((0..100).any(|_| handed_out() != first));
    }

    #[test]
    fn keys_do_not_come_from_the_buffer() {
        let mut key = [0; 32];
        assert!(!try_fill(&mut key, |_| panic!("nothing is drawn for a buffer")));
        assert_eq!(key, [0; 32]);
    }
}
