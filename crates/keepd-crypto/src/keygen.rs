//! Making keys and a first configuration.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keepd_env::Random;
use zeroize::Zeroizing;

/// The length of a new secret; every cipher takes it.
const SECRET_LEN: usize = 32;

/// A random secret of 32 bytes, in the base64 that a configuration takes.
#[must_use]
pub fn new_secret(random: &dyn Random) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new([0; SECRET_LEN]);
    random.fill(bytes.as_mut_slice());
    Zeroizing::new(STANDARD.encode(bytes.as_slice()))
}

/// A configuration with a new key that seals every value: all of Kubernetes' resources and every
/// other key.
///
/// secretbox, because its long random nonces set no limit to the number of writes under one key.
#[must_use]
pub fn quickstart_config(random: &dyn Random) -> Zeroizing<String> {
    let secret = new_secret(random);
    Zeroizing::new(format!(
        "\
# What keepd encrypts, in Kubernetes' format. Keep a copy of this file in a safe place: without it
# neither the data directory nor a backup can be read.
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources:
      - '*.*'     # every Kubernetes resource
      - 'prefix:' # every other key; keepd's own
    providers:
      - secretbox:
          keys:
            - name: key1
              secret: {}
",
        *secret
    ))
}

#[cfg(test)]
mod tests {
    use keepd_env::SeededRandom;

    use super::*;
    use crate::{EncryptionConfig, ValueSealer};

    #[test]
    fn the_first_configuration_seals_every_key() {
        let text = quickstart_config(&SeededRandom::new(1));
        let config = EncryptionConfig::parse("first.yaml", text.as_bytes()).unwrap();
        assert!(config.warnings().is_empty());
        let sealer = ValueSealer::new(&config);
        for key in ["/registry/secrets/a/b", "/registry/ranges/serviceips", "compact_rev_key", ""] {
            assert!(sealer.sealing_key(key.as_bytes()).is_some(), "{key}");
        }
    }

    #[test]
    fn secrets_differ_and_have_44_characters() {
        let random = SeededRandom::new(1);
        let (first, second) = (new_secret(&random), new_secret(&random));
        assert_ne!(first, second);
        assert_eq!(first.len(), 44);
    }
}
