//! The format against itself, against damage, and against values of other implementations.

use std::io::{Read as _, Write as _};

use keepd_env::SeededRandom;
use proptest::prelude::*;

use super::*;

fn config(name: &str, secret: u8) -> EncryptionConfig {
    use base64::Engine as _;
    let secret = base64::engine::general_purpose::STANDARD.encode([secret; 32]);
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n  - \
         resources: ['*.*']\n    providers:\n      - secretbox: {{keys: [{{name: {name}, secret: \
         {secret}}}]}}\n"
    );
    EncryptionConfig::parse("test.yaml", text.as_bytes()).unwrap()
}

fn sealed(to: &Recipients, content: &[u8]) -> (Vec<u8>, FileKey) {
    let (mut writer, key) = seal(Vec::new(), to, &SeededRandom::new(5)).unwrap();
    writer.write_all(content).unwrap();
    (writer.finish().unwrap(), key)
}

fn opened(file: &[u8], keys: &Keys) -> Result<Vec<u8>, Error> {
    let mut content = Vec::new();
    open(file, keys)?.read_to_end(&mut content).map_err(Error::reading)?;
    Ok(content)
}

fn with(identity: &Identity) -> Keys {
    Keys { identities: vec![identity.clone()], ..Keys::default() }
}

fn to(identity: &Identity) -> Recipients {
    Recipients { public: vec![identity.recipient()], config: None }
}

#[test]
fn each_recipient_opens_it_and_nobody_else() {
    let random = SeededRandom::new(1);
    let [one, two, stranger] = [0; 3].map(|_| Identity::generate(&random));
    let config_one = config("key1", 1);
    let recipients = Recipients {
        public: vec![one.recipient(), two.recipient()],
        config: Some(config_one.clone()),
    };
    let (file, file_key) = sealed(&recipients, b"content");
    let by_config = Keys { config: Some(config_one), ..Keys::default() };
    let by_file_key = Keys { file_key: Some(file_key), ..Keys::default() };
    for keys in [with(&one), with(&two), by_config, by_file_key] {
        assert_eq!(opened(&file, &keys).unwrap(), b"content");
    }
    let strange = Keys { config: Some(config("key1", 2)), ..with(&stranger) };
    let error = opened(&file, &strange).unwrap_err().to_string();
    assert!(error.contains("secretbox:key1 (id "), "{error}");
    assert!(error.contains("an age identity"), "{error}");
    assert!(error.contains(&stranger.recipient().to_string()), "{error}");
    assert_eq!(recipients.names().len(), 3);
}

#[test]
fn a_changed_stanza_of_a_configuration_is_told_from_a_lost_key() {
    let config = config("key1", 1);
    let (file, _) =
        sealed(&Recipients { config: Some(config.clone()), ..Recipients::default() }, b"c");
    let text = String::from_utf8_lossy(&file);
    let line = text.lines().nth(2).unwrap().to_owned();
    let at = text.find(&line).unwrap();
    let mut changed = file.clone();
    changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
    let keys = Keys { config: Some(config), ..Keys::default() };
    let error = opened(&changed, &keys).unwrap_err().to_string();
    assert!(error.contains("tampered"), "{error}");
    assert!(opened(&file, &keys).is_ok());
}

#[test]
fn keys_are_written_as_age_keygen_writes_them() {
    // A pair from the documents of age.
    let text = "# created: 2021-01-02T15:30:45+01:00\n# public key: \
                age1lvyvwawkr0mcnnnncaghunadrqkmuf9e6507x9y920xxpp866cnql7dp2z\n\
                AGE-SECRET-KEY-1N9JEPW6DWJ0ZQUDX63F5A03GX8QUW7PXDE39N8UYF82VZ9PC8UFS3M7XA9\n";
    let identities = read_identities(text).unwrap();
    assert_eq!(identities.len(), 1);
    let recipient = identities[0].recipient().to_string();
    assert_eq!(recipient, "age1lvyvwawkr0mcnnnncaghunadrqkmuf9e6507x9y920xxpp866cnql7dp2z");
    assert!(text.contains(&*identities[0].expose()));
    assert_eq!(
        read_recipients(&format!("# mine\n\n{recipient}\n")).unwrap(),
        [identities[0].recipient()]
    );
    let error = read_recipients(&identities[0].expose()).unwrap_err().to_string();
    assert!(error.contains("it is an identity, which is secret"), "{error}");
    assert!(!error.contains("AGE-SECRET"), "{error}");
    let error = read_identities(&recipient).unwrap_err().to_string();
    assert!(error.contains("AGE-SECRET-KEY-1..."), "{error}");
    assert_eq!(format!("{:?}", identities[0]), format!("<identity of {recipient}>"));
}

