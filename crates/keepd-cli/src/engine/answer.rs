//! Output formats: what an answer looks like in each, and which answers have which.
//!
//! Every answer has `simple` and `json`. The others are refused with etcdctl's text where an
//! answer does not have them, which is after the request was carried out: scripts see the effect
//! and the error.

use keepd_api::etcdserverpb::ResponseHeader;
use keepd_api::mvccpb::KeyValue;
use keepd_gotext::quote;

use super::exit::{BAD_FEATURE, Exit};
pub(crate) use crate::output::{complain, print};

/// A value of `--write-out`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Format {
    /// Lines for people.
    Simple,
    /// One `"Name" : value` line per field.
    Fields,
    /// One line of JSON.
    Json,
    /// The bytes of the response.
    Protobuf,
    /// A drawn table.
    Table,
}

impl Format {
    /// Reads the option's value.
    pub(crate) fn parse(name: &str) -> Result<Self, Exit> {
        Ok(match name {
            "simple" => Self::Simple,
            "fields" => Self::Fields,
            "json" => Self::Json,
            "protobuf" => Self::Protobuf,
            "table" => Self::Table,
            _ => return Err(Exit::new(BAD_FEATURE, "unsupported output format")),
        })
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Fields => "fields",
            Self::Json => "json",
            Self::Protobuf => "protobuf",
            Self::Table => "table",
        }
    }

    /// The refusal of this format.
    pub(crate) fn unsupported(self) -> Exit {
        Exit::new(BAD_FEATURE, format_args!("{} not supported as output format", self.name()))
    }
}

/// The format of answers, with its options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    /// The format.
    pub(crate) format: Format,
    /// Whether byte strings and ids are written in hexadecimal.
    pub(crate) hex: bool,
    /// Whether pairs are written without their keys.
    pub(crate) values_only: bool,
}

/// Something a command answers with.
pub(crate) trait Answer {
    /// The format for people.
    fn simple(&self, style: Style, out: &mut Vec<u8>);
    /// One line of JSON, without its end.
    fn json(&self, style: Style) -> String;
    /// The fields, where there are any.
    fn fields(&self, _style: Style, _out: &mut Vec<u8>) -> Result<(), Exit> {
        Err(Format::Fields.unsupported())
    }
    /// The encoded response.
    fn protobuf(&self) -> Result<Vec<u8>, Exit> {
        Err(Format::Protobuf.unsupported())
    }
    /// The table.
    fn table(&self) -> Result<String, Exit> {
        Err(Format::Table.unsupported())
    }
}

/// Writes an answer in the wanted format.
pub(crate) fn render(answer: &dyn Answer, style: Style) -> Result<Vec<u8>, Exit> {
    let mut out = Vec::new();
    match style.format {
        Format::Simple => answer.simple(style, &mut out),
        Format::Fields => answer.fields(style, &mut out)?,
        Format::Json => {
            out.extend_from_slice(answer.json(style).as_bytes());
            out.push(b'\n');
        }
        Format::Protobuf => out = answer.protobuf()?,
        Format::Table => out.extend_from_slice(answer.table()?.as_bytes()),
    }
    Ok(out)
}

/// Writes an answer to standard output in the wanted format.
pub(crate) fn show(answer: &dyn Answer, style: Style) -> Result<(), Exit> {
    print(&render(answer, style)?);
    Ok(())
}

/// Adds a line.
macro_rules! line {
    ($out:expr, $($text:tt)*) => {{
        use std::io::Write as _;
        writeln!($out, $($text)*).expect("a vector takes everything");
    }};
}
pub(crate) use line;

/// A pair as `simple` writes it: the key's line and the value's line.
pub(crate) fn simple_pair(kv: &KeyValue, style: Style, out: &mut Vec<u8>) {
    let mut write = |bytes: &[u8]| {
        if style.hex {
            for byte in bytes {
                out.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
            }
        } else {
            out.extend_from_slice(bytes);
        }
        out.push(b'\n');
    };
    if !style.values_only {
        write(&kv.key);
    }
    write(&kv.value);
}

/// A pair as `fields` writes it, each name after `prefix`.
pub(crate) fn field_pair(prefix: &str, kv: &KeyValue, style: Style, out: &mut Vec<u8>) {
    line!(out, "\"{prefix}Key\" : {}", quote(&kv.key));
    line!(out, "\"{prefix}CreateRevision\" : {}", kv.create_revision);
    line!(out, "\"{prefix}ModRevision\" : {}", kv.mod_revision);
    line!(out, "\"{prefix}Version\" : {}", kv.version);
    line!(out, "\"{prefix}Value\" : {}", quote(&kv.value));
    if style.hex {
        line!(out, "\"{prefix}Lease\" : {}", lease_hex(kv.lease));
    } else {
        line!(out, "\"{prefix}Lease\" : {}", kv.lease);
    }
}

/// A header as `fields` writes it. Answers of the Cluster service have no revision.
pub(crate) fn field_header(header: Option<&ResponseHeader>, style: Style, out: &mut Vec<u8>) {
    let header = header.copied().unwrap_or_default();
    line!(out, "\"ClusterID\" : {}", id(header.cluster_id, style));
    line!(out, "\"MemberID\" : {}", id(header.member_id, style));
    if header.revision > 0 {
        line!(out, "\"Revision\" : {}", header.revision);
    }
    line!(out, "\"RaftTerm\" : {}", header.raft_term);
}

/// A cluster or member id as `fields` writes it.
pub(crate) fn id(id: u64, style: Style) -> String {
    if style.hex { format!("{id:x}") } else { id.to_string() }
}

/// A lease id in hexadecimal, sixteen places wide with its sign, as Go's `%016x`.
pub(crate) fn lease_hex(lease: i64) -> String {
    if lease < 0 { format!("-{:015x}", lease.unsigned_abs()) } else { format!("{lease:016x}") }
}
