//! The keyring (`docs/formats/keyring.md`), as it lies there and with its checksum set right. What
//! its seals cover cannot be made without the keys, which are the target's: damage there is told.

use std::path::Path;

use keepd_crypto::{EncryptionConfig, Keyring};
use keepd_env::Env;

const DIR: &str = "/data";
const KEYRING: &str = "/data/KEYRING";
const PREVIOUS: &str = "/data/KEYRING.prev";

/// Opens a data directory with a keyring of these bytes; the first one says where they lie.
pub fn keyring(bytes: &[u8]) {
    let (&choice, bytes) = bytes.split_first().unwrap_or((&0, &[]));
    let mut keyring = bytes.to_vec();
    if choice & 1 != 0
        && let Some((covered, crc)) = keyring.split_last_chunk_mut::<4>()
    {
        *crc = crc32c::crc32c(covered).to_le_bytes();
    }
    let config = config();
    let (env, disk, _clock) = Env::simulated(2);
    let dir = Path::new(DIR);
    env.disk.create_dir(dir).expect("nothing is there");
    let good = choice & 2 != 0;
    disk.poke(Path::new(KEYRING), if good { b"keepdkey" } else { &keyring });
    if choice & 6 != 0 {
        disk.poke(Path::new(PREVIOUS), &keyring);
    }
    for config in [None, Some(&config)] {
        if let Err(error) = Keyring::inspect(&env, dir, config) {
            let _told = error.to_string();
        }
    }
    if Keyring::open_or_create(&env, dir, Some(&config)).is_ok() {
        // It may have been written anew, and whoever opened it opens it again.
        Keyring::open_or_create(&env, dir, Some(&config)).expect("a keyring that was just opened");
    }
}

fn config() -> EncryptionConfig {
    let key = |provider: &str, name: &str| {
        format!(
            "{{{provider}: {{keys: [{{name: {name}, secret: \
             MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}}]}}}}"
        )
    };
    let text = format!(
        "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\n\
         resources: [{{resources: ['*.*'], providers: [{}, {}, {{identity: {{}}}}]}}]",
        key("aesgcm", "k"),
        key("secretbox", "a-name-in-messages")
    );
    EncryptionConfig::parse("file.yaml", text.as_bytes()).expect("a right configuration")
}

/// A keyring, in each place.
pub(crate) fn first_inputs() -> Vec<Vec<u8>> {
    let (env, disk, _clock) = Env::simulated(2);
    env.disk.create_dir(Path::new(DIR)).expect("nothing is there");
    Keyring::create(&env, Path::new(DIR), Some(&config())).expect("a new directory");
    let keyring = disk.peek(Path::new(KEYRING)).expect("it was just written");
    (0..8).map(|choice| [&[choice], keyring.as_slice()].concat()).collect()
}
