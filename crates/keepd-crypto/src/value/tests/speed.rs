//! Time that a value takes, printed for people: `cargo test --release -p keepd-crypto -- --ignored
//! --nocapture speed`. Nothing is judged here, for machines differ.

use std::hint::black_box;
use std::time::{Duration, Instant};

use keepd_env::SystemRandom;

use super::*;

/// The least nanoseconds a call takes among many short spells, so that what else the machine does
/// counts for little.
#[expect(clippy::disallowed_methods, reason = "measures the machine itself")]
fn nanos(mut call: impl FnMut()) -> u128 {
    const SPELLS: usize = 3_000;
    const CALLS: u32 = 20;
    let mut least = Duration::MAX;
    for _ in 0..SPELLS {
        let start = Instant::now();
        (0..CALLS).for_each(|_| call());
        least = least.min(start.elapsed());
    }
    least.as_nanos() / u128::from(CALLS)
}

#[test]
#[ignore = "prints figures"]
fn speed_of_sealing_and_opening() {
    const RECORD: &[u8] = b"/registry/secrets/default/some-secret-name";
    let random = SystemRandom::new();
    for algorithm in ["secretbox", "aesgcm", "aescbc"] {
        let sealer = sealer(&[("secrets", &[provider(algorithm, &[("key1", 1)])])]);
        for len in [16, 256, 1024, 4096] {
            let plain = Bytes::from(vec![7; len]);
            let stored = sealer.seal(RECORD, plain.clone(), &random).unwrap();
            let seal = nanos(|| {
                black_box(sealer.seal(RECORD, plain.clone(), &random)).unwrap();
            });
            let open = nanos(|| {
                black_box(sealer.open(RECORD, &stored)).unwrap();
            });
            println!("{algorithm:9} {len:5} bytes: seal {seal:6} ns, open {open:6} ns");
        }
    }
    let sealer = sealer(&[("secrets", &[provider("secretbox", &[("key1", 1)])])]);
    let find = nanos(|| {
        black_box(sealer.sealing_key(black_box(RECORD)));
    });
    let nonce = nanos(|| random.fill(black_box(&mut [0; 24])));
    let digest = nanos(|| {
        black_box(PlainDigest::of(black_box(&[7; 1024])));
    });
    println!("finding the rule {find} ns, a nonce {nonce} ns, the digest of 1 KiB {digest} ns");
}
