//! Encryption at rest: EncryptionConfiguration, value sealing, keyring, file sealing.
