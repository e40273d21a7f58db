//! Box and Muller's pairs, many at once: `libm`'s logarithm, sine and cosine with every choice between two formulas made by a
//! selection instead of a branch, so that the compiler makes vectors of the loops. Each pair has the bits that `libm`'s own
//! functions give (`the_same_bits_as_libm`), whatever the vectors' width.
//!
//! The formulas and constants are those of FreeBSD's msun, which `libm` ported (Copyright (C) 1993 by Sun Microsystems, Inc.;
//! permission to use, copy, modify and distribute is freely granted, provided that this notice is preserved).
#![allow(clippy::excessive_precision)] // the digits are msun's

use std::f64::consts::TAU;

use pulp::{Arch, NullaryFnOnce};

use super::{STEP, fraction};

/// Pairs made at once.
pub(super) const PAIRS: usize = 64;

/// So many pairs' numbers, one after the other, from their 64-bit words, with the widest vectors there are.
pub(super) fn make(arch: Arch, words: &[u64; 2 * PAIRS], numbers: &mut [f64; 2 * PAIRS]) {
    arch.dispatch(Make { words, numbers });
}

struct Make<'a> {
    words: &'a [u64; 2 * PAIRS],
    numbers: &'a mut [f64; 2 * PAIRS],
}

impl NullaryFnOnce for Make<'_> {
    type Output = ();

    #[inline(always)] // else it is compiled for the narrowest vectors
    fn call(self) {
        let (mut radii, mut angles) = ([0.0; PAIRS], [0.0; PAIRS]);
        let (mut sines, mut cosines) = ([0.0; PAIRS], [0.0; PAIRS]);
        for ((radius, angle), words) in radii.iter_mut().zip(&mut angles).zip(self.words.chunks_exact(2)) {
            // In (0, 1]: the logarithm of zero never happens.
            *radius = fraction(words[0]) + STEP;
            *angle = TAU * fraction(words[1]);
        }
        for radius in &mut radii {
            // IEEE 754 fixes the square root: the standard library's is the same everywhere.
            *radius = (-2.0 * log(*radius)).sqrt();
        }
        for ((sine, cosine), angle) in sines.iter_mut().zip(&mut cosines).zip(&angles) {
            (*sine, *cosine) = sincos(*angle);
        }
        if angles.iter().fold(false, |any, angle| any | delicate(*angle)) {
            let lanes = sines.iter_mut().zip(&mut cosines).zip(&angles);
            for ((sine, cosine), angle) in lanes.filter(|(_, angle)| delicate(**angle)) {
                (*sine, *cosine) = libm::sincos(*angle);
            }
        }
        let lanes = radii.iter().zip(&cosines).zip(&sines);
        for (pair, ((radius, cosine), sine)) in self.numbers.as_chunks_mut().0.iter_mut().zip(lanes) {
            *pair = [radius * cosine, radius * sine];
        }
    }
}

/// `libm::log` of a number in `[2^-1022, infinity)`.
#[inline(always)]
fn log(x: f64) -> f64 {
    const LN2_HI: f64 = 6.931_471_803_691_238_164_90e-1;
    const LN2_LO: f64 = 1.908_214_929_270_587_700_02e-10;
    const LG: [f64; 7] = [
        6.666_666_666_666_735_130e-1,
        3.999_999_999_940_941_908e-1,
        2.857_142_874_366_239_149e-1,
        2.222_219_843_214_978_396e-1,
        1.818_357_216_161_805_012e-1,
        1.531_383_769_920_937_332e-1,
        1.479_819_860_511_658_591e-1,
    ];
    /// The root of a half, its upper word: mantissas lie between it and twice it.
    const LEAST: u64 = 0x3fe6_a09e << 32;
    const ONE: u64 = 0x3ff0_0000 << 32;
    // 2^52 as f64: its last bits are an integer's
    const WHOLE: u64 = 0x4330_0000 << 32;
    let bits = x.to_bits() + (ONE - LEAST);
    let k = f64::from_bits(WHOLE | (bits >> 52)) - (f64::from_bits(WHOLE) + 1023.0);
    let f = f64::from_bits((bits & (u64::MAX >> 12)) + LEAST) - 1.0;
    let hfsq = 0.5 * f * f;
    let s = f / (2.0 + f);
    let z = s * s;
    let w = z * z;
    let t1 = w * (LG[1] + w * (LG[3] + w * LG[5]));
    let t2 = z * (LG[0] + w * (LG[2] + w * (LG[4] + w * LG[6])));
    let r = t2 + t1;
    s * (hfsq + r) + k * LN2_LO - hfsq + f + k * LN2_HI
}

/// The least f64 whose upper word is this one.
const fn from_upper(word: u32) -> f64 {
    f64::from_bits((word as u64) << 32)
}

/// Where `libm` begins to count quarter turns: it takes the nearest one off.
const QUARTERS: [f64; 4] =
    [from_upper(0x3fe9_21fc), from_upper(0x4002_d97d), from_upper(0x400f_6a7b), from_upper(0x4015_fdbd)];

/// Angles so near a whole number of quarter turns that `libm` takes it off in more steps: their upper words.
const DELICATE: [u64; 4] = [0x3ff9_21fb, 0x4009_21fb, 0x4012_d97c, 0x4019_21fb];

#[inline(always)]
fn delicate(angle: f64) -> bool {
    let upper = angle.to_bits() >> 32;
    DELICATE.iter().fold(false, |any, word| any | (upper == *word))
}

