//! age's recipients `age1...` and identities `AGE-SECRET-KEY-1...`.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use keepd_env::Random;
use zeroize::Zeroizing;

use super::header::Stanza;
use super::{FILE_KEY_LEN, FileKey, bech32, derive};
use crate::Error;

const KIND: &str = "X25519";
const INFO: &[u8] = b"age-encryption.org/v1/X25519";
const RECIPIENT_PREFIX: &str = "age";
const IDENTITY_PREFIX: &str = "age-secret-key-";
const KEY_LEN: usize = 32;
const WRAPPED_LEN: usize = FILE_KEY_LEN + 16;

/// A public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient([u8; KEY_LEN]);

/// A private key.
#[derive(Clone)]
pub struct Identity {
    secret: Zeroizing<[u8; KEY_LEN]>,
    recipient: Recipient,
}

impl FromStr for Recipient {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bytes = bech32::decode(RECIPIENT_PREFIX, text).filter(|_| !text.starts_with('A'));
        let key = bytes.and_then(|bytes| bytes.try_into().ok());
        key.map(Self).ok_or_else(|| Error::Recipient {
            text: if bech32::decode(IDENTITY_PREFIX, text).is_some() {
                "it is an identity, which is secret and opens backups; give what `age-keygen -y` \
                 makes of it"
                    .to_owned()
            } else {
                format!("{text:?} is none")
            },
        })
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bech32::encode(RECIPIENT_PREFIX, &self.0))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<identity of {}>", self.recipient)
    }
}

/// Recipients in the text of a file: one a line, with comments.
///
/// # Errors
/// If a line is none.
pub fn read_recipients(text: &str) -> Result<Vec<Recipient>, Error> {
    lines(text).map(str::parse).collect()
}

/// Identities in the text of a file as `age-keygen` writes it.
///
/// # Errors
/// If a line is none; the line is not repeated.
pub fn read_identities(text: &str) -> Result<Vec<Identity>, Error> {
    lines(text).map(Identity::parse).collect()
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

impl Identity {
    /// A new one.
    #[must_use]
    pub fn generate(random: &dyn Random) -> Self {
        let mut secret = Zeroizing::new([0; KEY_LEN]);
        random.fill(secret.as_mut_slice());
        Self::new(secret).expect("every 32 bytes are a key")
    }

    fn parse(text: &str) -> Result<Self, Error> {
        let bytes = bech32::decode(IDENTITY_PREFIX, text).filter(|_| text.starts_with('A'));
        let bytes = bytes.map(Zeroizing::new);
        let secret = bytes.and_then(|bytes| bytes.as_slice().try_into().ok());
        secret.and_then(|secret| Self::new(Zeroizing::new(secret))).ok_or(Error::Identity)
    }

    fn new(secret: Zeroizing<[u8; KEY_LEN]>) -> Option<Self> {
        let recipient = Recipient(public(&private(&secret)?)?);
        Some(Self { secret, recipient })
    }

    /// Its public half.
    #[must_use]
    pub const fn recipient(&self) -> Recipient {
        self.recipient
    }

    /// The line of an identity file.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        Zeroizing::new(bech32::encode(IDENTITY_PREFIX, self.secret.as_slice()).to_uppercase())
    }

    /// The file's key, if the stanza is for this identity.
    pub(super) fn unwrap(&self, stanza: &Stanza) -> Result<Option<FileKey>, Error> {
        if stanza.kind != KIND {
            return Ok(None);
        }
        let malformed = Error::Header("a stanza of the kind X25519 is malformed");
        let [share] = stanza.args.as_slice() else { return Err(malformed) };
        let share = BASE64.decode(share).ok().and_then(|it| <[u8; KEY_LEN]>::try_from(it).ok());
        let (Some(share), WRAPPED_LEN) = (share, stanza.body.len()) else { return Err(malformed) };
        let Some(key) =
            private(&self.secret).and_then(|own| wrapping_key(&own, share, share, self.recipient))
        else {
            return Err(malformed);
        };
        let mut body = Zeroizing::new(stanza.body.clone());
        let opened = key.open_in_place(zero_nonce(), Aad::empty(), &mut body);
        Ok(opened.ok().and_then(|bytes| FileKey::from_bytes(bytes)))
    }
}

impl Recipient {
    /// The file's key for this recipient.
    pub(super) fn wrap(&self, key: &FileKey, random: &dyn Random) -> Result<Stanza, Error> {
        let mut secret = Zeroizing::new([0; KEY_LEN]);
        random.fill(secret.as_mut_slice());
        let unusable = || Error::Recipient { text: format!("{self} has no private half") };
        let own = private(&secret).ok_or_else(unusable)?;
        let share = public(&own).ok_or_else(unusable)?;
        let wrapping = wrapping_key(&own, self.0, share, *self).ok_or_else(unusable)?;
        let mut body = Zeroizing::new(key.0.to_vec());
        let tag = wrapping.seal_in_place_separate_tag(zero_nonce(), Aad::empty(), &mut body);
        let tag = tag.expect("16 bytes are below ChaCha20-Poly1305's limit");
        let body = [body.as_slice(), tag.as_ref()].concat();
        Ok(Stanza { kind: KIND.to_owned(), args: vec![BASE64.encode(share)], body })
    }
}

fn private(secret: &[u8; KEY_LEN]) -> Option<PrivateKey> {
    PrivateKey::from_private_key(&X25519, secret).ok()
}

fn public(key: &PrivateKey) -> Option<[u8; KEY_LEN]> {
    key.compute_public_key().ok()?.as_ref().try_into().ok()
}

/// The key between both sides; none for a point of small order.
fn wrapping_key(
    own: &PrivateKey,
    other: [u8; KEY_LEN],
    share: [u8; KEY_LEN],
    recipient: Recipient,
) -> Option<LessSafeKey> {
    let salt = [share, recipient.0].concat();
    let key = agreement::agree(own, UnparsedPublicKey::new(&X25519, other), (), |shared| {
        if shared.iter().all(|byte| *byte == 0) {
            return Err(());
        }
        Ok(derive(shared, &salt, INFO))
    });
    let key = UnboundKey::new(&CHACHA20_POLY1305, key.ok()?.as_slice()).ok()?;
    Some(LessSafeKey::new(key))
}

/// For keys that seal one message.
fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}
