//! Lists as Go's `pflag` takes them.

/// Splits a list: one line of CSV, whose items may stand in double quotes.
pub(super) fn split_list(text: &str) -> Result<Vec<String>, String> {
    let error =
        |at: usize, what: &str| Err(format!("parse error on line 1, column {}: {what}", at + 1));
    let (mut items, mut at) = (Vec::new(), 0);
    loop {
        let rest = &text[at..];
        let Some(quoted) = rest.strip_prefix('"') else {
            let len = rest.find(',').unwrap_or(rest.len());
            if let Some(quote) = rest[..len].find('"') {
                return error(at + quote, "bare \" in non-quoted-field");
            }
            items.push(rest[..len].to_owned());
            at += len;
            if at == text.len() {
                return Ok(items);
            }
            at += 1;
            continue;
        };
        let (mut item, mut inner) = (String::new(), quoted);
        loop {
            const MISSING: &str = "extraneous or missing \" in quoted-field";
            let Some((before, after)) = inner.split_once('"') else {
                return error(text.len(), MISSING);
            };
            item.push_str(before);
            if let Some(after) = after.strip_prefix('"') {
                item.push('"');
                inner = after;
            } else if after.is_empty() {
                items.push(item);
                return Ok(items);
            } else if let Some(after) = after.strip_prefix(',') {
                items.push(item);
                at = text.len() - after.len();
                break;
            } else {
                return error(text.len() - after.len() - 1, MISSING);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_a_line_of_csv() {
        let items = |text: &str| split_list(text).unwrap();
        assert_eq!(items("a,b"), ["a", "b"]);
        assert_eq!(items("\"http://a:1\""), ["http://a:1"], "as an environment file leaves it");
        assert_eq!(items("\"a,b\",c,\"d\"\"e\""), ["a,b", "c", "d\"e"]);
        assert_eq!(items("a,,b,"), ["a", "", "b", ""]);
        assert_eq!(items("\"\","), ["", ""]);
        let missing = "extraneous or missing \" in quoted-field";
        for (text, column, what) in [
            ("\"http://127.0.0.1:12379", 24, missing),
            ("http://127.0.0.1:12379\"", 23, "bare \" in non-quoted-field"),
            ("\"a\"b", 3, missing),
            ("a,\"b", 5, missing),
        ] {
            let error = format!("parse error on line 1, column {column}: {what}");
            assert_eq!(split_list(text), Err(error), "{text}");
        }
    }
}
