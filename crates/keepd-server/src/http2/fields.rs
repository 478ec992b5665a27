//! Finds fields that the library rejects, and rewrites header blocks so that it accepts them.

use http::Method;
use http::uri::{Authority, PathAndQuery};

use super::hpack::{Field, FieldList, write_literal};
use super::{METHOD, PATH};

/// The treatment of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// It is passed on.
    Fine,
    /// It ends a stream in the library and means nothing to gRPC, so it is left out; or it is one of
    /// our own, which no client may send.
    Dropped,
    /// It ends its stream.
    Bad,
    /// It is defined by HTTP/2 itself; whether the library accepts its value.
    Pseudo(Pseudo, bool),
}

/// The fields of a request that HTTP/2 itself defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pseudo {
    Method,
    Scheme,
    Authority,
    Path,
}

/// The treatment of a header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The library accepts it.
    Pass,
    /// The library accepts it after a rewrite.
    Mend,
    /// Its stream, and nothing else, has to end with PROTOCOL_ERROR.
    Refuse,
}

impl Class {
    pub(super) fn of(name: &[u8], value: &[u8]) -> Self {
        if !is_value(value) {
            return Self::Bad;
        }
        match name {
            b":method" => Self::Pseudo(Pseudo::Method, is_method(value)),
            b":scheme" => Self::Pseudo(Pseudo::Scheme, value == b"http" || value == b"https"),
            b":authority" => Self::Pseudo(Pseudo::Authority, is_authority(value)),
            b":path" => Self::Pseudo(Pseudo::Path, is_path(value)),
            b"te" if value == b"trailers" => Self::Fine,
            b"te" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
                Self::Dropped
            }
            // The data shows later whether it is wrong, and a wrong one ends the stream.
            b"content-length" => Self::Dropped,
            _ if name == PATH.as_bytes() || name == METHOD.as_bytes() => Self::Dropped,
            _ if is_name(name) => Self::Fine,
            _ => Self::Bad,
        }
    }
}

/// Judges a block; it is that of a request or of trailers.
pub(super) fn judge(list: &FieldList, is_request: bool) -> Verdict {
    if list.is_over {
        return Verdict::Refuse;
    }
    let (mut seen, mut is_past, mut mends) = ([false; 4], false, false);
    for field in &list.fields {
        match field.class {
            Class::Fine => is_past = true,
            Class::Dropped => (is_past, mends) = (true, true),
            Class::Bad => return Verdict::Refuse,
            Class::Pseudo(pseudo, is_taken) => {
                // It comes twice, or after ordinary fields.
                if is_past || std::mem::replace(&mut seen[pseudo as usize], true) {
                    return Verdict::Refuse;
                }
                mends |= !is_taken;
            }
        }
    }
    let [method, scheme, _authority, path] = seen;
    mends |= is_request && !(method && scheme && path);
    if mends { Verdict::Mend } else { Verdict::Pass }
}

/// The block to give to the library instead.
pub(super) fn write(list: &FieldList, verdict: Verdict, is_request: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut field = |name: &str, value: &[u8]| write_literal(name.as_bytes(), value, &mut out);
    if verdict == Verdict::Refuse {
        if is_request {
            field(":method", b"POST");
            field(":scheme", b"http");
            field(":path", b"/");
        }
        // The library ends a stream for this, and only the stream.
        field("connection", b"close");
        return out;
    }
    if is_request {
        let (method, method_is_taken) = find(list, Pseudo::Method);
        let (scheme, scheme_is_taken) = find(list, Pseudo::Scheme);
        let (authority, authority_is_taken) = find(list, Pseudo::Authority);
        let (path, path_is_taken) = find(list, Pseudo::Path);
        field(":method", if method_is_taken { method } else { b"POST" });
        field(":scheme", if scheme_is_taken { scheme } else { b"http" });
        if authority_is_taken {
            field(":authority", authority);
        }
        field(":path", if path_is_taken { path } else { b"/" });
        if !method_is_taken {
            field(METHOD, method);
        }
        if !path_is_taken {
            field(PATH, path);
        }
    }
    let rest = list.fields.iter().filter(|field| field.class == Class::Fine);
    rest.for_each(|field| write_literal(&field.name, &field.value, &mut out));
    out
}

/// The value of a field, and whether the library accepts it.
fn find(list: &FieldList, wanted: Pseudo) -> (&[u8], bool) {
    let find = |field: &'_ Field| match field.class {
        Class::Pseudo(pseudo, is_taken) => (pseudo == wanted).then_some(is_taken),
        Class::Fine | Class::Dropped | Class::Bad => None,
    };
    let found = list.fields.iter().find_map(|field| Some((&field.value[..], find(field)?)));
    found.unwrap_or_default()
}

fn is_name(name: &[u8]) -> bool {
    let is_token = |byte: &u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(byte)
    };
    !name.is_empty() && name.iter().all(is_token)
}

fn is_value(value: &[u8]) -> bool {
    value.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f))
}

fn is_method(method: &[u8]) -> bool {
    // The library takes no path with CONNECT.
    method == b"POST" || (method != b"CONNECT" && Method::from_bytes(method).is_ok())
}

fn is_authority(authority: &[u8]) -> bool {
    Authority::try_from(authority).is_ok()
}

fn is_path(path: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/.-_".contains(byte);
    if path.first() == Some(&b'/') && path.iter().all(is_plain) {
        return true;
    }
    // The library drops a fragment, and ends the connection for bytes that are no text.
    !path.is_empty()
        && !path.contains(&b'#')
        && std::str::from_utf8(path).is_ok()
        && PathAndQuery::try_from(path).is_ok()
}
