//! Poly1305: the tag of a text under a key that is used once.
//!
//! The text's blocks of 16 bytes are the coefficients of a polynomial, whose value at the secret
//! point r is taken modulo 2^130 - 5. Short texts go by Horner's rule, two blocks at a time, in
//! three limbs of 44, 44 and 42 bits with products of 128 bits. Long ones, where the processor has
//! instructions for it, go four blocks at a time in lanes with limbs of 26 bits.
//!
//! Nothing here branches or indexes by secrets. Additions wrap in name only: the bounds of limbs
//! are given where they arise, and checks would cost as much as the sums.

use zeroize::Zeroize;

pub(super) const KEY_LEN: usize = 32;

const TAG_LEN: usize = 16;
const BLOCK_LEN: usize = 16;
const GROUP_LEN: usize = LANES * BLOCK_LEN;
const LANES: usize = 4;
/// From how many groups on the lanes are worth the powers of r that they need.
const GROUPS_MIN: usize = 3;
/// From what length on pairs of blocks are worth the square of r.
const PAIRS_LEN_MIN: usize = 96;

/// Bits of r that the standard keeps; it clears the others so that products stay small.
const CLAMP: u128 = 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;
const BITS_26: u64 = (1 << 26) - 1;
const BITS_42: u64 = (1 << 42) - 1;
const BITS_44: u64 = (1 << 44) - 1;

/// Limbs of 44, 44 and 42 bits; those of sums and products have a bit or two more.
type Limbs = [u64; 3];

/// Limbs of 26 bits; those of sums and products have a bit or two more.
type NarrowLimbs = [u64; 5];

/// A key for one text.
pub(super) struct OneTimeKey {
    r: Limbs,
    pad: u128,
}

impl OneTimeKey {
    #[inline(always)]
    pub(super) fn new(key: &[u8; KEY_LEN]) -> Self {
        let [r, pad] = key.as_chunks().0 else { unreachable!("twice 16 is 32") };
        Self { r: limbs(u128::from_le_bytes(*r) & CLAMP, 0), pad: u128::from_le_bytes(*pad) }
    }

    /// The tag of `text`.
    #[inline(always)]
    pub(super) fn tag<const WIDE: bool>(&self, text: &[u8]) -> [u8; TAG_LEN] {
        let point = Point::new(self.r);
        let (groups, _) = text.as_chunks::<GROUP_LEN>();
        let (sum, rest) = if WIDE && groups.len() >= GROUPS_MIN {
            let (_, rest) = text.split_at(groups.len() * GROUP_LEN);
            (by_lanes(&point, groups), rest)
        } else if text.len() >= PAIRS_LEN_MIN {
            by_pairs(&point, text)
        } else {
            ([0; 3], text)
        };
        reduced(by_blocks(&point, sum, rest)).wrapping_add(self.pad).to_le_bytes()
    }
}

impl Drop for OneTimeKey {
    #[inline(always)]
    fn drop(&mut self) {
        self.r.zeroize();
        self.pad.zeroize();
    }
}

/// A power of r, with multiples for what a product has beyond 2^130: there 4 * 5 limbs meet.
struct Point {
    limbs: Limbs,
    /// The upper two limbs times 20; below 2^49.
    folded: [u64; 2],
}

impl Point {
    #[inline(always)]
    fn new(limbs: Limbs) -> Self {
        let [_, r1, r2] = limbs;
        Self { limbs, folded: [r1.wrapping_mul(20), r2.wrapping_mul(20)] }
    }

    #[inline(always)]
    fn times(&self, other: &Self) -> Self {
        Self::new(carried(self.product(other.limbs)))
    }

    /// The product, not yet carried; limbs below 2^46 give sums below 2^97.
    #[inline(always)]
    fn product(&self, [h0, h1, h2]: Limbs) -> [u128; 3] {
        let [r0, r1, r2] = self.limbs;
        let [s1, s2] = self.folded;
        [
            sum([wide(h0, r0), wide(h1, s2), wide(h2, s1)]),
            sum([wide(h0, r1), wide(h1, r0), wide(h2, s2)]),
            sum([wide(h0, r2), wide(h1, r1), wide(h2, r0)]),
        ]
    }
}

/// The value so far, continued by the blocks of `text`; the last may be short.
#[inline(always)]
fn by_blocks(r: &Point, start: Limbs, text: &[u8]) -> Limbs {
    let (blocks, last) = text.as_chunks::<BLOCK_LEN>();
    let mut sum = start;
    for block in blocks {
        sum = carried(r.product(added(sum, limbs(u128::from_le_bytes(*block), 1))));
    }
    if !last.is_empty() {
        let mut block = [0; BLOCK_LEN];
        for (place, byte) in block.iter_mut().zip(last.iter().chain(&[1])) {
            *place = *byte;
        }
        sum = carried(r.product(added(sum, limbs(u128::from_le_bytes(block), 0))));
    }
    sum
}

