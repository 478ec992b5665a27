//! Kubernetes' `EncryptionConfiguration`, and what a configuration that is right does to a value.

use bytes::Bytes;
use keepd_crypto::{AlreadySealed, ConfigFile, ConfigOptions, Directories, ValueSealer};
use keepd_env::SeededRandom;

const KEY: &[u8] = b"/registry/secrets/default/s";

/// Reads a configuration; a value that it seals it opens again.
pub fn config(bytes: &[u8]) {
    let options = ConfigOptions {
        directories: Directories::new("/registry"),
        already_sealed: AlreadySealed::Keep,
        trust_plain_data: true,
        allows_key_services: true,
    };
    let file = match ConfigFile::parse("file.yaml", bytes, options) {
        Ok(file) => file,
        Err(error) => {
            let _told = error.to_string();
            return;
        }
    };
    let config = match file.local() {
        Ok(config) => config,
        Err(error) => {
            let _told = error.to_string();
            return;
        }
    };
    let _told = (config.file_hash(), config.warnings(), config.seals(), config.key_names());
    let sealer = ValueSealer::new(&config);
    let _told = (sealer.rules(), sealer.fingerprint(), sealer.sealing_keys());
    let plain = Bytes::from_static(b"value");
    let stored = sealer.seal(KEY, plain.clone(), &SeededRandom::new(1));
    let stored = stored.expect("a value of five bytes can be sealed");
    assert!(!sealer.is_stale(KEY, &stored), "just written");
    assert_eq!(sealer.open(KEY, &stored).ok(), Some(plain));
    let _refused = sealer.read_foreign(KEY, &Bytes::copy_from_slice(bytes)).is_err();
}

/// A configuration of each provider, one with everything, and odd forms.
pub(crate) fn first_inputs() -> Vec<Vec<u8>> {
    const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    const KMS: &str =
        "{kms: {apiVersion: v2, name: k, endpoint: 'unix:///run/kms.sock', timeout: 3s}}";
    let keyed =
        |provider: &str| format!("{{{provider}: {{keys: [{{name: k, secret: {SECRET}}}]}}}}");
    let file = |resources: &str, providers: &str| {
        format!(
            "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\n\
             resources:\n- resources: [{resources}]\n  providers: [{providers}]\n"
        )
        .into_bytes()
    };
    let all = [keyed("aescbc"), keyed("aesgcm"), keyed("secretbox"), "{identity: {}}".to_owned()];
    let json = format!(
        "{{\"kind\":\"EncryptionConfiguration\",\"apiVersion\":\"apiserver.config.k8s.io/v1\",\
         \"resources\":[{{\"resources\":[\"secrets\"],\"providers\":[{{\"aesgcm\":{{\"keys\":\
         [{{\"name\":\"a\",\"secret\":\"{SECRET}\"}}]}}}}]}}]}}"
    );
    vec![
        file("secrets, 'deployments.apps', '*.apps'", &keyed("aescbc")),
        file("'*.*'", &keyed("aesgcm")),
        file("'prefix:/some/'", &keyed("secretbox")),
        file("secrets", &all.join(", ")),
        file("secrets", KMS),
        file("'*.*', secrets, secrets", "{identity: {}}"),
        json.into_bytes(),
        b"a: &a [*a, *a]\nb: !!binary x\n--- {}\n".to_vec(),
    ]
}
