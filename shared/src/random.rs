//! Random numbers as a function of where they are needed, not of who drew before.
//!
//! A [`Stream`] is an endless row of numbers named by (seed, domain, index); any place in it is reached at
//! once, so that every node makes the same numbers, and any row of a matrix is made alone. The scheme,
//! [`SCHEME`]:
//!
//! - words: ChaCha with 8 rounds, 64-bit block counter from 0, and as nonce the stream's index (64 bits). The
//!   key's 32 bytes are the seed (8, little-endian), the domain's number (8, little-endian) and zeros;
//! - number `i` takes words `2i` and `2i + 1`: `u64 = word[2i] + 2^32 word[2i + 1]`, of which the upper 53
//!   bits `b` count;
//! - uniform `i` is `b / 2^53`, in `[0, 1)`;
//! - normals `2i` and `2i + 1` are Box and Muller's pair of numbers `2i` and `2i + 1`:
//!   `sqrt(-2 ln((b + 1) / 2^53))` times the cosine and the sine of `2 pi b' / 2^53`.
//!
//! Logarithm, sine and cosine are `libm`'s in f64: the standard library's differ between platforms. `pairs.rs` works them
//! out for many numbers at once.

mod pairs;

use pulp::Arch;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use pairs::PAIRS;

/// The name of the scheme above; it changes whenever any number would.
pub const SCHEME: &str = "chacha8-boxmuller-1";

/// What a stream's numbers are for; streams of different domains share nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// Projection matrices, by layer.
    Projection = 1,
    /// The optimiser's samples, by layer.
    Search = 2,
    /// Choices among examples.
    Sample = 3,
}

/// One endless row of random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    seed: u64,
    domain: Domain,
    index: u64,
}

impl Stream {
    /// The stream of a run's `seed` for a purpose; `index` tells streams of one purpose apart (the layer,
    /// say).
    pub const fn new(seed: u64, domain: Domain, index: u64) -> Self {
        Self { seed, domain, index }
    }

    /// Raw 32-bit words from place `first` on.
    pub fn fill_words(&self, first: u64, out: &mut [u32]) {
        let mut generator = self.generator(u128::from(first));
        for word in out {
            *word = generator.next_u32();
        }
    }

    /// Uniform numbers in `[0, 1)` from place `first` on.
    pub fn fill_uniforms(&self, first: u64, out: &mut [f64]) {
        self.uniforms(first, out, |uniform| uniform);
    }

    /// Standard normal numbers from place `first` on.
    pub fn fill_normals(&self, first: u64, out: &mut [f64]) {
        self.normals(first, out, |normal| normal);
    }

    /// `make` of each uniform number.
    pub(crate) fn uniforms<T>(&self, first: u64, out: &mut [T], make: impl Fn(f64) -> T) {
        let mut generator = self.generator(2 * u128::from(first));
        for value in out {
            *value = make(fraction(generator.next_u64()));
        }
    }

    /// `make` of each standard normal number.
    pub(crate) fn normals<T>(&self, first: u64, out: &mut [T], make: impl Fn(f64) -> T) {
        let mut generator = self.generator(2 * u128::from(first & !1));
        let (mut bytes, mut words, mut made) = ([0; 16 * PAIRS], [0; 2 * PAIRS], [0.0; 2 * PAIRS]);
        let arch = Arch::new();
        let mut skipped = (first & 1) as usize; // it may start inside a pair
        let mut rest = out;
        while !rest.is_empty() {
            let count = rest.len().min(2 * PAIRS - skipped);
            let wanted = (skipped + count).div_ceil(2);
            generator.fill_bytes(&mut bytes[..16 * wanted]);
            for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
                *word = u64::from_le_bytes(*bytes);
            }
            pairs::make(arch, &words, &mut made);
            let (now, later) = rest.split_at_mut(count);
            now.iter_mut().zip(&made[skipped..]).for_each(|(value, normal)| *value = make(*normal));
            (rest, skipped) = (later, 0);
        }
    }

    fn generator(&self, word: u128) -> ChaCha8Rng {
        let mut key = [0; 32];
        let head = self.seed.to_le_bytes().into_iter().chain((self.domain as u64).to_le_bytes());
        for (byte, value) in key.iter_mut().zip(head) {
            *byte = value;
        }
        let mut generator = ChaCha8Rng::from_seed(key);
        generator.set_stream(self.index);
        generator.set_word_pos(word);
        generator
    }
}

/// 2^-53: f64's resolution below one.
const STEP: f64 = 1.0 / (1_u64 << 53) as f64;

