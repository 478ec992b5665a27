//! Kubernetes' KMS v2 envelope: a value, and the data key that encrypts it, itself encrypted by a
//! key service.
//!
//! The payload is the protobuf message `EncryptedObject`; the layout is in
//! `docs/formats/sealed-value.md`. Each value gets a key of its own: HKDF-Expand of the data key
//! over 32 random bytes.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk};
use keepd_env::Random;
use keepd_types::varint;
use zeroize::Zeroizing;

use crate::key_service::WrappedKey;
use crate::payload_error::PayloadError;
use crate::secret::{KEY_LEN, Secret};

const INFO_LEN: usize = 32;
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;
/// `HKDF_SHA256_XNONCE_AES_GCM_SEED`: the data key is a seed for keys of single values.
const SEED: u64 = 1;

const DATA: u64 = 1;
const KEY_ID: u64 = 2;
const WRAPPED: u64 = 3;
const ANNOTATIONS: u64 = 4;
const KIND: u64 = 5;

/// A data key, ready for use, with the rest of each object that it encrypts.
pub(crate) struct Envelope {
    seed: Prk,
    /// Every field of the object but the encrypted data.
    rest: Vec<u8>,
}

impl Envelope {
    pub(crate) fn new(data_key: &Secret, wrapped: &WrappedKey) -> Self {
        let mut rest = Vec::new();
        put_bytes(&mut rest, KEY_ID, wrapped.key_id.as_bytes());
        put_bytes(&mut rest, WRAPPED, &wrapped.ciphertext);
        for (name, value) in &wrapped.annotations {
            let mut entry = Vec::new();
            put_bytes(&mut entry, 1, name.as_bytes());
            put_bytes(&mut entry, 2, value);
            put_bytes(&mut rest, ANNOTATIONS, &entry);
        }
        varint::write_u64(KIND << 3, &mut rest);
        varint::write_u64(SEED, &mut rest);
        Self { seed: Prk::new_less_safe(HKDF_SHA256, data_key.expose()), rest }
    }

    /// `head`, and the object for `plain`; `key` is the record's key. It fills its allocation.
    pub(crate) fn seal(
        &self,
        head: &[u8],
        key: &[u8],
        plain: &[u8],
        random: &dyn Random,
    ) -> Vec<u8> {
        let mut info = [0; INFO_LEN];
        let mut nonce = [0; NONCE_LEN];
        random.fill(&mut info);
        random.fill(&mut nonce);
        let data_len = INFO_LEN + NONCE_LEN + plain.len() + TAG_LEN;
        let mut front = Vec::new();
        put_tag(&mut front, DATA, data_len);
        let len = head.len() + front.len() + data_len + self.rest.len();
        let mut out = Vec::with_capacity(len);
        out.extend_from_slice(head);
        out.extend_from_slice(&front);
        out.extend_from_slice(&info);
        out.extend_from_slice(&nonce);
        let text_at = out.len();
        out.extend_from_slice(plain);
        let (_, text) = out.split_at_mut(text_at);
        let tag = self
            .key_of(&info)
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(key), text)
            .expect("values are far below AES-GCM's limit");
        out.extend_from_slice(tag.as_ref());
        out.extend_from_slice(&self.rest);
        out
    }

    /// Opens an object; `key` is the record's key.
    pub(crate) fn open(&self, key: &[u8], object: &[u8]) -> Result<Vec<u8>, PayloadError> {
        let data = encrypted_data(object).ok_or(PayloadError::Malformed)?;
        let (info, rest) = data.split_first_chunk::<INFO_LEN>().ok_or(PayloadError::Short)?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>().ok_or(PayloadError::Short)?;
        let (sealed, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or(PayloadError::Short)?;
        let mut plain = vec![0; sealed.len()];
        self.key_of(info)
            .open_separate_gather(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(key),
                sealed,
                tag,
                &mut plain,
            )
            .ok()
            .ok_or(PayloadError::Authentication)?;
        Ok(plain)
    }

    /// The key of one value.
    fn key_of(&self, info: &[u8; INFO_LEN]) -> LessSafeKey {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        self.seed
            .expand(&[info], HKDF_SHA256)
            .and_then(|okm| okm.fill(key.as_mut_slice()))
            .expect("32 bytes are what HKDF-SHA256 gives in one block");
        let key = UnboundKey::new(&AES_256_GCM, key.as_slice()).expect("AES-256 takes 32 bytes");
        LessSafeKey::new(key)
    }
}

/// The encrypted data of an object whose data key is a seed; `None` if it is no such object.
fn encrypted_data(mut rest: &[u8]) -> Option<&[u8]> {
    let (mut data, mut kind) = (None, 0);
    while !rest.is_empty() {
        let tag = varint::read_u64(&mut rest)?;
        match (tag >> 3, tag & 7) {
            (DATA, 2) => data = Some(take_bytes(&mut rest)?),
            (KEY_ID | WRAPPED | ANNOTATIONS, 2) => drop(take_bytes(&mut rest)?),
            (KIND, 0) => kind = varint::read_u64(&mut rest)?,
            _ => return None,
        }
    }
    data.filter(|_| kind == SEED)
}

/// The tag of a field of bytes, and their length.
fn put_tag(out: &mut Vec<u8>, field: u64, len: usize) {
    varint::write_u64(field << 3 | 2, out);
    varint::write_u64(u64::try_from(len).expect("a length fits 64 bits"), out);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_tag(out, field, bytes.len());
    out.extend_from_slice(bytes);
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(varint::read_u64(rest)?).ok()?;
    let (bytes, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(bytes)
}

#[cfg(test)]
mod tests;
