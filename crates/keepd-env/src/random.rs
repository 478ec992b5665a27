//! Randomness: from the system for secrets, from a seed for simulations.

mod buffered;

use std::fmt::Debug;

use parking_lot::Mutex;

/// A source of random bytes.
pub trait Random: Send + Sync + Debug {
    /// Fills `bytes`. Failure of the system's generator stops the process: there is no safe way on.
    fn fill(&self, bytes: &mut [u8]);

    /// A random number.
    fn next_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

/// The system's generator.
#[derive(Debug, Default)]
pub struct SystemRandom(());

impl SystemRandom {
    /// The generator.
    #[must_use]
    pub const fn new() -> Self {
        Self(())
    }
}

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) {
        if !buffered::try_fill(bytes, draw) {
            draw(bytes);
        }
    }
}

fn draw(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).expect("the system's random generator works");
}

/// xorshift64*, seeded: repeatable and worthless for secrets (Marsaglia 2003, Vigna 2016).
#[derive(Debug)]
pub struct SeededRandom(Mutex<u64>);

impl SeededRandom {
    /// A generator that repeats for a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        // Zero is the one state the generator never leaves, and stands for the seed that leads to it.
        let state = spread(seed);
        Self(Mutex::new(if state == 0 { GOLDEN_GAMMA } else { state }))
    }
}

/// 2^64 divided by the golden ratio.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// One step of splitmix64 (Steele, Lea, Flood 2014): a bijection, under which seeds that differ in
/// one bit lead to states that differ in half of theirs.
const fn spread(seed: u64) -> u64 {
    let mut word = seed.wrapping_add(GOLDEN_GAMMA);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

impl Random for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) {
        let mut state = self.0.lock();
        for chunk in bytes.chunks_mut(8) {
            *state ^= *state >> 12;
            *state ^= *state << 25;
            *state ^= *state >> 27;
            let word = state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_seed_has_a_stream_of_its_own() {
        let first_words: BTreeSet<u64> =
            (0..10_000).map(|seed| SeededRandom::new(seed).next_u64()).collect();
        assert_eq!(first_words.len(), 10_000);
        // Reference value of splitmix64 for the seed 0.
        assert_eq!(spread(0), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn no_seed_leads_to_a_generator_that_stands_still() {
        let standing = 0_u64.wrapping_sub(GOLDEN_GAMMA);
        assert_eq!(spread(standing), 0);
        let random = SeededRandom::new(standing);
        assert_ne!(random.next_u64(), random.next_u64());
    }

    #[test]
    fn a_seed_repeats() {
        let words = || {
            let random = SeededRandom::new(7);
            [random.next_u64(), random.next_u64()]
        };
        assert_eq!(words(), words());
    }
}
