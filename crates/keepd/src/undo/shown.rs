//! Keys and their differences as people and scripts see them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::state::{Content, Difference, Side};
use crate::backup::bytes;

/// A key, as it is if it is printable text.
pub(super) fn key(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => key.escape_ascii().to_string(),
    }
}

/// A difference in a line.
pub(super) fn line(difference: &Difference) -> String {
    let Difference { key: name, before, after } = difference;
    let (sign, told) = match (before, after) {
        (Some(one), Some(other)) => ('~', format!("{} -> {}", side(one), side(other))),
        (Some(one), None) => ('-', side(one)),
        (None, other) => ('+', other.as_ref().map(side).unwrap_or_default()),
    };
    format!("{sign} {}  ({told})", key(name))
}

fn side(side: &Side) -> String {
    let size = bytes(side.content.value.len() as u64);
    format!("{size} of revision {}", side.head.mod_revision)
}

/// A difference in JSON.
pub(super) fn json(difference: &Difference, with_values: bool) -> Value {
    let Difference { key, before, after } = difference;
    let side = |side: &Option<Side>| {
        side.as_ref().map(|side| {
            let mut told = content(&side.content, with_values);
            told["mod_revision"] = side.head.mod_revision.into();
            told["version"] = side.head.version.into();
            told
        })
    };
    json!({ "key": key_json(key), "before": side(before), "after": side(after) })
}

/// A content in JSON.
pub(super) fn content(content: &Content, with_value: bool) -> Value {
    let mut told = json!({ "bytes": content.value.len() });
    if content.lease != 0 {
        told["lease"] = format!("{:016x}", content.lease).into();
    }
    if with_value {
        told["value"] = STANDARD.encode(&content.value).into();
    }
    told
}

/// A key in JSON: in base64, as etcdctl has it.
pub(super) fn key_json(key: &[u8]) -> Value {
    STANDARD.encode(key).into()
}
