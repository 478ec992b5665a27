//! Values made by Kubernetes' own code, in both directions, and CBC's traps.
#![expect(clippy::indexing_slicing, reason = "tests may panic")]

use aes::cipher::KeyIvInit;
use keepd_env::SeededRandom;
use proptest::prelude::*;

use super::*;

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
const RECORD: &[u8] = b"/registry/secrets/default/s1";
const PLAIN: &[u8] = b"k8s\0hello keepd";

/// Gives out given bytes, to repeat the nonces of the vectors.
#[derive(Debug)]
struct Fixed(Vec<u8>);

impl Random for Fixed {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.0[..bytes.len()]);
    }
}

fn key(algorithm: Algorithm, secret: &[u8]) -> ProviderKey {
    ProviderKey::new(algorithm, "key1", Secret::new(secret.to_vec())).unwrap()
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16).unwrap()).unwrap();
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn check_vector(algorithm: Algorithm, payload: &str, total_len: usize, other_record_opens: bool) {
    let (key, payload) = (key(algorithm, KEY), unhex(payload));
    let stored = key.seal(RECORD, PLAIN, &Fixed(payload.clone()));
    let head = format!("k8s:enc:{algorithm}:v1:key1:");
    assert_eq!(stored, [head.as_bytes(), &payload].concat());
    assert_eq!(stored.len(), total_len);
    assert_eq!(key.open(RECORD, &payload).unwrap(), PLAIN);
    let elsewhere = key.open(b"/registry/secrets/default/s2", &payload);
    let expected =
        if other_record_opens { Ok(PLAIN.to_vec()) } else { Err(PayloadError::Authentication) };
    assert_eq!(elsewhere, expected);
}

#[test]
fn aescbc_equals_kubernetes() {
    let payload = "89735b8e91e116493d23016c72f7f0f43040f01a47a1843dbb17ec56a11644b8";
    check_vector(Algorithm::AesCbc, payload, 55, true);
}

#[test]
fn aesgcm_equals_kubernetes() {
    let payload = "5bedee8ce7c842a874aec3652e8dd4d3b16b14cc99f3ead359ada5dcbfa134ab\
                   1ff442c00c310ac822a29b";
    check_vector(Algorithm::AesGcm, payload, 66, false);
}

#[test]
fn secretbox_equals_kubernetes() {
    let payload = "63efc57f4275a0fde40cc85ae2a9f1004b273e374795eae5dba9d40d2d429000\
                   b335e3ae8531c7d7f4b7977763d943a0c505491385e130";
    check_vector(Algorithm::SecretBox, payload, 81, true);
}

/// A CBC payload whose decryption is exactly `blocks`.
fn cbc_payload(blocks: &[u8]) -> Vec<u8> {
    let iv = [7; BLOCK_LEN];
    let sealed = cbc::Encryptor::<Aes256>::new_from_slices(KEY, &iv)
        .unwrap()
        .encrypt_padded_vec::<NoPadding>(blocks);
    [&iv[..], &sealed].concat()
}

#[test]
fn the_traps_of_cbc_are_errors() {
    let key = key(Algorithm::AesCbc, KEY);
    let open = |payload: &[u8]| key.open(RECORD, payload);
    assert_eq!(open(b""), Err(PayloadError::Short));
    assert_eq!(open(&[1; 15]), Err(PayloadError::Short));
    assert_eq!(open(&[1; 16]), Err(PayloadError::Short));
    assert_eq!(open(&[1; 33]), Err(PayloadError::PartialBlock));
    let padded = |last: &[u8]| {
        let mut blocks = vec![b'x'; 32];
        blocks[32 - last.len()..].copy_from_slice(last);
        open(&cbc_payload(&blocks))
    };
    assert_eq!(padded(&[0]), Err(PayloadError::Padding));
    assert_eq!(padded(&[3, 2, 3]), Err(PayloadError::Padding));
    assert_eq!(padded(&[33]), Err(PayloadError::Padding));
    assert_eq!(padded(&[2, 2]).unwrap(), [b'x'; 30]);
    assert_eq!(padded(&[16; 16]).unwrap(), [b'x'; 16]);
    // Longer than a block, and the whole of the payload: accepted upstream, hence here.
    assert_eq!(padded(&[20; 20]).unwrap(), [b'x'; 12]);
    assert_eq!(padded(&[32; 32]).unwrap(), b"");
    assert_eq!(key.seal(RECORD, b"", &Fixed(vec![0; 16])).len(), key.head().len() + 32);
}

#[test]
fn check_values_depend_on_secret_and_cipher_not_on_the_name() {
    let id = |algorithm, name: &str, secret: &[u8]| {
        ProviderKey::new(algorithm, name, Secret::new(secret.to_vec())).unwrap().id()
    };
    let one = id(Algorithm::AesGcm, "key1", KEY);
    assert_eq!(one, KeyId(0x0e8a_5d39_fc4c_fc65));
    assert_eq!(one, id(Algorithm::AesGcm, "renamed", KEY));
    assert_ne!(one, id(Algorithm::AesCbc, "key1", KEY));
    assert_ne!(one, id(Algorithm::AesGcm, "key1", &[0; 32]));
}

fn any_key() -> impl Strategy<Value = ProviderKey> {
    let lens = prop_oneof![Just(16_usize), Just(24), Just(32)];
    (0..3_usize, lens, any::<u8>()).prop_map(|(which, len, fill)| {
        let algorithm = Algorithm::ALL[which];
        let len = if algorithm == Algorithm::SecretBox { 32 } else { len };
        key(algorithm, &vec![fill; len])
    })
}

proptest! {
    #[test]
    fn values_round_trip(key in any_key(), plain: Vec<u8>, record: Vec<u8>, seed: u64) {
        let stored = key.seal(&record, &plain, &SeededRandom::new(seed));
        let payload = stored.strip_prefix(key.head()).unwrap();
        prop_assert_eq!(key.open(&record, payload), Ok(plain));
    }

    #[test]
    fn hostile_payloads_never_panic(key in any_key(), record: Vec<u8>, payload: Vec<u8>) {
        let _ = key.open(&record, &payload);
    }

    #[test]
    fn a_flipped_bit_does_not_pass_an_authenticated_cipher(
        gcm: bool, plain: Vec<u8>, at: prop::sample::Index, bit in 0..8_u8,
    ) {
        let key = key(if gcm { Algorithm::AesGcm } else { Algorithm::SecretBox }, KEY);
        let stored = key.seal(RECORD, &plain, &SeededRandom::new(1));
        let mut payload = stored.strip_prefix(key.head()).unwrap().to_vec();
        let at = at.index(payload.len());
        payload[at] ^= 1_u8 << bit;
        prop_assert_eq!(key.open(RECORD, &payload), Err(PayloadError::Authentication));
    }
}
