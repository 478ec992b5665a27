//! Decoding of HTTP/2's header blocks (HPACK, RFC 7541).
//!
//! Only what following a connection takes: the table of fields that the client refers to, and the
//! list of fields of each block. The list is bounded; what a block holds beyond that is followed in
//! the table and left out of the list.

use std::collections::VecDeque;
use std::sync::LazyLock;

use bytes::Bytes;

use super::FIELD_BYTES_MAX;
use super::fields::Class;
use super::huffman;

/// The size of the table, as fields are counted: the default, which the library announces.
const TABLE_BYTES_MAX: usize = 4096;
/// Bytes that a field counts beside its name and value.
const FIELD_OVERHEAD: usize = 32;
/// BOUND: lists from this size on are at most this many times as large as their block. The table holds
/// 4 KiB, so that only a list of one field over and over is larger.
const LARGE_LIST_BYTES: usize = 64 * 1024;
const LARGE_LIST_RATIO: usize = 8;

/// A list's buffer that has more room than this is not kept.
const KEPT_FIELDS_MAX: usize = 64;

/// A block that breaks HPACK's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// A field, and what is to be done with it: looked at once, however often the client refers to it.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) name: Bytes,
    pub(super) value: Bytes,
    pub(super) class: Class,
}

impl Field {
    fn new(name: Bytes, value: Bytes) -> Self {
        let class = Class::of(&name, &value);
        Self { name, value, class }
    }

    const fn size(&self) -> usize {
        self.name.len() + self.value.len() + FIELD_OVERHEAD
    }
}

/// The fields of one block, in their order.
#[derive(Debug, Default)]
pub(super) struct FieldList {
    pub(super) fields: Vec<Field>,
    counted_bytes: usize,
    /// Whether fields were left out because they are too many.
    pub(super) is_over: bool,
}

impl FieldList {
    /// An empty list in a buffer.
    pub(super) fn new(fields: Vec<Field>) -> Self {
        Self { fields, ..Self::default() }
    }

    /// The buffer for the next list, unless it has grown.
    pub(super) fn into_empty(mut self) -> Vec<Field> {
        self.fields.clear();
        if self.fields.capacity() > KEPT_FIELDS_MAX { Vec::new() } else { self.fields }
    }

    fn push(&mut self, field: &Field, bytes_max: usize) {
        self.counted_bytes += field.size();
        self.is_over |= self.counted_bytes > bytes_max;
        if !self.is_over {
            self.fields.push(field.clone());
        }
    }
}

/// The state of one direction of a connection.
#[derive(Debug)]
pub(super) struct Decoder {
    /// The newest first.
    table: VecDeque<Field>,
    size: usize,
    size_max: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: VecDeque::new(), size: 0, size_max: TABLE_BYTES_MAX }
    }
}

impl Decoder {
    /// Decodes a whole block into `list`, which is empty.
    pub(super) fn decode(&mut self, block: &[u8], list: &mut FieldList) -> Result<(), Malformed> {
        let bytes_max = LARGE_LIST_BYTES.max(block.len() * LARGE_LIST_RATIO);
        let bytes_max = bytes_max.min(FIELD_BYTES_MAX as usize);
        let mut input = Input(block);
        while let Some(&first) = input.0.first() {
            if first & 0x80 != 0 {
                list.push(self.field(input.int(7)?)?, bytes_max);
            } else if first & 0xc0 == 0x40 {
                let field = self.literal(6, &mut input)?;
                list.push(&field, bytes_max);
                self.size += field.size();
                self.table.push_front(field);
                self.evict();
            } else if first & 0xe0 == 0x20 {
                let size_max = input.int(5)?;
                if size_max > TABLE_BYTES_MAX {
                    return Err(Malformed);
                }
                self.size_max = size_max;
                self.evict();
            } else {
                list.push(&self.literal(4, &mut input)?, bytes_max);
            }
        }
        Ok(())
    }

    /// A field written out, at least its value.
    fn literal(&self, prefix_bits: u32, input: &mut Input<'_>) -> Result<Field, Malformed> {
        let name = match input.int(prefix_bits)? {
            0 => input.string()?,
            index => self.field(index)?.name.clone(),
        };
        Ok(Field::new(name, input.string()?))
    }

    /// A field of the fixed or of the connection's own table.
    fn field(&self, index: usize) -> Result<&Field, Malformed> {
        let index = index.checked_sub(1).ok_or(Malformed)?;
        match FIXED.get(index) {
            Some(field) => Ok(field),
            None => self.table.get(index - FIXED.len()).ok_or(Malformed),
        }
    }

    fn evict(&mut self) {
        while self.size > self.size_max {
            let Some(oldest) = self.table.pop_back() else { return };
            self.size -= oldest.size();
        }
    }
}

