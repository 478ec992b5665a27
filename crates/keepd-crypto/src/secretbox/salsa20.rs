//! Salsa20 as a keystream, many blocks at a time; HSalsa20 for the key of one value.
//!
//! A block is a function of 16 words, of which only a counter differs between blocks. So the same
//! word of eight blocks lies in one array of eight lanes, and each step of the function is one
//! instruction for all lanes. A ninth block goes beside them through the scalar units, which would
//! idle; so it costs a fifth of what it would alone, and values of 512 bytes, 1 KiB and so on need
//! just one block more than they have themselves.

use zeroize::Zeroize;

const BLOCK_LEN: usize = 64;
/// Number of blocks that a run makes at most.
const RUN_BLOCKS: usize = LANES + 1;
pub(super) const RUN_LEN: usize = RUN_BLOCKS * BLOCK_LEN;

const LANES: usize = 8;
const DOUBLE_ROUNDS: usize = 10;
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// Input of a block; the ninth word counts blocks.
type Words = [u32; 16];
type Block = [u8; BLOCK_LEN];

/// The keystream for one value.
pub(super) struct Keystream {
    /// Input of the next block.
    input: Words,
    /// The blocks made last, from the first on.
    run: [Block; RUN_BLOCKS],
}

impl Keystream {
    #[inline(always)]
    pub(super) fn new(key: &[u8; 32], nonce: &[u8; 24]) -> Self {
        let [n0, n1, n2, n3, n4, n5] = words(nonce);
        let mut key_of_value = hsalsa20(&words(key), [n0, n1, n2, n3]);
        let input = arranged(&key_of_value, [n4, n5, 0, 0]);
        key_of_value.as_mut_slice().zeroize();
        Self { input, run: [[0; BLOCK_LEN]; RUN_BLOCKS] }
    }

    /// The next bytes, enough for `len`, which is at most a run's. The bytes after these begin with
    /// the next whole block.
    #[inline(always)]
    pub(super) fn next_run(&mut self, len: usize) -> &[u8] {
        let blocks = len.div_ceil(BLOCK_LEN);
        assert!(blocks <= RUN_BLOCKS, "the caller asks for a run at a time");
        match blocks {
            0 | 1 => {
                let [first, ..] = &mut self.run;
                single(&self.input, first);
            }
            2..=LANES => side_by_side::<false>(&self.input, &mut self.run),
            _ => side_by_side::<true>(&self.input, &mut self.run),
        }
        self.input = counted(&self.input, blocks);
        self.run.as_flattened()
    }
}

impl Drop for Keystream {
    #[inline(always)]
    fn drop(&mut self) {
        // As slices, since arrays are wiped byte by byte.
        self.input.as_mut_slice().zeroize();
        self.run.as_flattened_mut().zeroize();
    }
}

/// The key for the values whose nonces begin so.
#[inline(always)]
fn hsalsa20(key: &[u32; 8], nonce: [u32; 4]) -> [u32; 8] {
    let mut x = arranged(key, nonce);
    for _ in 0..DOUBLE_ROUNDS {
        double_round(&mut x);
    }
    let [x0, _, _, _, _, x5, x6, x7, x8, x9, x10, _, _, _, _, x15] = x;
    [x0, x5, x10, x15, x6, x7, x8, x9]
}

/// Little-endian words; `bytes` has four times as many bytes.
#[inline(always)]
fn words<const BYTES: usize, const WORDS: usize>(bytes: &[u8; BYTES]) -> [u32; WORDS] {
    const { assert!(BYTES == 4 * WORDS) };
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}

#[inline(always)]
fn arranged(key: &[u32; 8], rest: [u32; 4]) -> Words {
    let [c0, c1, c2, c3] = CONSTANTS;
    let [k0, k1, k2, k3, k4, k5, k6, k7] = *key;
    let [n0, n1, n2, n3] = rest;
    [c0, k0, k1, k2, k3, c1, n0, n1, n2, n3, c2, k4, k5, k6, k7, c3]
}

/// The words for a block further on. No value is so long that the next word would be reached.
#[inline(always)]
fn counted(input: &Words, blocks: usize) -> Words {
    let blocks = u32::try_from(blocks).expect("a run has nine blocks");
    let mut words = *input;
    let [.., counter, _, _, _, _, _, _, _] = &mut words;
    *counter = counter.wrapping_add(blocks);
    words
}

/// One block.
#[inline(always)]
fn single(input: &Words, block: &mut Block) {
    let mut x = *input;
    for _ in 0..DOUBLE_ROUNDS {
        double_round(&mut x);
    }
    put_sum(&x, input, block);
}

/// A block for each lane, and one more if `NINTH`.
///
/// The loop over the lanes is the inner one and holds no branch: so the compiler makes of it one
/// pass with a vector for each word, which it then keeps in registers.
#[expect(clippy::indexing_slicing, reason = "lanes are counted up to their number")]
#[expect(clippy::needless_range_loop, reason = "iterators over the lanes are not vectorised")]
#[inline(always)]
fn side_by_side<const NINTH: bool>(input: &Words, run: &mut [Block; RUN_BLOCKS]) {
    let [blocks @ .., ninth_block] = run;
    let mut inputs = input.map(|word| [word; LANES]);
    for (lane, counter) in (0..).zip(&mut inputs[8]) {
        *counter = counter.wrapping_add(lane);
    }
    let ninth_input = counted(input, LANES);
    let (mut x, mut ninth) = (inputs, ninth_input);
    for _ in 0..DOUBLE_ROUNDS {
        if NINTH {
            double_round(&mut ninth);
        }
        for lane in 0..LANES {
            let mut of_lane: Words = std::array::from_fn(|word| x[word][lane]);
            double_round(&mut of_lane);
            for word in 0..16 {
                x[word][lane] = of_lane[word];
            }
        }
    }
    for (word, input) in x.iter_mut().zip(inputs) {
        for (value, input) in word.iter_mut().zip(input) {
            *value = value.wrapping_add(input);
        }
    }
    for (lane, block) in blocks.iter_mut().enumerate() {
        for (place, word) in block.as_chunks_mut().0.iter_mut().zip(&x) {
            *place = word[lane].to_le_bytes();
        }
    }
    if NINTH {
        put_sum(&ninth, &ninth_input, ninth_block);
    }
}

