//! Randomness: from the system for secrets, from a seed for simulations.

mod stock;

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
        if !stock::serves(bytes, draw) {
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
        Self(Mutex::new(seed ^ 0x9e37_79b9_7f4a_7c15 | 1))
    }
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
