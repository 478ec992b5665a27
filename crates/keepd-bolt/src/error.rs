//! Errors of reading and writing a bbolt file.

use std::io;

use thiserror::Error;

/// A failure to read or write a bbolt file.
#[derive(Debug, Error)]
pub enum Error {
    /// An entry whose value is too short for a bucket.
    #[error("malformed bucket {}", name.escape_ascii())]
    BucketMalformed {
        /// The bucket's name.
        name: Vec<u8>,
    },
    /// A bucket's name is not above the one before it.
    #[error("bucket {} is not in order", name.escape_ascii())]
    BucketOrder {
        /// The bucket's name.
        name: Vec<u8>,
    },
    /// An item was given to the planner or writer before any bucket.
    #[error("item outside a bucket")]
    ItemOutsideBucket,
    /// A written key is empty or too long.
    #[error("key of {len} bytes: allowed are 1 to {}", crate::KEY_BYTES_MAX)]
    KeyLength {
        /// Its length.
        len: usize,
    },
    /// A written key is not above the one before it.
    #[error("key {} is not in order", key.escape_ascii())]
    KeyOrder {
        /// The key.
        key: Vec<u8>,
    },
    /// Neither meta page is valid.
    #[error("not a bbolt file: no valid meta page")]
    NoMeta,
    /// A page that cannot be used.
    #[error("page {pgid}: {fault}")]
    Page {
        /// The page's number; 0 for an inline bucket's page.
        pgid: u64,
        /// The fault.
        fault: PageFault,
    },
    /// The two passes of a writer saw different items.
    #[error("planned {planned} pages, but the items made {written}")]
    PlanMismatch {
        /// Pages of the first pass.
        planned: u64,
        /// Pages of the second.
        written: u64,
    },
    /// A page size that bbolt does not use.
    #[error("page size {0} is not supported")]
    PageSize(usize),
    /// The source cannot be read.
    #[error("read {len} bytes at {offset}: {source}")]
    Read {
        /// The offset in the file.
        offset: u64,
        /// The number of bytes.
        len: usize,
        /// The system's reason.
        source: io::Error,
    },
    /// The file ends before its last page.
    #[error("truncated bbolt file: {need} bytes needed, {have} found")]
    Truncated {
        /// The length that the meta page tells.
        need: u64,
        /// The length of the file.
        have: u64,
    },
    /// A written value is too long.
    #[error("value of {len} bytes: allowed are {}", crate::VALUE_BYTES_MAX)]
    ValueLength {
        /// Its length.
        len: usize,
    },
    /// The output cannot be written.
    #[error("write pages: {0}")]
    Write(#[source] io::Error),
}

/// A fault of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PageFault {
    /// A tree deeper than any real one: a cycle.
    #[error("tree is too deep")]
    Depth,
    /// An element points outside its page.
    #[error("element {index} points outside the page")]
    ElementOutside {
        /// The element's position.
        index: usize,
    },
    /// A page inside a tree holds nothing.
    #[error("page is empty")]
    Empty,
    /// A key breaks the order of its tree.
    #[error("key {index} is out of order")]
    KeyOrder {
        /// The element's position.
        index: usize,
    },
    /// A root entry that is no bucket.
    #[error("element {index} of the root is not a bucket")]
    NotABucket {
        /// The element's position.
        index: usize,
    },
    /// Elements that share bytes, or pages that share pages.
    #[error("element {index} takes bytes that others take")]
    Overlap {
        /// The element's position.
        index: usize,
    },
    /// The number, or the pages it claims to run on, lie outside the file.
    #[error("out of bounds: {hwm}")]
    OutOfBounds {
        /// The first page number that was never used.
        hwm: u64,
    },
    /// A node too large to load.
    #[error("node of {bytes} bytes is too large")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// Neither branch nor leaf where one must be.
    #[error("invalid type: unknown<{flags:02x}>")]
    Type {
        /// The page's flags.
        flags: u16,
    },
    /// The page carries another number.
    #[error("page carries id {found}")]
    WrongId {
        /// The number found.
        found: u64,
    },
}