#[inline(always)]
fn put_sum(x: &Words, input: &Words, block: &mut Block) {
    for ((place, value), input) in block.as_chunks_mut().0.iter_mut().zip(x).zip(input) {
        *place = value.wrapping_add(*input).to_le_bytes();
    }
}

/// The columns, then the rows of the square of words.
#[inline(always)]
fn double_round(x: &mut Words) {
    let [x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15] = x;
    quarter_round(x0, x4, x8, x12);
    quarter_round(x5, x9, x13, x1);
    quarter_round(x10, x14, x2, x6);
    quarter_round(x15, x3, x7, x11);
    quarter_round(x0, x1, x2, x3);
    quarter_round(x5, x6, x7, x4);
    quarter_round(x10, x11, x8, x9);
    quarter_round(x15, x12, x13, x14);
}

#[inline(always)]
fn quarter_round(a: &mut u32, b: &mut u32, c: &mut u32, d: &mut u32) {
    *b ^= a.wrapping_add(*d).rotate_left(7);
    *c ^= b.wrapping_add(*a).rotate_left(9);
    *d ^= c.wrapping_add(*b).rotate_left(13);
    *a ^= d.wrapping_add(*c).rotate_left(18);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex<const N: usize>(text: &str) -> [u8; N] {
        let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16).unwrap()).unwrap();
        let digits: Vec<u8> = text.bytes().map(digit).collect();
        let pairs = digits.as_chunks().0.iter();
        let bytes: Vec<u8> = pairs.map(|[high, low]| high << 4 | low).collect();
        bytes.try_into().unwrap()
    }

    fn keystream(first_key_byte: u8) -> Keystream {
        let mut key = [0; 32];
        key[0] = first_key_byte;
        let input = arranged(&words(&key), [0; 4]);
        Keystream { input, run: [[0; BLOCK_LEN]; RUN_BLOCKS] }
    }

    #[test]
    fn the_keystream_equals_ecrypts_first_vector() {
        let expected = [
            (
                0,
                "e3be8fdd8beca2e3ea8ef9475b29a6e7003951e1097a5c38d23b7a5fad9f6844\
                 b22c97559e2723c7cbbd3fe4fc8d9a0744652a83e72a9c461876af4d7ef1a117",
            ),
            (
                192,
                "57be81f47b17d9ae7c4ff15429a73e10acf250ed3a90a93c711308a74c6216a9\
                 ed84cd126da7f28e8abf8bb63517e1ca98e712f4fb2e1a6aed9fdc73291faa17",
            ),
            (
                448,
                "696afcfd0cddcc83c7e77f11a649d79acdc3354e9635ff137e929933a0bd6f53\
                 77efa105a3a4266b7c0d089d08f1e855cc32b15b93784a36e56a76cc64bc8477",
            ),
        ];
        let mut keystream = keystream(0x80);
        let run = keystream.next_run(RUN_LEN);
        for (at, block) in expected {
            let (_, from) = run.split_at(at);
            assert_eq!(from.first_chunk(), Some(&unhex::<BLOCK_LEN>(block)), "byte {at}");
        }
    }

    #[test]
    fn runs_of_any_length_continue_one_another() {
        let blocks_in_turn = |turns: &[usize]| -> Vec<u8> {
            let mut keystream = keystream(1);
            let mut made = Vec::new();
            for blocks in turns {
                let run = keystream.next_run(blocks * BLOCK_LEN);
                made.extend_from_slice(run.split_at(blocks * BLOCK_LEN).0);
            }
            made
        };
        let singly = blocks_in_turn(&[1; 90]);
        assert_eq!(blocks_in_turn(&[9; 10]), singly);
        assert_eq!(blocks_in_turn(&[8; 11]), singly.split_at(88 * BLOCK_LEN).0);
        for blocks in 2..=RUN_BLOCKS {
            let turns = [blocks, 1, 9, blocks, 8, blocks];
            let len = turns.iter().sum::<usize>() * BLOCK_LEN;
            assert_eq!(blocks_in_turn(&turns), singly.split_at(len).0, "{blocks}");
        }
    }

    #[test]
    fn the_key_of_a_value_is_as_in_nacl() {
        let shared: [u8; 32] =
            unhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
        let first = unhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
        let second = unhex("dc908dda0b9344a953629b733820778880f3ceb421bb61b91cbd4c3e66256ce4");
        let nonce: [u8; 16] = unhex("69696ee955b62b73cd62bda875fc73d6");
        assert_eq!(hsalsa20(&words(&shared), [0; 4]), words::<32, 8>(&first));
        assert_eq!(hsalsa20(&words(&first), words(&nonce)), words::<32, 8>(&second));
    }
}
