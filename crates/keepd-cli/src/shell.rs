//! Quoting for command lines that people paste into a shell.

use std::env;
use std::path::Path;

/// Quotes a word for a shell, if it must be quoted.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The word by which a shell calls this program: its name if that finds it, its path otherwise.
pub fn this_program() -> String {
    const NAME: &str = "keepd";
    let Ok(program) = env::current_exe() else { return NAME.to_owned() };
    let found = env::var_os("PATH").and_then(|path| {
        env::split_paths(&path).map(|dir| dir.join(NAME)).find(|candidate| candidate.is_file())
    });
    let is_found = found.is_some_and(|found| is_same_file(&found, &program));
    // A copy under the name of one of etcd's programs is that program.
    let goes_by_a_tools_name =
        program.file_name().and_then(|name| name.to_str()).is_some_and(|n| n.starts_with("etcd"));
    if is_found || goes_by_a_tools_name {
        return NAME.to_owned();
    }
    quoted(&program.display().to_string())
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_with_spaces_and_quotes_are_quoted_for_a_shell() {
        assert_eq!(quoted("/a/b-c.d"), "/a/b-c.d");
        assert_eq!(quoted("/a b"), "'/a b'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted(""), "''");
    }
}