/// `libm::sincos` of an angle in `[0, 2 pi)` that is not [`delicate`].
#[inline(always)]
fn sincos(x: f64) -> (f64, f64) {
    const PIO2: f64 = 1.570_796_326_734_125_614_17; // 33 bits of half of pi, and what is missing
    const PIO2_TAIL: f64 = 6.077_100_506_506_192_249_32e-11;
    let at_least = |from: f64| if x >= from { 1.0 } else { 0.0 };
    let n = at_least(QUARTERS[0]) + at_least(QUARTERS[1]) + at_least(QUARTERS[2]) + at_least(QUARTERS[3]);
    let turned = x - n * PIO2;
    let y = turned - n * PIO2_TAIL;
    let tail = (turned - y) - n * PIO2_TAIL;
    let (s, c) = (sine(y, tail, n == 0.0), cosine(y, tail));
    let (s, c) = if n == 1.0 || n == 3.0 { (c, s) } else { (s, c) };
    let minus = |negative: bool, v: f64| if negative { -v } else { v };
    (minus(n == 2.0 || n == 3.0, s), minus(n == 1.0 || n == 2.0, c))
}

/// `libm`'s `k_sin`: of `x + tail` within an eighth of a turn; `alone`: there is no tail.
#[inline(always)]
fn sine(x: f64, tail: f64, alone: bool) -> f64 {
    const S: [f64; 6] = [
        -1.666_666_666_666_663_243_48e-1,
        8.333_333_333_322_489_461_24e-3,
        -1.984_126_982_985_794_931_34e-4,
        2.755_731_370_707_006_767_89e-6,
        -2.505_076_025_340_686_341_95e-8,
        1.589_690_995_211_550_102_21e-10,
    ];
    let z = x * x;
    let w = z * z;
    let r = S[1] + z * (S[2] + z * S[3]) + z * w * (S[4] + z * S[5]);
    let v = z * x;
    let without = x + v * (S[0] + z * r);
    let with = x - ((z * (0.5 * tail - v * r) - tail) - v * S[0]);
    if alone { without } else { with }
}

/// `libm`'s `k_cos`: of `x + tail` within an eighth of a turn.
#[inline(always)]
fn cosine(x: f64, tail: f64) -> f64 {
    const C: [f64; 6] = [
        4.166_666_666_666_660_190_37e-2,
        -1.388_888_888_887_410_957_49e-3,
        2.480_158_728_947_672_941_78e-5,
        -2.755_731_435_139_066_330_35e-7,
        2.087_572_321_298_174_827_90e-9,
        -1.135_964_755_778_819_482_65e-11,
    ];
    let z = x * x;
    let w = z * z;
    let r = z * (C[0] + z * (C[1] + z * C[2])) + w * w * (C[3] + z * (C[4] + z * C[5]));
    let hz = 0.5 * z;
    let w = 1.0 - hz;
    w + (((1.0 - w) - hz) + (z * r - x * tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of 53 bits about which something changes, and many others.
    fn numbers() -> Vec<u64> {
        let most = (1_u64 << 53) - 1;
        let mut numbers: Vec<u64> = (0..200).chain(most - 200..=most).collect();
        numbers.extend((0..53).flat_map(|bit| (1_u64 << bit).saturating_sub(50)..(1 << bit) + 50));
        numbers.extend((1..4_u64).flat_map(|quarter| (quarter << 51) - 300..(quarter << 51) + 300));
        let edges = QUARTERS.into_iter().chain(DELICATE.map(|word| from_upper(word as u32)));
        let roots = (1..40).map(|k| TAU * 0.5_f64.sqrt() / f64::from(1 << (k % 8)) * f64::from(k) / 8.0);
        for edge in edges.chain(roots.filter(|x| *x < TAU)) {
            let near = (edge / TAU / STEP) as u64;
            // all around it, and as far as its upper word goes
            numbers.extend(near - 300..near + 300);
            numbers.extend((0..4000).map(|i| near - (1 << 33) + i * (1 << 23) + i));
        }
        numbers.extend((0..400_000).map(|i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11));
        numbers.into_iter().map(|number| number.min(most)).collect()
    }

    #[test]
    fn the_same_bits_as_libm() {
        let (numbers, mut delicate_ones) = (numbers(), 0);
        let mut words: Vec<u64> =
            numbers.iter().zip(numbers.iter().rev()).flat_map(|(a, b)| [a << 11, (b << 11) | 5]).collect();
        words.resize(words.len().next_multiple_of(2 * PAIRS), 0);
        let mut numbers = [0.0; 2 * PAIRS];
        for words in words.chunks_exact(2 * PAIRS) {
            make(Arch::new(), words.try_into().unwrap(), &mut numbers);
            for (words, found) in words.chunks_exact(2).zip(numbers.chunks_exact(2)) {
                let (distance, angle) = (fraction(words[0]) + STEP, TAU * fraction(words[1]));
                let (radius, (s, c)) = ((-2.0 * libm::log(distance)).sqrt(), libm::sincos(angle));
                assert_eq!(found[0].to_bits(), (radius * c).to_bits(), "{distance:e} {angle:e}");
                assert_eq!(found[1].to_bits(), (radius * s).to_bits(), "{distance:e} {angle:e}");
                assert_eq!(log(distance).to_bits(), libm::log(distance).to_bits(), "{distance:e}");
                delicate_ones += usize::from(delicate(angle));
            }
        }
        assert!(delicate_ones > 4000, "{delicate_ones}");
    }
}
