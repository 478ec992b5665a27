//! Golden texts: every error of a configuration as people see it.
//!
//! `<U+0009>` stands for that character. `BLESS=1` rewrites the outputs, for review.

use keepd_crypto::{EncryptionConfig, ValueSealer};
use testkit::golden;

fn read(text: &str) -> String {
    match EncryptionConfig::parse("enc.yaml", text.as_bytes()) {
        Err(error) => error.to_string(),
        Ok(config) => {
            let mut lines: Vec<String> = ValueSealer::new(&config)
                .rules()
                .into_iter()
                .map(|rule| match rule.sealing_key {
                    Some((_, key)) => format!("{} -> {key}", rule.scope),
                    None => format!("{} -> plain", rule.scope),
                })
                .collect();
            lines.extend(config.warnings().iter().map(|warning| format!("warning: {warning}")));
            lines.join("\n")
        }
    }
}

fn unescaped(text: &str) -> String {
    let mut parts = text.split("<U+");
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (code, rest) = part.split_once('>').expect("the mark is closed");
        let code = u32::from_str_radix(code, 16).expect("a code point in hex");
        result.push(char::from_u32(code).expect("a character"));
        result.push_str(rest);
    }
    result
}

fn escaped(text: &str) -> String {
    text.chars()
        .map(|char| match char {
            '\t' | '\u{80}'.. => format!("<U+{:04X}>", u32::from(char)),
            other => other.to_string(),
        })
        .collect()
}

fn check(name: &str) {
    golden::check_documents(format!("tests/golden/{name}"), |text| {
        escaped(&read(&unescaped(text)))
    });
}

#[test]
fn right_configurations_read_as_documented() {
    check("config-right.txt");
}

#[test]
fn wrong_configurations_are_told_what_is_wrong_and_how_to_mend_it() {
    check("config-wrong.txt");
}

#[test]
fn slips_of_pasting_are_recognised() {
    check("config-slips.txt");
}