#[test]
fn lengths_around_a_chunk() {
    let identity = Identity::generate(&SeededRandom::new(2));
    for len in [0, 1, 65_535, 65_536, 65_537, 131_072, 200_000] {
        let content = vec![7; len];
        let (file, _) = sealed(&to(&identity), &content);
        assert_eq!(opened(&file, &with(&identity)).unwrap(), content, "{len}");
        // Every cut at the end of a chunk too.
        for cut in [1, 16, 17, 65_552] {
            let Some(end) = file.len().checked_sub(cut).filter(|end| *end > 200) else { continue };
            let error = opened(&file[..end], &with(&identity)).unwrap_err();
            assert!(
                matches!(error, Error::Chunk { .. } | Error::Truncated),
                "{len} without {cut}: {error}"
            );
        }
        let longer = [&file[..], b"x"].concat();
        assert!(opened(&longer, &with(&identity)).is_err(), "{len}");
    }
}

#[test]
fn chunks_cannot_be_exchanged() {
    let identity = Identity::generate(&SeededRandom::new(2));
    let (file, _) = sealed(&to(&identity), &vec![7; 3 * 65_536]);
    let begin = file.len() - 3 * 65_552;
    let mut exchanged = file[..begin].to_vec();
    for chunk in [1, 0, 2] {
        exchanged.extend_from_slice(&file[begin + chunk * 65_552..][..65_552]);
    }
    assert!(matches!(opened(&exchanged, &with(&identity)), Err(Error::Chunk { is_last: false })));
}

#[test]
fn headers_that_are_none_are_named() {
    let keys = Keys::default();
    for (bytes, expected) in [
        (&b""[..], "does not begin as an age file"),
        (b"\x28\xb5\x2f\xfd compressed", "does not begin as an age file"),
        (b"age-encryption.org/v2\n", "does not begin as an age file"),
        (b"age-encryption.org/v1\n", "cut off"),
        (b"age-encryption.org/v1\n--- AAAA\n", "names no recipient"),
        (b"age-encryption.org/v1\n-> a\n", "cut off"),
        (b"age-encryption.org/v1\n->  a\nAAAA\n", "malformed word"),
        (b"age-encryption.org/v1\n-> a \nAAAA\n", "malformed word"),
        (b"age-encryption.org/v1\n-> a\nAAA=\n", "malformed base64"),
        (b"age-encryption.org/v1\n-> a\nAAAA\n---AAAA\n", "no MAC"),
        (b"age-encryption.org/v1\nx\n", "no stanza"),
        (b"age-encryption.org/v1\n-> X25519 AAAA\nAAAA\n--- AAAA\n", "no key opens it"),
    ] {
        let error = open(bytes, &keys).unwrap_err().to_string();
        assert!(error.contains(expected), "{}: {error}", String::from_utf8_lossy(bytes));
    }
    let endless = [&b"age-encryption.org/v1\n-> a\n"[..], &vec![b'A'; 300 << 10]].concat();
    assert!(open(&endless[..], &keys).unwrap_err().to_string().contains("too long"));
    assert!(matches!(
        seal(Vec::new(), &Recipients::default(), &SeededRandom::new(1)),
        Err(Error::NoRecipient)
    ));
}

#[test]
fn a_point_of_small_order_opens_nothing() {
    let weak: Recipient = bech32::encode("age", &[0; 32]).parse().unwrap();
    let recipients = Recipients { public: vec![weak], config: None };
    assert!(seal(Vec::new(), &recipients, &SeededRandom::new(1)).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn a_changed_byte_is_found(len in 0..70_000_usize, at in any::<prop::sample::Index>()) {
        let identity = Identity::generate(&SeededRandom::new(2));
        let content = vec![7; len];
        let (mut file, _) = sealed(&to(&identity), &content);
        let at = at.index(file.len());
        file[at] ^= 1;
        prop_assert!(opened(&file, &with(&identity)).is_err());
    }

    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let with_magic = [header::VERSION_LINE, &bytes].concat();
        let keys = with(&Identity::generate(&SeededRandom::new(2)));
        prop_assert!(opened(&with_magic, &keys).is_err());
        prop_assert!(opened(&bytes, &keys).is_err());
    }
}
