//! Key ranges as etcd's requests give them: a key and a range end.

use bytes::Bytes;

/// The end of a range.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RangeEnd {
    /// The range is the start key alone.
    Point,
    /// Half-open: every key from the start up to, not including, this one.
    Before(Bytes),
    /// Every key from the start on.
    Open,
}

/// A set of neighbouring keys in byte order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRange {
    /// The first key of the range.
    pub start: Bytes,
    /// Its end.
    pub end: RangeEnd,
}

impl KeyRange {
    /// A single key.
    #[must_use]
    pub const fn point(key: Bytes) -> Self {
        Self { start: key, end: RangeEnd::Point }
    }

    /// Every key.
    #[must_use]
    pub const fn all() -> Self {
        Self { start: Bytes::new(), end: RangeEnd::Open }
    }

    /// etcd's convention: an empty end is the key alone, one zero byte means "no end".
    #[must_use]
    pub fn from_request(key: Bytes, range_end: Bytes) -> Self {
        let end = match range_end.as_ref() {
            [] => RangeEnd::Point,
            [0] => RangeEnd::Open,
            _ => RangeEnd::Before(range_end),
        };
        Self { start: key, end }
    }

    /// The range end as a request carries it.
    #[must_use]
    pub fn range_end(&self) -> Bytes {
        match &self.end {
            RangeEnd::Point => Bytes::new(),
            RangeEnd::Before(end) => end.clone(),
            RangeEnd::Open => Bytes::from_static(&[0]),
        }
    }

    /// Whether this is one key.
    #[must_use]
    pub fn is_point(&self) -> bool {
        self.end == RangeEnd::Point
    }

    /// Whether no key can be in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(&self.end, RangeEnd::Before(end) if *end <= self.start)
    }

    /// Whether `key` is in it.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            RangeEnd::Point => key == self.start,
            RangeEnd::Before(end) => key >= self.start.as_ref() && key < end.as_ref(),
            RangeEnd::Open => key >= self.start.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(key: &'static str, end: &'static str) -> KeyRange {
        KeyRange::from_request(
            Bytes::from_static(key.as_bytes()),
            Bytes::from_static(end.as_bytes()),
        )
    }

    #[test]
    fn a_range_holds_what_etcd_says() {
        assert!(range("k", "").contains(b"k"));
        assert!(!range("k", "").contains(b"ka"));
        assert!(range("k", "l").contains(b"ka"));
        assert!(!range("k", "l").contains(b"l"));
        assert!(range("k", "\0").contains(b"\xff"));
        assert!(range("\0", "\0").contains(b"\0"));
        assert!(range("k", "a").is_empty());
        assert!(!range("k", "\0").is_empty());
    }
}
