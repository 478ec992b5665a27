//! Random bytes that a thread keeps ready: the system's generator takes as long for one nonce as
//! for forty.
//!
//! A machine that is restored from a snapshot of its memory would hand out the same bytes twice,
//! and a nonce that serves twice opens values. The generator itself mixes in what the processor
//! draws at each call; for the bytes kept here the wall clock does that, to the nanosecond, when
//! they are handed out. What is random stays so whatever is added to it.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

/// The longest request that is served from the stock: nonces and identifiers. Longer ones are
/// keys, which shall not lie ready anywhere.
const REQUEST_LEN_MAX: usize = 24;
const STOCK_LEN: usize = 1024;

thread_local! {
    static STOCK: RefCell<Stock> = const { RefCell::new(Stock { bytes: [0; STOCK_LEN], left: 0 }) };
}

struct Stock {
    bytes: [u8; STOCK_LEN],
    /// How many bytes from the start on were not handed out yet.
    left: usize,
}

/// Fills `bytes` from this thread's stock if they are few, says no otherwise.
///
/// `draw` fills the stock when it is used up.
pub(super) fn serves(bytes: &mut [u8], draw: impl FnOnce(&mut [u8])) -> bool {
    if bytes.len() > REQUEST_LEN_MAX {
        return false;
    }
    // It fails only in a thread that is ending.
    let served = STOCK.try_with(|stock| stock.borrow_mut().hand_out(bytes, draw));
    if served.is_ok() {
        mix_in_time(bytes);
    }
    served.is_ok()
}

impl Stock {
    fn hand_out(&mut self, bytes: &mut [u8], draw: impl FnOnce(&mut [u8])) {
        if self.left < bytes.len() {
            draw(&mut self.bytes);
            self.left = STOCK_LEN;
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
        let mut stock = Stock { bytes: [0; STOCK_LEN], left: 0 };
        let mut draws = 0_u8;
        for request in 0..200_usize {
            let mut bytes = [0; 24];
            let len = 1 + request % 24;
            stock.hand_out(&mut bytes[..len], |bytes| {
                draws += 1;
                bytes.fill(draws);
            });
            assert!(bytes[..len].iter().all(|byte| *byte == draws), "request {request}");
            assert!(stock.bytes[stock.left..].iter().all(|byte| *byte == 0));
            assert!(stock.bytes[..stock.left].iter().all(|byte| *byte == draws));
        }
        assert!(draws > 1);
    }

    #[test]
    fn a_stock_that_comes_back_gives_other_bytes() {
        // As after the restoration of a snapshot: the same draw again.
        let handed_out = || {
            let mut bytes = [0; REQUEST_LEN_MAX];
            STOCK.with_borrow_mut(|stock| stock.left = 0);
            assert!(serves(&mut bytes, |stock| stock.fill(7)));
            bytes
        };
        let first = handed_out();
        assert!((0..100).any(|_| handed_out() != first));
    }

    #[test]
    fn keys_do_not_come_from_the_stock() {
        let mut key = [0; 32];
        assert!(!serves(&mut key, |_| panic!("nothing is drawn for a stock")));
        assert_eq!(key, [0; 32]);
    }
}
