//! Rust source as the rules read it: tokens without comments, texts and test code.

/// The tokens of a file that are part of the product: identifiers, `::` and single characters.
/// Comments, texts and everything under `#[cfg(test)]` are left out.
pub(super) fn product_tokens(text: &str) -> Vec<&str> {
    without_tests(tokens(text))
}

fn tokens(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(len) = literal_len(rest) {
            len
        } else if is_word(first) {
            let len = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            found.push(&rest[..len]);
            len
        } else {
            let len = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            if !first.is_whitespace() {
                found.push(&rest[..len]);
            }
            len
        };
        rest = &rest[len..];
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The length of the text or character that `rest` begins with.
fn literal_len(rest: &str) -> Option<usize> {
    let prefix = rest.find(|c| !matches!(c, 'b' | 'c' | 'r')).filter(|len| *len <= 2)?;
    let (kind, body) = rest.split_at(prefix);
    let hashes = body.len() - body.trim_start_matches('#').len();
    if kind.contains('r') && body[hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let start = hashes + 1;
        let len = body[start..].find(&end).map_or(body.len(), |at| start + at + end.len());
        return Some(prefix + len);
    }
    let quote = body.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut chars = body.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == '\\' {
            chars.next();
        } else if c == quote {
            return Some(prefix + at + 1);
        } else if quote == '\'' && at > 1 && !body.starts_with("'\\") {
            // A lifetime: one character without a quote after it.
            return None;
        }
    }
    Some(rest.len())
}

/// Leaves out each item after `#[cfg(test)]`, up to its closing brace or semicolon.
fn without_tests(tokens: Vec<&str>) -> Vec<&str> {
    const TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at..].starts_with(&TEST) {
            at += TEST.len();
            let mut depth = 0_usize;
            while at < tokens.len() {
                match tokens[at] {
                    "{" | "(" | "[" => depth += 1,
                    "}" | ")" | "]" => depth = depth.saturating_sub(1),
                    _ => {}
                }
                at += 1;
                if depth == 0 && matches!(tokens[at - 1], "}" | ";") {
                    break;
                }
            }
        } else {
            kept.push(tokens[at]);
            at += 1;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::product_tokens;

    #[test]
    fn comments_texts_and_tests_are_left_out() {
        let text = r##"
            // crate::a
            /* crate::b */
            fn f<'a>(c: char) -> &'a str { if c == 'x' || c == '\'' { "crate::c" } else { r#"crate::"d""# } }
            #[cfg(test)]
            use crate::e;
            #[cfg(test)]
            #[derive(Debug)]
            mod tests { fn g() { crate::h() } }
            use crate::i;
        "##;
        let tokens = product_tokens(text);
        let paths: Vec<&str> =
            tokens.windows(3).filter(|w| w[0] == "crate").map(|w| w[2]).collect();
        assert_eq!(paths, ["i"]);
        assert!(!tokens.contains(&"g"));
    }
}
