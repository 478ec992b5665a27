//! The content of a batch: a header in JSON, then the entries as they lie in the members' logs.
//!
//! ```text
//! "keepdlog" | header's length (4 bytes, big-endian) | header | entries
//! entry:  term | kind | length of the data | data       numbers are varints
//! ```
//!
//! It is compressed and sealed as a backup is ([`crate::format`]).

use std::io::Read;

use bytes::Bytes;
use keepd_env::Random;
use keepd_types::limits::COMMAND_BYTES_MAX;
use keepd_types::{Entry, EntryKind, varint};
use serde::{Deserialize, Serialize};

use super::name::{BatchName, ChainName};
use crate::age::Keys;
use crate::format::{OpeningReader, Sealing, SealingReader};
use crate::sidecar::{LogFacts, MemberFacts};
use crate::{Error, Moment};

/// The format that is written; others are refused.
pub const FORMAT: u32 = 1;
const MAGIC: &[u8; 8] = b"keepdlog";
/// BOUND: bytes of entries after which a batch ends, whatever was asked for.
pub const ENTRY_BYTES_MAX: usize = 64 << 20;
/// BOUND: marks of a batch.
pub const MARKS_MAX: usize = 4096;
/// BOUND: bytes of a header: its marks, and some.
const HEADER_BYTES_MAX: usize = 4 << 20;
/// BOUND: bytes of an entry: a command and its envelope, or a change of the members.
const DATA_BYTES_MAX: usize = COMMAND_BYTES_MAX + (1 << 20);
/// BOUND: bytes of a batch that is opened: one whole entry may follow what ends it.
const CONTENT_BYTES_MAX: usize = ENTRY_BYTES_MAX + DATA_BYTES_MAX + HEADER_BYTES_MAX;
/// BOUND: bytes of an object that is read: sealing and what does not compress add little.
pub const OBJECT_BYTES_MAX: usize = CONTENT_BYTES_MAX + CONTENT_BYTES_MAX / 64;

/// A batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The facts about it.
    pub header: Header,
    /// Its entries, without a gap.
    pub entries: Vec<Entry>,
}

/// The facts about a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The format.
    pub format: u32,
    /// The cluster's id, in hexadecimal.
    pub cluster_id: String,
    /// The chain's name.
    pub chain: String,
    /// Its own name.
    pub name: String,
    /// Its place in the chain.
    pub after: After,
    /// The member that shipped it.
    pub member: MemberFacts,
    /// The program that made it.
    pub made_by: String,
    /// States of the member, in the order of the log.
    pub marks: Vec<MarkFacts>,
}

/// The place of a batch in its chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum After {
    /// The first one, and why a chain begins here.
    Begin(String),
    /// One behind another.
    Batch {
        /// The name of that one.
        name: String,
        /// SHA-256 of its object, in hexadecimal.
        sha256: String,
    },
}

/// The state of a member at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarkFacts {
    /// The moment, by the member's clock.
    pub time: Moment,
    /// The place in the log.
    pub at: LogFacts,
    /// The revision.
    pub revision: i64,
}

/// Encodes and seals a batch: the bytes of its object.
///
/// # Errors
/// If there is nobody to seal it to.
pub fn seal(batch: &Batch, sealing: &Sealing, random: &dyn Random) -> Result<Vec<u8>, Error> {
    let content = encode(batch);
    let mut object = Vec::new();
    let mut reader = SealingReader::new(content.as_slice(), sealing, random)?;
    reader.read_to_end(&mut object).map_err(Error::reading)?;
    Ok(object)
}

fn encode(batch: &Batch) -> Vec<u8> {
    let header = serde_json::to_vec(&batch.header).expect("facts can be told in JSON");
    let len = u32::try_from(header.len()).expect("a header is bounded");
    let mut out = [MAGIC.as_slice(), &len.to_be_bytes(), &header].concat();
    for entry in &batch.entries {
        varint::write_u64(entry.term, &mut out);
        varint::write_u64(u64::from(entry.kind.number()), &mut out);
        varint::write_u64(entry.data.len() as u64, &mut out);
        out.extend_from_slice(&entry.data);
    }
    out
}

