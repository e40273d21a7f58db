//! The processor's own limit: multiply-adds on registers alone, nothing read or written.
//!
//! Sixteen sums run side by side: more than the latency of one times the units there are, so that the units are the
//! limit.

use std::time::{Duration, Instant};

use super::{Level, instructions, level};

/// Sums side by side.
const SUMS: usize = 16;
/// Rounds between two looks at the clock: some microseconds.
const ROUNDS: usize = 4096;

/// The instruction that a product is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// Fused multiply-add of `f32`.
    F32,
    /// Pairs of `bf16` summed in `f32`: `vdpbf16ps`.
    Bf16,
    /// Fours of bytes summed in 32 bits: `vpdpbusd`.
    Int8,
}

impl Instruction {
    /// Whether this processor has it; fused multiply-adds there are always, if slow ones.
    pub fn here(self) -> bool {
        match self {
            Self::F32 => true,
            Self::Bf16 => instructions().bf16,
            Self::Int8 => instructions().int8,
        }
    }

    /// Operations a second that this thread reaches in about `time`; `None` where the processor has no such
    /// instruction.
    pub fn burst(self, time: Duration) -> Option<f64> {
        if !self.here() {
            return None;
        }
        let began = Instant::now();
        let mut done = 0.0;
        loop {
            done += self.rounds();
            let spent = began.elapsed();
            if spent >= time {
                return Some(done / spent.as_secs_f64());
            }
        }
    }

    /// Runs [`ROUNDS`] of [`SUMS`] instructions; returns the operations in them.
    fn rounds(self) -> f64 {
        let lanes = match (self, level()) {
            #[cfg(target_arch = "x86_64")]
            (Self::F32, Level::Avx512) => {
                // SAFETY: this level exists only where the processor has AVX-512F.
                unsafe { x86::f32_wide() };
                16
            }
            #[cfg(target_arch = "x86_64")]
            (Self::F32, Level::Avx2) => {
                // SAFETY: this level exists only where the processor has AVX2 and FMA.
                unsafe { x86::f32_half() };
                8
            }
            #[cfg(target_arch = "x86_64")]
            (Self::Bf16, _) => {
                // SAFETY: `burst` has seen by `here` that the processor has AVX512-BF16.
                unsafe { x86::bf16() };
                32
            }
            #[cfg(target_arch = "x86_64")]
            (Self::Int8, _) => {
                // SAFETY: `burst` has seen by `here` that the processor has AVX512-VNNI.
                unsafe { x86::int8() };
                64
            }
            _ => {
                plain();
                1
            }
        };
        (2 * lanes * SUMS * ROUNDS) as f64
    }
}

/// One lane: what the plain kernels do an element.
fn plain() {
    let (x, y) = std::hint::black_box((1.0_f32, 1e-9_f32));
    let mut sums = [0.0_f32; SUMS];
    for _ in 0..ROUNDS {
        sums.iter_mut().for_each(|sum| *sum = x.mul_add(y, *sum));
    }
    std::hint::black_box(sums);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! Each loop is a chain for each of its sums; what enters and leaves is hidden from the compiler, which can
    //! neither shorten floating-point chains nor see that integer ones repeat.

    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{ROUNDS, SUMS};

    #[target_feature(enable = "avx512f")]
    pub(super) fn f32_wide() {
        let (x, y) = black_box((_mm512_set1_ps(1.0), _mm512_set1_ps(1e-9)));
        let mut sums = [_mm512_setzero_ps(); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(x, y, *sum);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn f32_half() {
        let (x, y) = black_box((_mm256_set1_ps(1.0), _mm256_set1_ps(1e-9)));
        let mut sums = [_mm256_setzero_ps(); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(x, y, *sum);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn bf16() {
        let (x, y) = black_box((_mm512_set1_ps(1.0), _mm512_set1_ps(1e-9)));
        let (x, y) = (_mm512_cvtne2ps_pbh(x, x), _mm512_cvtne2ps_pbh(y, y));
        let mut sums = [_mm512_setzero_ps(); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, x, y);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn int8() {
        let (x, y) = black_box((_mm512_set1_epi8(3), _mm512_set1_epi8(1)));
        let mut sums = [_mm512_setzero_si512(); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, x, y);
            }
        }
        black_box(sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Packed, gemm};

    /// The limit is one: no product of ours goes beyond it, and a wider instruction does more.
    #[test]
    fn no_product_is_faster_and_narrow_numbers_are() {
        // the shortest bursts, the best of many: other processes may want the same core
        let best = |instruction: Instruction| {
            let bursts = (0..2000).filter_map(|_| instruction.burst(Duration::ZERO));
            bursts.fold(0.0_f64, f64::max)
        };
        let peak = best(Instruction::F32);
        let (rows, size) = (96, 256);
        let weight = Packed::from_rows(&vec![0.5; size * size], size, size);
        let (x, mut out) = (vec![0.5; rows * size], vec![0.0; rows * size]);
        let product = || {
            let began = Instant::now();
            gemm(&x, size, rows, &weight, None, &mut out, size);
            (2 * rows * size * size) as f64 / began.elapsed().as_secs_f64()
        };
        let fastest = std::iter::repeat_with(product).take(200).fold(0.0_f64, f64::max);
        assert!(peak > 0.9 * fastest, "peak {peak:.3e}, a product {fastest:.3e}");
        for narrow in [Instruction::Bf16, Instruction::Int8].into_iter().filter(|kind| kind.here()) {
            assert!(best(narrow) > 1.3 * peak, "{narrow:?} {:.3e}, f32 {peak:.3e}", best(narrow));
        }
        assert!(Instruction::F32.here());
    }
}
