//! Objects that are sealed and opened, cut, exchanged and too long.

use std::io::Read as _;

use keepd_env::SeededRandom;
use proptest::prelude::*;

use super::*;
use crate::age::Identity;

fn identity() -> Identity {
    Identity::generate(&SeededRandom::new(1))
}

fn sealing() -> Sealing {
    Sealing::To(Recipients { public: vec![identity().recipient()], config: None })
}

fn keys() -> Keys {
    Keys { identities: vec![identity()], ..Keys::default() }
}

fn sealed(content: &[u8], sealing: &Sealing) -> (Vec<u8>, Sealed) {
    let mut reader = SealingReader::new(content, sealing, &SeededRandom::new(9)).unwrap();
    let mut object = Vec::new();
    reader.read_to_end(&mut object).unwrap();
    (object, reader.finish())
}

fn opened(object: &[u8], is_sealed: bool, max: u64) -> Result<(Vec<u8>, Passed), Error> {
    let mut reader = OpeningReader::new(object, is_sealed, &keys(), max)?;
    let mut content = Vec::new();
    reader.read_to_end(&mut content).map_err(Error::reading)?;
    Ok((content, reader.finish()?))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn content_comes_back_with_the_digest_of_its_object(
        seed in prop::collection::vec(any::<u8>(), 0..2000),
        repeats in 0..400_usize,
        is_sealed in any::<bool>(),
    ) {
        let content = seed.repeat(repeats);
        let how = if is_sealed { sealing() } else { Sealing::Plain };
        let (object, facts) = sealed(&content, &how);
        prop_assert_eq!(object.len() as u64, facts.object.bytes);
        prop_assert_eq!(facts.file_key.is_some(), is_sealed);
        let (back, passed) = opened(&object, is_sealed, content.len() as u64).unwrap();
        prop_assert!(back == content);
        prop_assert_eq!(passed, facts.object);
        if seed.len() > 64 && repeats > 0 && is_sealed {
            prop_assert!(!testkit::files::contains(&object, &seed[..32]));
        }
    }
}

#[test]
fn a_plain_object_does_not_take_the_place_of_a_sealed_one() {
    let (plain, _) = sealed(b"content", &Sealing::Plain);
    assert!(matches!(opened(&plain, true, 100), Err(Error::NotSealed)));
    assert!(opened(&plain, false, 100).is_ok());
    let (object, _) = sealed(b"content", &sealing());
    assert!(opened(&object, false, 100).is_err());
}

#[test]
fn what_is_cut_off_or_goes_on_is_refused() {
    for how in [sealing(), Sealing::Plain] {
        let content = vec![3; 300_000];
        let (object, _) = sealed(&content, &how);
        for end in [0, 1, object.len() / 2, object.len() - 1] {
            assert!(opened(&object[..end], how.is_sealed(), 1 << 20).is_err(), "{end}");
        }
        let longer = [&object[..], b"more"].concat();
        assert!(opened(&longer, how.is_sealed(), 1 << 20).is_err());
    }
}

#[test]
fn a_bomb_is_refused_at_the_length_that_was_promised() {
    let (object, _) = sealed(&vec![0; 50_000_000], &sealing());
    assert!(object.len() < 100_000);
    let error = opened(&object, true, 1_000_000).unwrap_err();
    assert!(matches!(error, Error::TooLong { max: 1_000_000 }), "{error}");
}