/// Opens the object of a batch and compares it with its name.
///
/// # Errors
/// If no key opens it, or it is another batch, or damaged.
pub fn open(
    cluster: u64,
    chain: &ChainName,
    name: &BatchName,
    object: &[u8],
    keys: &Keys,
) -> Result<Batch, Error> {
    let mut reader = OpeningReader::new(object, name.is_sealed, keys, CONTENT_BYTES_MAX as u64)?;
    let mut content = Vec::new();
    reader.read_to_end(&mut content).map_err(Error::reading)?;
    reader.finish()?;
    let fault = |reason: &str| Error::Batch { name: name.to_string(), reason: reason.to_owned() };
    let (header, rest) = split(content.into()).ok_or_else(|| fault("it is no batch of a log"))?;
    let header: Header = serde_json::from_slice(&header).map_err(|it| fault(&it.to_string()))?;
    check(cluster, chain, name, &header).map_err(fault)?;
    let entries = read_entries(name, rest).ok_or_else(|| fault("its entries are malformed"))?;
    Ok(Batch { header, entries })
}

fn split(content: Bytes) -> Option<(Bytes, Bytes)> {
    let rest = content.strip_prefix(MAGIC)?;
    let len = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?);
    let len = usize::try_from(len).ok().filter(|len| *len <= HEADER_BYTES_MAX)?;
    let begin = MAGIC.len() + 4;
    let end = begin.checked_add(len).filter(|end| *end <= content.len())?;
    Some((content.slice(begin..end), content.slice(end..)))
}

fn check(
    cluster: u64,
    chain: &ChainName,
    name: &BatchName,
    header: &Header,
) -> Result<(), &'static str> {
    let is_within = |mark: &MarkFacts| {
        mark.at.since == chain.since && (name.first - 1..=name.last).contains(&mark.at.index)
    };
    let last = header.marks.last().map(|mark| mark.revision);
    let is_begin = matches!(header.after, After::Begin(_));
    let in_order = header.marks.is_sorted_by_key(|mark| mark.at.index);
    let checks = [
        (
            header.format == FORMAT,
            "its format is another: use the program that made it, or a newer one",
        ),
        (header.cluster_id == format!("{cluster:016x}"), "it is of another cluster"),
        (header.chain == chain.to_string(), "it is of another chain of the log"),
        (header.name == name.to_string(), "it is another batch than its name says"),
        (is_begin == (name.number == 0), "its number contradicts its place"),
        (header.marks.len() <= MARKS_MAX, "it has too many marks"),
        (in_order && header.marks.iter().all(is_within), "its marks are not those of its entries"),
        (last.is_none_or(|last| last == name.revision), "its revision is not the one of the name"),
    ];
    checks.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, reason)| Err(reason))
}

fn read_entries(name: &BatchName, content: Bytes) -> Option<Vec<Entry>> {
    let mut rest: &[u8] = &content;
    let mut entries = Vec::new();
    for index in name.first..=name.last {
        let term = varint::read_u64(&mut rest)?;
        let kind = u8::try_from(varint::read_u64(&mut rest)?).ok();
        let kind = EntryKind::from_number(kind?)?;
        let len = usize::try_from(varint::read_u64(&mut rest)?).ok();
        let len = len.filter(|len| *len <= DATA_BYTES_MAX)?;
        let at = content.len() - rest.len();
        rest = rest.get(len..)?;
        entries.push(Entry { index, term, kind, data: content.slice(at..at + len) });
    }
    let is_last = entries.last().is_none_or(|last| last.term == name.term);
    (rest.is_empty() && is_last).then_some(entries)
}