/// The value of all pairs of blocks, and the bytes after them.
#[inline(always)]
fn by_pairs<'a>(r: &Point, text: &'a [u8]) -> (Limbs, &'a [u8]) {
    let square = r.times(r);
    let (blocks, _) = text.as_chunks::<BLOCK_LEN>();
    let (pairs, _) = blocks.as_chunks::<2>();
    let mut value = [0; 3];
    for [first, second] in pairs {
        let first = square.product(added(value, limbs(u128::from_le_bytes(*first), 1)));
        let second = r.product(limbs(u128::from_le_bytes(*second), 1));
        let [a0, a1, a2] = first;
        let [b0, b1, b2] = second;
        value = carried([sum([a0, b0, 0]), sum([a1, b1, 0]), sum([a2, b2, 0])]);
    }
    let (_, rest) = text.split_at(pairs.len() * 2 * BLOCK_LEN);
    (value, rest)
}

/// The value of all groups of four blocks.
///
/// Each lane sums every fourth block, one power of r^4 after the other; at the end its sum is
/// multiplied by the power of r that its place in the group asks for. The loops over the lanes
/// hold no branch, so that the compiler makes one pass of them.
#[expect(clippy::indexing_slicing, reason = "lanes are counted up to their number")]
#[inline(always)]
fn by_lanes(r: &Point, groups: &[[u8; GROUP_LEN]]) -> Limbs {
    let [fourth, cube, square, first] = narrow_powers(r);
    let mut sums = [[0; LANES]; 5];
    for group in groups {
        let (words, _) = group.as_chunks();
        for lane in 0..LANES {
            let low = u64::from_le_bytes(words[2 * lane]);
            let high = u64::from_le_bytes(words[2 * lane + 1]);
            let sum = std::array::from_fn(|limb| sums[limb][lane]);
            let product = narrow_product(sum, fourth);
            let block = narrow_limbs(low, high);
            for limb in 0..5 {
                sums[limb][lane] = product[limb].wrapping_add(block[limb]);
            }
        }
    }
    let powers: [[u64; LANES]; 5] =
        std::array::from_fn(|limb| [fourth[limb], cube[limb], square[limb], first[limb]]);
    for lane in 0..LANES {
        let power = std::array::from_fn(|limb| powers[limb][lane]);
        let sum = std::array::from_fn(|limb| sums[limb][lane]);
        let product = narrow_product(sum, power);
        for limb in 0..5 {
            sums[limb][lane] = product[limb];
        }
    }
    // Four limbs of little more than 26 bits each.
    widened(sums.map(|[a, b, c, d]| a.wrapping_add(b).wrapping_add(c.wrapping_add(d))))
}

/// The fourth, third, second and first power of r.
///
/// Not inlined: if the compiler saw that the limbs are short it would drop the masks in
/// [`narrow_sum`] and then, in the loop, no longer know that they are.
#[inline(never)]
fn narrow_powers(r: &Point) -> [NarrowLimbs; LANES] {
    let square = r.times(r);
    let powers = [&square.times(&square), &square.times(r), &square, r];
    powers.map(|power| narrowed(power.limbs))
}

/// The product, carried: limbs below 2^28 times limbs below 2^27 give limbs below 2^26 + 2^12.
#[inline(always)]
fn narrow_product([h0, h1, h2, h3, h4]: NarrowLimbs, power: NarrowLimbs) -> NarrowLimbs {
    let [r0, r1, r2, r3, r4] = power;
    let [_, s1, s2, s3, s4] = power.map(|limb| limb.wrapping_mul(5));
    let d0 = narrow_sum([(h0, r0), (h1, s4), (h2, s3), (h3, s2), (h4, s1)]);
    let d1 = narrow_sum([(h0, r1), (h1, r0), (h2, s4), (h3, s3), (h4, s2)]);
    let d2 = narrow_sum([(h0, r2), (h1, r1), (h2, r0), (h3, s4), (h4, s3)]);
    let d3 = narrow_sum([(h0, r3), (h1, r2), (h2, r1), (h3, r0), (h4, s4)]);
    let d4 = narrow_sum([(h0, r4), (h1, r3), (h2, r2), (h3, r1), (h4, r0)]);
    // Two chains side by side, since each carry waits for the one before.
    let (d0, d1) = carry_26(d0, d1);
    let (d3, d4) = carry_26(d3, d4);
    let (d1, d2) = carry_26(d1, d2);
    let over = d4 >> 26;
    let (d0, d4) = (d0.wrapping_add(over).wrapping_add(over << 2), d4 & BITS_26);
    let (d2, d3) = carry_26(d2, d3);
    let (d0, d1) = carry_26(d0, d1);
    let (d3, d4) = carry_26(d3, d4);
    [d0, d1, d2, d3, d4]
}

#[inline(always)]
fn carry_26(limb: u64, next: u64) -> (u64, u64) {
    (limb & BITS_26, next.wrapping_add(limb >> 26))
}

