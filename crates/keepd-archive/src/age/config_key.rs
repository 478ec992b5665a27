//! keepd's own recipient: a key of an EncryptionConfiguration.
//!
//! ```text
//! -> keepd-config <cipher> <key name, base64> <key id, hex> <salt, base64> [<key of a key service>...]
//! <the file's key, encrypted under the configuration's>
//! ```

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use keepd_crypto::{Algorithm, EncryptionConfig, KeyName, UnwrapError, WrappedKey, WrappedSecret};
use keepd_env::Random;
use keepd_types::KeyId;

use super::FileKey;
use super::header::Stanza;
use crate::Error;

const KIND: &str = "keepd-config";

/// The file's key under the configuration's writing key.
pub(super) fn wrap(
    config: &EncryptionConfig,
    key: &FileKey,
    random: &dyn Random,
) -> Result<Stanza, Error> {
    let wrapped = config.wrap(key.0.as_slice(), random).ok_or(Error::ConfigSealsNothing)?;
    let name = &wrapped.name;
    let mut args = vec![
        name.algorithm.name().to_owned(),
        BASE64.encode(&name.name),
        format!("{:016x}", name.id.0),
        BASE64.encode(wrapped.salt),
    ];
    if let Some(service) = &wrapped.service {
        args.push(BASE64.encode(&service.key_id));
        args.push(BASE64.encode(&service.ciphertext));
        let pairs = service.annotations.iter();
        args.extend(pairs.map(|(key, it)| format!("{}:{}", BASE64.encode(key), BASE64.encode(it))));
    }
    Ok(Stanza { kind: KIND.to_owned(), args, body: wrapped.ciphertext })
}

/// A stanza of this kind; none if it is another's, or malformed.
pub(super) fn parse(stanza: &Stanza) -> Option<WrappedSecret> {
    if stanza.kind != KIND {
        return None;
    }
    let [algorithm, name, id, salt, service @ ..] = stanza.args.as_slice() else { return None };
    let algorithm = Algorithm::ALL.into_iter().find(|known| known.name() == algorithm)?;
    let id = KeyId(u64::from_str_radix(id, 16).ok()?);
    let name = KeyName { algorithm, name: text(name)?, id };
    let salt = BASE64.decode(salt).ok()?.try_into().ok()?;
    let service = match service {
        [] => None,
        [key_id, ciphertext, annotations @ ..] => {
            Some(service_key(&name.name, key_id, ciphertext, annotations)?)
        }
        [_] => return None,
    };
    let wrapped = WrappedSecret { name, salt, ciphertext: stanza.body.clone(), service };
    wrapped.is_well_formed().then_some(wrapped)
}

fn service_key(
    provider: &str,
    key_id: &str,
    ciphertext: &str,
    annotations: &[String],
) -> Option<WrappedKey> {
    let pairs = annotations.iter().map(|pair| {
        let (key, value) = pair.split_once(':')?;
        Some((text(key)?, BASE64.decode(value).ok()?))
    });
    Some(WrappedKey {
        provider: provider.to_owned(),
        key_id: text(key_id)?,
        ciphertext: BASE64.decode(ciphertext).ok()?,
        annotations: pairs.collect::<Option<BTreeMap<_, _>>>()?,
    })
}

fn text(encoded: &str) -> Option<String> {
    String::from_utf8(BASE64.decode(encoded).ok()?).ok()
}

/// The file's key; none if the configuration, or its key, is not there.
pub(super) fn unwrap(
    config: Option<&EncryptionConfig>,
    wrapped: &WrappedSecret,
) -> Result<Option<FileKey>, Error> {
    let Some(config) = config else { return Ok(None) };
    match config.unwrap(wrapped) {
        Ok(bytes) => {
            let key = FileKey::from_bytes(&bytes);
            key.map(Some).ok_or(Error::Header("the key in a stanza has a wrong length"))
        }
        Err(UnwrapError::NoKey { .. }) => Ok(None),
        Err(damaged @ UnwrapError::Damaged { .. }) => Err(Error::Unwrap(damaged)),
    }
}
