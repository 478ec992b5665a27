//! Strict reading of a tree: unknown and repeated fields and wrong types are errors, collected with
//! their paths.

use std::borrow::Cow;

use super::error::FieldError;
use super::tree::Node;

/// Reads nodes and collects their faults.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) errors: Vec<FieldError>,
}

impl Reader {
    pub(super) fn required(&mut self, path: &str, detail: &str, remedy: &str) {
        self.push(path, format!("Required value: {detail}"), remedy);
    }

    pub(super) fn invalid(&mut self, path: &str, value: &str, detail: &str, remedy: &str) {
        self.push(path, format!("Invalid value: {:?}: {detail}", shown(value)), remedy);
    }

    /// An invalid value that is a mapping, hence not repeated in the message.
    pub(super) fn invalid_mapping(&mut self, path: &str, detail: &str, remedy: &str) {
        self.push(path, format!("Invalid value: {detail}"), remedy);
    }

    fn push(&mut self, path: &str, message: String, remedy: &str) {
        self.errors.push(FieldError { path: path.to_owned(), message, remedy: remedy.to_owned() });
    }

    fn wrong_type(&mut self, path: &str, expected: &str, found: &Node, remedy: &str) {
        let message = format!("expected {expected}, found {}", found.description());
        self.push(path, message, remedy);
    }

    /// The known fields of a mapping, in the order of `known`; nothing if it is no mapping. An
    /// absent mapping has no fields, and a field without a value is an absent one.
    pub(super) fn fields<'n, const N: usize>(
        &mut self,
        path: &str,
        node: &'n Node,
        known: [&str; N],
    ) -> Option<[Option<&'n Node>; N]> {
        let entries = match node {
            Node::Map(entries) => entries.as_slice(),
            Node::Null => &[],
            other => {
                let remedy = format!("write it as a mapping with {}", list_of(&known));
                self.wrong_type(path, "a mapping", other, &remedy);
                return None;
            }
        };
        let mut found = [None; N];
        let mut seen = [false; N];
        for (field, value) in entries {
            let Node::Text(field) = field else {
                self.wrong_type(path, "a field name", field, "quote it if it is one");
                continue;
            };
            let slot = known.iter().zip(found.iter_mut().zip(&mut seen));
            match slot.into_iter().find(|(name, _)| **name == field.as_str()) {
                Some((name, (_, true))) => self.repeated(&join(path, name)),
                Some((_, (slot, seen))) => {
                    *seen = true;
                    *slot = Some(value).filter(|value| !matches!(value, Node::Null));
                }
                None => self.unknown(&join(path, &shown_field(field)), field, &known),
            }
        }
        Some(found)
    }

    fn repeated(&mut self, path: &str) {
        let message = format!("strict decoding error: duplicate field {path:?}");
        self.push("", message, "keep one of the two");
    }

    fn unknown(&mut self, path: &str, field: &str, known: &[&str]) {
        let message = format!("strict decoding error: unknown field {path:?}");
        let remedy = match nearest(field, known) {
            Some(name) => format!("did you mean `{name}`? names are case-sensitive"),
            None if known.is_empty() => "write nothing between its braces: {}".to_owned(),
            None => format!("the fields here are {}", list_of(known)),
        };
        self.push("", message, &remedy);
    }

    /// The entries of a list; empty if absent.
    pub(super) fn list<'n>(&mut self, path: &str, node: Option<&'n Node>) -> Option<&'n [Node]> {
        match node {
            None => Some(&[]),
            Some(Node::List(entries)) => Some(entries),
            Some(other) => {
                self.wrong_type(path, "a list", other, "begin each entry with `- `");
                None
            }
        }
    }

    /// A text; empty if absent.
    pub(super) fn text<'n>(&mut self, path: &str, node: Option<&'n Node>) -> Option<&'n str> {
        match node {
            None | Some(Node::Null) => Some(""),
            Some(Node::Text(text)) => Some(text.as_str()),
            Some(other) => {
                self.wrong_type(path, "a text", other, "put it in quotes");
                None
            }
        }
    }

    /// A whole number, if present and one.
    pub(super) fn integer(&mut self, path: &str, node: Option<&Node>) -> Option<i64> {
        match node? {
            Node::Integer(number) => Some(*number),
            other => {
                self.wrong_type(path, "a whole number", other, "write it in digits, unquoted");
                None
            }
        }
    }
}

/// The path of a field.
pub(super) fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

/// A text of the file in an error. Anything may be a secret that was pasted into the wrong place, so
/// it is repeated only if it cannot be one: it reads like a name.
pub(super) fn shown(text: &str) -> Cow<'_, str> {
    const NAME_MAX: usize = 100;
    const WORD_MAX: usize = 24;
    const DIGITS_MAX: usize = 4;
    let is_mark = |char: char| " .-*:/".contains(char);
    let digits = text.chars().filter(char::is_ascii_digit).count();
    // A key of 16 bytes in base64 has 24 characters, in hexadecimal 32; either has many digits, or
    // capital letters and an equals sign.
    let is_name = text.len() <= NAME_MAX
        && digits <= DIGITS_MAX
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || is_mark(c));
    let is_word = text.chars().count() < WORD_MAX
        && digits == 0
        && text.chars().all(|c| c.is_alphanumeric() || is_mark(c) || !c.is_ascii());
    if is_name || is_word {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("({} characters, not shown: it may be a secret)", text.chars().count()))
}

/// An unknown field in an error. Where a space is missing the field is a secret with its name in
/// front, so only what precedes a colon is looked at.
fn shown_field(field: &str) -> Cow<'_, str> {
    match field.split_once(':') {
        Some((name, _)) => Cow::Owned(format!("{}:...", shown(name))),
        None => shown(field),
    }
}

fn list_of(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The known name that was probably meant: another case, or at most two slips away.
fn nearest<'a>(field: &str, known: &[&'a str]) -> Option<&'a str> {
    let (field, slips_max) = (field.to_lowercase(), field.len().min(6) / 3);
    let distances = known.iter().map(|name| (distance(&field, &name.to_lowercase()), *name));
    distances.min().filter(|(distance, _)| *distance <= slips_max).map(|(_, name)| name)
}

/// Levenshtein's distance: insertions, deletions and replacements of bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (y, above) in b.bytes().zip(row.iter().skip(1)) {
            left = (left + 1).min(above + 1).min(diagonal + usize::from(x != y));
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(a.len())
}
