//! Rules about words: how a doc comment begins, and what a file or type must not be called.

use super::File;
use super::rust::product_tokens;

/// First words of a doc comment that ask where a noun or a verb should say.
const QUESTIONS: &[&str] = &["What", "Who", "Whose", "Where", "How", "Why"];

/// Private words: the field has a better one (docs/glossary.md).
const PRIVATE: &[&str] =
    &["room", "turns", "answers", "apart", "slips", "wish", "company", "remember"];

/// Words that say too little as a whole name; as a part of one they may be the field's.
const VAGUE: &[&str] = &["words"];

/// The number of doc comments of a file that begin with a question.
pub(super) fn questions(text: &str) -> usize {
    let mut before = false;
    let mut found = 0;
    for line in text.lines() {
        let line = line.trim_start();
        let comment = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"));
        if let Some(first) = comment.filter(|_| !before).and_then(|c| c.split_whitespace().next()) {
            found += usize::from(QUESTIONS.contains(&first));
        }
        before = comment.is_some();
    }
    found
}

/// The private words in the name of a file and of the types that it defines.
pub(super) fn private_names(file: &File) -> Vec<String> {
    let mut names = Vec::new();
    let stem = file.path.rsplit('/').next().and_then(|name| name.strip_suffix(".rs"));
    names.extend(stem.map(str::to_owned));
    for pair in product_tokens(file.text().unwrap_or_default()).windows(2) {
        if let ["struct" | "enum" | "trait" | "type", name] = pair {
            names.push((*name).to_owned());
        }
    }
    names.retain(|name| {
        let is_vague = VAGUE.contains(&name.to_lowercase().as_str());
        is_vague || parts(name).iter().any(|part| PRIVATE.contains(&part.as_str()))
    });
    names
}

/// The words that a `snake_case` or `CamelCase` name is made of.
fn parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for c in name.chars() {
        if c == '_' || c.is_uppercase() {
            parts.push(String::new());
        }
        if c != '_' {
            parts.last_mut().expect("there is one from the start").extend(c.to_lowercase());
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::{File, private_names, questions};

    #[test]
    fn only_the_beginning_of_a_comment_counts() {
        let text = "//! What it is.\n//! How it works.\n\n/// The number.\n/// Where it is.\nfn a() {}\n\
                    /// Whether it is.\n// Why.\n";
        assert_eq!(questions(text), 1);
    }

    #[test]
    fn a_private_word_is_found_as_a_part_of_a_name() {
        let file = |path: &str, text: &str| File { path: path.to_owned(), bytes: text.into() };
        let found = private_names(&file("crates/a/src/room.rs", "pub struct RoomMaker;\n"));
        assert_eq!(found, ["room", "RoomMaker"]);
        let text = "// a struct Room\nstruct Broom { turns: u64 }\nenum ShellWords {}\n";
        assert_eq!(private_names(&file("crates/a/src/classroom.rs", text)), [""; 0]);
    }
}
