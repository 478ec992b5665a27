//! The requests of clients that write, read, compare and watch: of a few keys, so that they meet.

use bytes::Bytes;
use keepd_types::{KeyRange, LeaseId, RangeEnd};

use crate::MARKER;
use crate::history::Request;

/// Keys that the clients share.
const KEYS: u64 = 6;

/// A run, as its clients draw on it.
pub trait Run {
    /// A random number below a bound.
    fn draw(&self, bound: u64) -> u64;
    /// A value that is written once in the run.
    fn value(&self, client: usize) -> Bytes;
    /// The highest revision that a client was told of.
    fn revision(&self) -> i64;
}

/// One of the keys that the clients share.
#[must_use]
pub fn key(number: u64) -> Bytes {
    format!("{MARKER}/key/{number}").into()
}

/// The keys that the clients share, and no other.
#[must_use]
pub fn all_keys() -> KeyRange {
    let end = Bytes::from(format!("{MARKER}/key0"));
    KeyRange { start: format!("{MARKER}/key/").into(), end: RangeEnd::Before(end) }
}

/// A client's next request; a read of the past goes back so many revisions at most.
pub fn draw(run: &impl Run, client: usize, past_revisions: u64) -> Request {
    let key = key(run.draw(KEYS));
    let read = |range, at, is_serializable| Request::Read { range, at, is_serializable };
    match run.draw(20) {
        0..7 => Request::Put { key, value: run.value(client), lease: LeaseId::NONE },
        7..9 => Request::Delete { key },
        9 => Request::Swap { key, expected: 0, value: run.value(client) },
        10 => {
            let past = i64::try_from(run.draw(past_revisions)).expect("a small number");
            read(all_keys(), (run.revision() - past).max(1), run.draw(2) == 0)
        }
        11..16 => read(range(run, key), 0, false),
        _ => read(range(run, key), 0, true),
    }
}

/// The keys of a watch.
pub fn watched(run: &impl Run) -> KeyRange {
    match run.draw(3) {
        0 => KeyRange { start: MARKER.into(), end: RangeEnd::Open },
        1 => all_keys(),
        _ => KeyRange::point(key(run.draw(3))),
    }
}

fn range(run: &impl Run, key: Bytes) -> KeyRange {
    if run.draw(3) == 0 { all_keys() } else { KeyRange::point(key) }
}
