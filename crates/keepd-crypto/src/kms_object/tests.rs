//! Objects of a kube-apiserver open, and ours open only under their own data key and record.
#![expect(clippy::indexing_slicing, reason = "tests may panic")]

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keepd_env::SeededRandom;
use proptest::prelude::*;

use super::*;

const RECORD: &[u8] = b"/registry/secrets/default/s1";
/// Written by k8s.io/apiserver 0.37.2 with a service that encrypts to base64.
const UPSTREAM: &str = "0a4bae2e8fc3d1f27c467e4b59cc6aa2c0d5d15d949f6627ed3371ebe6c3bd08f4b1c46093cf57\
    a681c86685139487e62923023288fba359d158a8bf44fba4f96fe3eb95fed3d52a776edb093d12056b656b2d311a2c487a5461\
    65366e4175497a61564a4635445846354f6e58545a6359794a393877506363504879572f34794d3d221a0a156c6f63616c2d6b\
    656b2e6b6d732e6578616d706c651201782801";
const UPSTREAM_WRAPPED: &str = "HzTae6nAuIzaVJF5DXF5OnXTZcYyJ98wPccPHyW/4yM=";

fn unhex(text: &str) -> Vec<u8> {
    let pairs = (0..text.len()).step_by(2).map(|at| &text[at..at + 2]);
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("it is hexadecimal")).collect()
}

fn envelope(data_key: &[u8]) -> Envelope {
    let annotations = BTreeMap::from([("local-kek.kms.example".to_owned(), b"x".to_vec())]);
    let wrapped = WrappedKey {
        provider: "prov2".to_owned(),
        key_id: "kek-1".to_owned(),
        ciphertext: STANDARD.encode(data_key).into_bytes(),
        annotations,
    };
    Envelope::new(&Secret::new(data_key.to_vec()), &wrapped)
}

fn sealed(envelope: &Envelope, plain: &[u8]) -> Vec<u8> {
    envelope.seal(b"", RECORD, plain, &SeededRandom::new(7))
}

#[test]
fn an_object_of_a_kube_apiserver_opens() {
    let object = unhex(UPSTREAM);
    let envelope = envelope(&STANDARD.decode(UPSTREAM_WRAPPED).unwrap());
    let plain = envelope.open(RECORD, &object).unwrap();
    assert_eq!(plain, unhex("6b38730068656c6c6f206b65657064"));
    // Ours is the same but for the random bytes.
    let ours = sealed(&envelope, &plain);
    assert_eq!(ours.len(), object.len());
    assert_eq!(ours[77..], object[77..]);
}

#[test]
fn an_object_opens_under_its_own_key_and_record_only() {
    let one = envelope(&[1; 32]);
    let object = sealed(&one, b"plain");
    assert_eq!(one.open(RECORD, &object), Ok(b"plain".to_vec()));
    assert_eq!(one.open(b"/other", &object), Err(PayloadError::Authentication));
    assert_eq!(envelope(&[2; 32]).open(RECORD, &object), Err(PayloadError::Authentication));
    for len in 0..object.len() {
        assert!(one.open(RECORD, &object[..len]).is_err(), "cut at {len}");
    }
}

proptest! {
    #[test]
    fn any_value_round_trips_and_any_bytes_are_judged(plain: Vec<u8>, junk: Vec<u8>) {
        let one = envelope(&[3; 32]);
        prop_assert_eq!(one.open(RECORD, &sealed(&one, &plain)), Ok(plain));
        prop_assert!(one.open(RECORD, &junk).is_err());
    }
}
