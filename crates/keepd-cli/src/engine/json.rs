//! JSON as Go's `encoding/json` writes etcd's answers: one line, zero fields left out.
//!
//! The names come from etcd's protobuf structs, so 64-bit numbers are plain numbers and bytes are
//! base64, unlike the gateway's JSON. Like Go, `<`, `>` and `&` are written as escapes.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keepd_api::etcdserverpb::ResponseHeader;
use keepd_api::mvccpb::KeyValue;

/// An object under construction.
#[derive(Debug, Default)]
pub(crate) struct Object {
    fields: String,
}

/// Writes a string with Go's escapes.
pub(crate) fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                write!(out, "\\u{:04x}", u32::from(c)).expect("a string takes everything");
            }
            _ => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Writes bytes as a base64 string.
pub(crate) fn bytes(bytes: &[u8]) -> String {
    format!("\"{}\"", STANDARD.encode(bytes))
}

/// Writes a list of what is written already.
pub(crate) fn array(items: impl IntoIterator<Item = String>) -> String {
    let items: Vec<String> = items.into_iter().collect();
    format!("[{}]", items.join(","))
}

impl Object {
    /// An object without fields.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A field that is always written, its value written already.
    pub(crate) fn always(mut self, name: &str, value: &str) -> Self {
        if !self.fields.is_empty() {
            self.fields.push(',');
        }
        write!(self.fields, "\"{name}\":{value}").expect("a string takes everything");
        self
    }

    /// A field that is written unless `zero`.
    fn unless(self, zero: bool, name: &str, value: impl FnOnce() -> String) -> Self {
        if zero { self } else { self.always(name, &value()) }
    }

    /// A number; 0 is left out.
    pub(crate) fn int(self, name: &str, value: i64) -> Self {
        self.unless(value == 0, name, || value.to_string())
    }

    /// A number; 0 is left out.
    pub(crate) fn uint(self, name: &str, value: u64) -> Self {
        self.unless(value == 0, name, || value.to_string())
    }

    /// A claim; false is left out.
    pub(crate) fn bool(self, name: &str, value: bool) -> Self {
        self.unless(!value, name, || "true".to_owned())
    }

    /// A text; the empty one is left out.
    pub(crate) fn text(self, name: &str, value: &str) -> Self {
        self.unless(value.is_empty(), name, || string(value))
    }

    /// Bytes; none are left out.
    pub(crate) fn bytes(self, name: &str, value: &[u8]) -> Self {
        self.unless(value.is_empty(), name, || bytes(value))
    }

    /// A list of texts; the empty one is left out.
    pub(crate) fn texts(self, name: &str, values: &[String]) -> Self {
        self.unless(values.is_empty(), name, || array(values.iter().map(|text| string(text))))
    }

    /// A list of what `write` makes of each value; the empty one is left out.
    pub(crate) fn list<T>(self, name: &str, values: &[T], write: impl Fn(&T) -> String) -> Self {
        self.unless(values.is_empty(), name, || array(values.iter().map(write)))
    }

    /// An object within; none is left out.
    pub(crate) fn object<T>(
        self,
        name: &str,
        value: Option<&T>,
        write: impl Fn(&T) -> Self,
    ) -> Self {
        match value {
            Some(value) => self.always(name, &write(value).end()),
            None => self,
        }
    }

    /// The fields of another object, written into this one.
    pub(crate) fn inlined(mut self, other: &Self) -> Self {
        if !self.fields.is_empty() && !other.fields.is_empty() {
            self.fields.push(',');
        }
        self.fields.push_str(&other.fields);
        self
    }

    /// The finished text.
    pub(crate) fn end(&self) -> String {
        format!("{{{}}}", self.fields)
    }
}

/// A response header.
pub(crate) fn header(header: &ResponseHeader) -> Object {
    Object::new()
        .uint("cluster_id", header.cluster_id)
        .uint("member_id", header.member_id)
        .int("revision", header.revision)
        .uint("raft_term", header.raft_term)
}

/// A pair with its history marks.
pub(crate) fn key_value(kv: &KeyValue) -> Object {
    Object::new()
        .bytes("key", &kv.key)
        .int("create_revision", kv.create_revision)
        .int("mod_revision", kv.mod_revision)
        .int("version", kv.version)
        .bytes("value", &kv.value)
        .int("lease", kv.lease)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_fields_are_left_out_and_html_is_escaped() {
        let object = Object::new()
            .int("a", 0)
            .text("b", "<x>&\u{1}\"")
            .bool("c", false)
            .bytes("d", b"foo")
            .texts("e", &["u".to_owned()])
            .always("f", "null");
        assert_eq!(
            object.end(),
            r#"{"b":"\u003cx\u003e\u0026\u0001\"","d":"Zm9v","e":["u"],"f":null}"#
        );
        assert_eq!(Object::new().inlined(&object).end(), object.end());
    }
}
