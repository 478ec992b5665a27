//! Hostile texts, and that no error shows a secret. The errors themselves are golden files.

use proptest::prelude::*;

use super::*;

const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const BLOCK: &str = "\
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources:
      - secrets
    providers:
      - aescbc:
          keys:
            - name: key1
              secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=
      - identity: {}
";
const FLOW: &str = "{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, \
    resources: [{resources: [secrets], providers: [{aescbc: {keys: [{name: key1, \
    secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}}, {identity: {}}]}]}";

fn parse(text: &str) -> Result<EncryptionConfig, ConfigError> {
    EncryptionConfig::parse("enc.yaml", text.as_bytes())
}

/// Eight characters of the secret in an error are too many.
fn shows_the_secret(text: &str) -> bool {
    let shown = match parse(text) {
        Ok(config) => format!("{config:?}"),
        Err(error) => format!("{error} {error:?}"),
    };
    (0..SECRET.len() - 8).any(|at| shown.contains(&SECRET[at..at + 8]))
}

#[test]
fn no_error_shows_a_secret() {
    for text in [BLOCK, FLOW] {
        assert!(parse(text).is_ok());
        for at in 0..text.len() {
            assert!(!shows_the_secret(&text[..at]), "cut at {at}");
            let without = [&text[..at], &text[at + 1..]].concat();
            assert!(!shows_the_secret(&without), "without byte {at}: {without}");
            for new in [' ', '\n', ':', '-', '"', '\'', '{', '[', '&', '*', '!', '%', '\t', '#'] {
                let changed = format!("{}{new}{}", &text[..at], &text[at + 1..]);
                assert!(!shows_the_secret(&changed), "{new:?} at {at}: {changed}");
            }
        }
    }
}

/// Whatever field a key is pasted into, in either form.
#[test]
fn no_error_shows_a_secret_that_stands_in_another_field() {
    const HEX: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let kms = "{kms: {apiVersion: v2, name: n, endpoint: 'unix:///s', timeout: 3s}}";
    let text = FLOW.replace("{identity: {}}", &format!("{kms}, {{identity: {{}}}}"));
    let places = [
        "apiserver.config.k8s.io/v1",
        "EncryptionConfiguration",
        "secrets",
        "resources",
        "kind",
        "providers",
        "aescbc",
        "keys",
        "v2",
        "unix:///s",
        "3s",
        "identity: {}",
    ];
    for place in places {
        for secret in [SECRET, HEX] {
            for form in [secret.to_owned(), format!("'{secret}'"), format!("{secret}: x")] {
                let pasted = text.replacen(place, &form, 1);
                let shown = match parse(&pasted) {
                    Ok(config) => config.warnings().join(" "),
                    Err(error) => format!("{error} {error:?}"),
                };
                let leaks = (0..secret.len() - 8).any(|at| shown.contains(&secret[at..at + 8]));
                assert!(!leaks, "in place of {place}: {shown}");
            }
        }
    }
}

#[test]
fn the_hash_is_the_files() {
    let config = parse(FLOW).unwrap();
    assert!(config.file_hash().starts_with("sha256:"));
    assert_eq!(config.file_hash().len(), 7 + 64);
    assert_ne!(config.file_hash(), parse(BLOCK).unwrap().file_hash());
}

/// The table of all forms is `testing/interop/encryption_test.go`, against kube-apiserver's loader.
#[test]
fn secrets_are_read_as_go_reads_base64() {
    let accepted = [
        r#""MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n""#,
        r#""MDEyMzQ1Njc4OWFi\r\nY2RlZjAxMjM0NTY3ODlhYmNkZWY\n=""#,
        "|\n                MDEyMzQ1Njc4OWFiY2RlZjAx\n                MjM0NTY3ODlhYmNkZWY=",
        "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWZ=",
    ];
    for secret in accepted {
        let text = BLOCK.replace(SECRET, secret);
        let config = parse(&text).unwrap_or_else(|error| panic!("{secret}: {error}"));
        assert_eq!(config.keys().keys().next(), parse(BLOCK).unwrap().keys().keys().next());
    }
    for secret in [
        r#""MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY= ""#,
        "MDEyMzQ1Njc4 OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
        "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY",
        "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY==",
    ] {
        assert!(parse(&BLOCK.replace(SECRET, secret)).is_err(), "{secret}");
    }
    for end in ["---\n", "...\n---\n", "\n---\n# end\n---"] {
        assert!(parse(&format!("{BLOCK}{end}")).is_ok(), "{end}");
        assert!(parse(&format!("{BLOCK}{end}\nkind: x\n")).is_err(), "{end}");
    }
}

#[test]
fn a_text_that_is_none_is_refused() {
    let utf16: Vec<u8> = BLOCK.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let with_mark = [b"\xff\xfe".as_slice(), &utf16].concat();
    let error = EncryptionConfig::parse("enc.yaml", &with_mark).unwrap_err();
    assert_eq!(error, ConfigError::NotText { file: "enc.yaml".to_owned() });
    assert!(parse(&format!("\u{feff}{BLOCK}")).is_ok());
    assert!(parse(&BLOCK.replace('\n', "\r\n")).is_ok());
}

#[test]
fn a_deep_or_multiplying_text_is_refused() {
    assert!(parse(&"[".repeat(100_000)).is_err());
    let bomb: String = (1..30).map(|n| format!("- &a{n} [*a{0}, *a{0}, *a{0}]\n", n - 1)).collect();
    assert!(parse(&format!("- &a0 x\n{bomb}")).is_err());
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes: Vec<u8>) {
        let _ = EncryptionConfig::parse("enc.yaml", &bytes);
    }

    #[test]
    fn words_in_any_order_never_panic(words in prop::collection::vec(prop_oneof![
        Just("resources:"), Just("providers:"), Just("- "), Just("\n"), Just("\n  "),
        Just("\n    "), Just("aescbc: "), Just("keys: "), Just("kms: "), Just("identity: {}"),
        Just("{"), Just("}"),
        Just("["), Just("]"), Just(", "), Just("kind: EncryptionConfig"), Just("apiVersion: v1"),
        Just("name: "), Just("secret: "), Just("timeout: "), Just("1.5h3ms"), Just("-0"),
        Just("*.*"), Just("prefix:"), Just("\t"), Just("null"), Just("&a "), Just("*a"),
        Just("<<: "),
    ], 0..60)) {
        let _ = parse(&words.concat()).map_err(|error| error.to_string());
    }
}
