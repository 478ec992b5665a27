//! The fixed parts of bbolt's pages: header, meta, elements. Layout: `docs/formats/bbolt.md`.
//!
//! Decoding returns `None` for bytes that are too short or invalid; the callers know the page and
//! say so.

/// The page size of written files, as on every common machine.
pub const PAGE_SIZE: usize = 4096;
/// The longest key.
pub const KEY_BYTES_MAX: usize = 32_768;
/// The longest value.
pub const VALUE_BYTES_MAX: usize = (1 << 31) - 2;

pub(crate) const HEADER_LEN: usize = 16;
pub(crate) const ELEMENT_LEN: usize = 16;
/// Root page number and sequence, at the front of a bucket's value.
pub(crate) const BUCKET_HEADER_LEN: usize = 16;
/// Header and body of a meta page.
pub(crate) const META_PAGE_LEN: usize = HEADER_LEN + 64;
pub(crate) const NO_FREELIST: u64 = u64::MAX;
pub(crate) const BUCKET_FLAG: u32 = 1;

pub(crate) const FLAG_BRANCH: u16 = 0x01;
pub(crate) const FLAG_LEAF: u16 = 0x02;
pub(crate) const FLAG_META: u16 = 0x04;
pub(crate) const FLAG_FREELIST: u16 = 0x10;

const MAGIC: u32 = 0xed0c_daed;
const VERSION: u32 = 2;
const CHECKSUMMED_LEN: usize = 56;
const PAGE_SIZES: std::ops::RangeInclusive<usize> = 1024..=1 << 16;

/// Whether bbolt uses this page size somewhere.
pub(crate) fn is_page_size(size: usize) -> bool {
    size.is_power_of_two() && PAGE_SIZES.contains(&size)
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

/// The first bytes of every page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageHeader {
    pub(crate) id: u64,
    pub(crate) flags: u16,
    pub(crate) count: u16,
    pub(crate) overflow: u32,
}

impl PageHeader {
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            id: u64_at(bytes, 0)?,
            flags: u16_at(bytes, 8)?,
            count: u16_at(bytes, 10)?,
            overflow: u32_at(bytes, 12)?,
        })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.overflow.to_le_bytes());
    }
}

/// A meta page's body: where everything begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) page_size: usize,
    pub(crate) root: u64,
    pub(crate) freelist: u64,
    /// The first page number never used.
    pub(crate) hwm: u64,
    pub(crate) txid: u64,
}

impl Meta {
    /// Reads the meta page at the start of `page`; `None` unless magic, version, checksum and page
    /// size are right.
    pub(crate) fn decode(page: &[u8]) -> Option<Self> {
        let body = page.get(HEADER_LEN..META_PAGE_LEN)?;
        let checksum = fnv1a(body.get(..CHECKSUMMED_LEN)?);
        let meta = Self {
            page_size: usize::try_from(u32_at(body, 8)?).ok()?,
            root: u64_at(body, 16)?,
            freelist: u64_at(body, 32)?,
            hwm: u64_at(body, 40)?,
            txid: u64_at(body, 48)?,
        };
        let is_valid = u32_at(body, 0)? == MAGIC
            && u32_at(body, 4)? == VERSION
            && u64_at(body, CHECKSUMMED_LEN)? == checksum
            && is_page_size(meta.page_size);
        is_valid.then_some(meta)
    }

    /// Appends a whole meta page: number and transaction are the same in a file just written.
    pub(crate) fn encode_page(&self, out: &mut Vec<u8>) {
        let start = out.len();
        PageHeader { id: self.txid, flags: FLAG_META, count: 0, overflow: 0 }.encode(out);
        let body = out.len();
        let page_size = u32::try_from(self.page_size).expect("page sizes are at most 64 KiB");
        for word in [MAGIC, VERSION, page_size, 0] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for word in [self.root, 0, self.freelist, self.hwm, self.txid] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        let checksum = fnv1a(out.get(body..).expect("the body was just appended"));
        out.extend_from_slice(&checksum.to_le_bytes());
        out.resize(start + self.page_size, 0);
    }
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