/// Five products of factors below 2^32; below 2^60 with the bounds above. The masks tell the
/// compiler that a multiplication of 32 bits does.
#[inline(always)]
fn narrow_sum(factors: [(u64, u64); 5]) -> u64 {
    const LOW: u64 = 0xffff_ffff;
    let [a, b, c, d, e] = factors.map(|(a, b)| (a & LOW).wrapping_mul(b & LOW));
    a.wrapping_add(b).wrapping_add(c.wrapping_add(d)).wrapping_add(e)
}

/// The limbs of a whole block, which has a one after its 128 bits.
#[inline(always)]
const fn narrow_limbs(low: u64, high: u64) -> NarrowLimbs {
    [
        low & BITS_26,
        (low >> 26) & BITS_26,
        ((low >> 52) | (high << 12)) & BITS_26,
        (high >> 14) & BITS_26,
        (high >> 40) | 1 << 24,
    ]
}

#[inline(always)]
const fn narrowed([h0, h1, h2]: Limbs) -> NarrowLimbs {
    let (h1, h2) = (h1 & BITS_44, h2.wrapping_add(h1 >> 44));
    [
        h0 & BITS_26,
        (h0 >> 26) | (h1 << 18) & BITS_26,
        (h1 >> 8) & BITS_26,
        (h1 >> 34) | (h2 << 10) & BITS_26,
        h2 >> 16,
    ]
}

#[inline(always)]
fn widened([h0, h1, h2, h3, h4]: NarrowLimbs) -> Limbs {
    let [h0, h1, h2, h3] = [h0, h1, h2, h3].map(u128::from);
    let lower = h0.wrapping_add(h1 << 26).wrapping_add(h2 << 52).wrapping_add(h3 << 78);
    let top = low(lower >> 88).wrapping_add(h4 << 16);
    let over = (top >> 42).wrapping_mul(5);
    [(low(lower) & BITS_44).wrapping_add(over), low(lower >> 44) & BITS_44, top & BITS_42]
}

/// The limbs of a block; `high` is the part after its 128 bits.
#[inline(always)]
fn limbs(block: u128, high: u64) -> Limbs {
    [low(block) & BITS_44, low(block >> 44) & BITS_44, low(block >> 88) | high << 40]
}

#[inline(always)]
fn added([a0, a1, a2]: Limbs, [b0, b1, b2]: Limbs) -> Limbs {
    [a0.wrapping_add(b0), a1.wrapping_add(b1), a2.wrapping_add(b2)]
}

#[inline(always)]
fn wide(a: u64, b: u64) -> u128 {
    u128::from(a).wrapping_mul(u128::from(b))
}

#[inline(always)]
fn sum([a, b, c]: [u128; 3]) -> u128 {
    a.wrapping_add(b).wrapping_add(c)
}

/// The low half.
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
#[inline(always)]
const fn low(number: u128) -> u64 {
    number as u64
}

/// Brings sums of products back to limbs: the first and last exact, the middle one below
/// 2^44 + 2^15.
#[inline(always)]
fn carried([d0, d1, d2]: [u128; 3]) -> Limbs {
    let d1 = sum([d1, u128::from(low(d0 >> 44)), 0]);
    let d2 = sum([d2, u128::from(low(d1 >> 44)), 0]);
    let h0 = (low(d0) & BITS_44).wrapping_add(low(d2 >> 42).wrapping_mul(5));
    [h0 & BITS_44, (low(d1) & BITS_44).wrapping_add(h0 >> 44), low(d2) & BITS_42]
}

/// The number modulo 2^130 - 5, and of that the low 128 bits.
#[inline(always)]
fn reduced(sum: Limbs) -> u128 {
    // Twice: a carry out of the top may carry through once more.
    let [h0, h1, h2] = carried_limbs(carried_limbs(sum));
    // The number plus 5 reaches 2^130 just if the number is not below the modulus.
    let g0 = h0.wrapping_add(5);
    let g1 = h1.wrapping_add(g0 >> 44);
    let g2 = h2.wrapping_add(g1 >> 44);
    let is_above = 0_u64.wrapping_sub(g2 >> 42);
    let h0 = (h0 & !is_above) | (g0 & BITS_44 & is_above);
    let h1 = (h1 & !is_above) | (g1 & BITS_44 & is_above);
    let h2 = (h2 & !is_above) | (g2 & is_above);
    u128::from(h0).wrapping_add(u128::from(h1) << 44).wrapping_add(u128::from(h2) << 88)
}

/// Passes on what the limbs have beyond their bits, once around.
#[inline(always)]
fn carried_limbs([h0, h1, h2]: Limbs) -> Limbs {
    let h1 = h1.wrapping_add(h0 >> 44);
    let h2 = h2.wrapping_add(h1 >> 44);
    let h0 = (h0 & BITS_44).wrapping_add((h2 >> 42).wrapping_mul(5));
    [h0, h1 & BITS_44, h2 & BITS_42]
}

#[cfg(test)]
mod tests;