/// In `[0, 1)`.
#[inline(always)] // into loops of any vectors' width
fn fraction(bits: u64) -> f64 {
    (bits >> 11) as f64 * STEP
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: Stream = Stream::new(42, Domain::Projection, 3);

    #[test]
    fn words_are_chacha8() {
        // ChaCha8, all-zero key, zero nonce, block 0 (the eSTREAM reference vector): only the domain keeps us
        // from it.
        let mut generator = ChaCha8Rng::from_seed([0; 32]);
        assert_eq!([generator.next_u32(), generator.next_u32()], [0x2fef_003e, 0xd640_5f89]);
    }

    #[test]
    fn any_place_is_reached_alone() {
        let (mut words, mut uniforms, mut normals) = ([0; 400], [0.0; 200], [0.0; 200]);
        STREAM.fill_words(0, &mut words);
        STREAM.fill_uniforms(0, &mut uniforms);
        STREAM.fill_normals(0, &mut normals);
        for first in 0..190 {
            for count in [0, 1, 2, 3, 10] {
                let (from, mut part, mut small) = (first as u64, vec![0; count], vec![0.0; count]);
                STREAM.fill_words(from, &mut part);
                assert_eq!(part, words[first..first + count]);
                STREAM.fill_uniforms(from, &mut small);
                assert_eq!(small, uniforms[first..first + count]);
                STREAM.fill_normals(from, &mut small);
                assert_eq!(small, normals[first..first + count]);
            }
        }
    }

    #[test]
    fn far_places_work() {
        let mut last = [0.0; 2];
        STREAM.fill_normals(u64::MAX, &mut last[..1]);
        STREAM.fill_normals(u64::MAX - 1, &mut last);
        assert!(last.iter().all(|x| x.is_finite()));
    }

    #[test]
    fn streams_differ_by_seed_domain_and_index() {
        let streams = [
            STREAM,
            Stream::new(43, Domain::Projection, 3),
            Stream::new(42 + (1 << 32), Domain::Projection, 3),
            Stream::new(42, Domain::Search, 3),
            Stream::new(42, Domain::Sample, 3),
            Stream::new(42, Domain::Projection, 4),
            Stream::new(42, Domain::Projection, 3 + (1 << 32)),
        ];
        let mut seen = std::collections::BTreeSet::new();
        for stream in streams {
            let mut words = [0; 4];
            stream.fill_words(0, &mut words);
            assert!(seen.insert(words), "{stream:?}");
        }
    }

    /// Mean, variance, third and fourth moment, and the correlation of neighbours, of n numbers.
    fn moments(numbers: &[f64]) -> [f64; 5] {
        let mean_of = |f: &dyn Fn(usize) -> f64| {
            (0..numbers.len() - 1).map(f).sum::<f64>() / (numbers.len() - 1) as f64
        };
        let power = |p: i32| mean_of(&|i| numbers[i].powi(p));
        [power(1), power(2), power(3), power(4), mean_of(&|i| numbers[i] * numbers[i + 1])]
    }

    #[test]
    fn normals_are_standard() {
        let n = 1_000_000;
        let mut normals = vec![0.0; n];
        STREAM.fill_normals(0, &mut normals);
        // The variance of each estimate's summand; five standard errors.
        for ((found, expected), variance) in
            moments(&normals).iter().zip([0.0, 1.0, 0.0, 3.0, 0.0]).zip([1.0, 2.0, 15.0, 96.0, 1.0_f64])
        {
            assert!((found - expected).abs() < 5.0 * (variance / n as f64).sqrt(), "{found} for {expected}");
        }
        let beyond = normals.iter().filter(|x| x.abs() > 3.0).count() as f64 / n as f64;
        assert!((beyond - 0.002_699_8).abs() < 5.0 * (0.0027 / n as f64).sqrt(), "{beyond} beyond 3");
    }

    #[test]
    fn uniforms_fill_the_unit_interval() {
        let n = 1_000_000;
        let mut uniforms = vec![0.0; n];
        STREAM.fill_uniforms(0, &mut uniforms);
        assert!(uniforms.iter().all(|u| (0.0..1.0).contains(u)));
        let mut tenths = [0.0; 10];
        for u in &uniforms {
            tenths[(u * 10.0) as usize] += 1.0 / n as f64;
        }
        assert!(
            tenths.iter().all(|share| (share - 0.1).abs() < 5.0 * (0.09 / n as f64).sqrt()),
            "{tenths:?}"
        );
    }
}