/// The rest of a block.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    /// An integer that begins in the low bits of the next byte.
    fn int(&mut self, prefix_bits: u32) -> Result<usize, Malformed> {
        let mask = (1 << prefix_bits) - 1;
        let mut value = usize::from(self.byte()?) & mask;
        if value < mask {
            return Ok(value);
        }
        // BOUND: four more bytes; no length or index is longer.
        for shift in [0, 7, 14, 21] {
            let byte = usize::from(self.byte()?);
            value += (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn string(&mut self) -> Result<Bytes, Malformed> {
        let is_huffman = self.0.first().is_some_and(|first| first & 0x80 != 0);
        let length = self.int(7)?;
        let (string, rest): (&'a [u8], _) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        if is_huffman {
            return huffman::decode(string).map(Bytes::from).ok_or(Malformed);
        }
        Ok(Bytes::copy_from_slice(string))
    }
}

/// Appends a field that neither refers to a table nor enters one.
pub(super) fn write_literal(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.push(0);
    for string in [name, value] {
        let mut length = string.len();
        if length < 0x7f {
            out.push(length.to_le_bytes()[0]);
        } else {
            out.push(0x7f);
            length -= 0x7f;
            while length >= 0x80 {
                out.push(length.to_le_bytes()[0] | 0x80);
                length >>= 7;
            }
            out.push(length.to_le_bytes()[0]);
        }
        out.extend_from_slice(string);
    }
}

static FIXED: LazyLock<[Field; 61]> = LazyLock::new(|| {
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    APPENDIX_A.map(|(name, value)| Field::new(bytes(name), bytes(value)))
});

/// RFC 7541, appendix A.
#[rustfmt::skip]
const APPENDIX_A: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let hex: String = hex.split_whitespace().collect();
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
    }

    fn decode(decoder: &mut Decoder, block: &[u8]) -> Vec<(String, String)> {
        let mut list = FieldList::default();
        decoder.decode(block, &mut list).unwrap();
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        list.fields.into_iter().map(|field| (text(field.name), text(field.value))).collect()
    }

    fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// RFC 7541, appendix C.4: three requests of one connection, with Huffman codes.
    #[test]
    fn the_examples_of_the_standard_are_read() {
        let mut decoder = Decoder::default();
        let first = pairs(&[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "www.example.com"),
        ]);
        assert_eq!(
            decode(&mut decoder, &bytes("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff")),
            first
        );
        let second = [&first[..], &pairs(&[("cache-control", "no-cache")])].concat();
        assert_eq!(decode(&mut decoder, &bytes("8286 84be 5886 a8eb 1064 9cbf")), second);
        let third = pairs(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            (":authority", "www.example.com"),
            ("custom-key", "custom-value"),
        ]);
        let block = "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf";
        assert_eq!(decode(&mut decoder, &bytes(block)), third);
        assert_eq!(decoder.size, 164);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let long = "v".repeat(70_000);
        let fields = [(":path", "/a/B"), ("token", long.as_str()), ("empty", "")];
        let mut block = Vec::new();
        for (name, value) in fields {
            write_literal(name.as_bytes(), value.as_bytes(), &mut block);
        }
        assert_eq!(decode(&mut Decoder::default(), &block), pairs(&fields));
    }

    #[test]
    fn the_table_and_the_list_are_bounded() {
        let mut decoder = Decoder::default();
        // One field of nearly the size of the table, and as many references as fit.
        let mut block = vec![0x40, 1, b'a', 0x7f, 0xa1, 0x1e];
        block.resize(block.len() + 4000, b'v');
        block.resize(block.len() + 12_000, 0xbe);
        let mut list = FieldList::default();
        decoder.decode(&block, &mut list).unwrap();
        assert!(list.is_over);
        assert!(list.fields.len() <= 8 * block.len() / 4000);
        assert!(decoder.size <= TABLE_BYTES_MAX);
        // The next block is on its own again, and references still hold.
        let mut list = FieldList::default();
        decoder.decode(&[0xbe], &mut list).unwrap();
        assert!(!list.is_over);
        assert_eq!(list.fields[0].value.len(), 4000);
        // Nothing is left of a table of no size.
        decoder.decode(&[0x20], &mut list).unwrap();
        assert_eq!(decoder.decode(&[0xbe], &mut list), Err(Malformed));
    }

    #[test]
    fn hostile_bytes_are_refused_or_read_but_never_panic() {
        let mut state = 7_u64;
        for _ in 0..20_000 {
            let mut block = Vec::new();
            for _ in 0..state % 40 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                block.push(state.to_be_bytes()[0]);
            }
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let _ = Decoder::default().decode(&block, &mut FieldList::default());
        }
        for block in
            [&[0x80][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], &[0x00, 0x05], &[0x3f, 0xe2, 0x1f]]
        {
            let read = Decoder::default().decode(block, &mut FieldList::default());
            assert_eq!(read, Err(Malformed), "{block:x?}");
        }
    }
}
