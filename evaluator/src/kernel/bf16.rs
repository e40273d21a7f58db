//! The matrix product in bfloat16: inputs and weights rounded, sums in `f32`.
//!
//! One instruction, `vdpbf16ps`, adds two products to each of sixteen sums. What it does was found by experiment and is
//! checked against `step` below, bit for bit: two fused multiply-adds, the second number of a pair first, with
//! subnormal numbers taken and given as zero.

use std::cell::RefCell;

#[cfg(target_arch = "x86_64")]
use super::tile::float_tile;
use super::tile::{PANEL, Panel, Start, Target, Tile, View, columns, fits, plain_tile, run_panel};
use super::{Level, at_level, instructions, level};

/// Pairs of depth in one block.
const BLOCK: usize = 768;
/// Rows that are rounded at a time: bounds the buffer.
const ROWS: usize = 512;

thread_local! {
    /// The rows being multiplied, as pairs; it grows to the deepest product's and stays.
    static ROUNDED: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// A matrix of bfloat16 ready to be multiplied by: panels of pairs, `[outputs/64][k/2][64][2]`.
#[derive(Clone, Debug)]
pub(crate) struct PackedBf16 {
    outputs: usize,
    k: usize,
    panels: Vec<u32>,
}

impl PackedBf16 {
    /// Rounds and packs a weight of a linear layer, row-major `[outputs, k]`, as checkpoints store it.
    ///
    /// # Panics
    /// When `weight` has another size: the caller has checked shapes while loading.
    pub(crate) fn from_rows(weight: &[f32], outputs: usize, k: usize) -> Self {
        assert_eq!(weight.len(), outputs * k, "weight of a linear layer");
        let pairs = k.div_ceil(2);
        let mut panels = vec![0; outputs.div_ceil(PANEL) * PANEL * pairs];
        for (output, row) in weight.chunks_exact(k.max(1)).enumerate() {
            let first = output / PANEL * PANEL * pairs + output % PANEL;
            let places = panels[first..].iter_mut().step_by(PANEL);
            places.zip(row.chunks(2)).for_each(|(place, numbers)| *place = pair(numbers));
        }
        Self { outputs, k, panels }
    }

    /// Number of outputs.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Depth.
    pub(crate) fn depth(&self) -> usize {
        self.k
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(self.panels.as_slice())
    }

    /// Bytes that a product by it holds beside its rows, a thread.
    pub(crate) fn product_bytes(&self) -> usize {
        ROWS * self.k.div_ceil(2) * size_of::<u32>()
    }

    /// As [`gemm`](super::gemm()), rounded.
    ///
    /// # Panics
    /// When a slice is too short for its shape.
    pub(crate) fn multiply(
        &self,
        x: &[f32],
        x_stride: usize,
        rows: usize,
        bias: Option<&[f32]>,
        out: &mut [f32],
        out_stride: usize,
    ) {
        let x = View { x, stride: x_stride, rows };
        self.multiply_at(instructions().bf16, x, bias, Target { out, stride: out_stride });
    }

    /// With the instruction, or in plain Rust.
    fn multiply_at(&self, fast: bool, x: View<'_, f32>, bias: Option<&[f32]>, target: Target<'_>) {
        if !fits(&x, (self.outputs, self.k), bias, &target) {
            return;
        }
        let pairs = self.k.div_ceil(2);
        ROUNDED.with_borrow_mut(|rounded| {
            for first in (0..x.rows).step_by(ROWS) {
                let rows = ROWS.min(x.rows - first);
                rounded.resize(rounded.len().max(rows * pairs), 0);
                for (row, out) in rounded.chunks_exact_mut(pairs).take(rows).enumerate() {
                    round_row(
                        if fast { level() } else { Level::Plain },
                        &x.x[(first + row) * x.stride..][..self.k],
                        out,
                    );
                }
                let x = View { x: rounded.as_slice(), stride: pairs, rows };
                let out = &mut target.out[first * target.stride..];
                self.run(fast, x, bias, &mut Target { out, stride: target.stride });
            }
        });
    }

    fn run(&self, fast: bool, x: View<'_, u32>, bias: Option<&[f32]>, target: &mut Target<'_>) {
        for (panel, weights) in self.panels.chunks_exact(PANEL * self.k.div_ceil(2)).enumerate() {
            let columns = columns(panel, self.outputs);
            let bias = bias.map(|bias| &bias[columns.clone()]);
            let panel = Panel { weights, width: columns.len(), bias };
            run_panel(x, panel, BLOCK, (target, columns.start), |tile, start, out, stride| match fast {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `fast` says that the processor has AVX-512 and AVX512-BF16.
                true => unsafe { avx512::run(tile, start, out, stride) },
                _ => plain(tile, start, out, stride),
            });
        }
    }
}

/// Rounds a row into pairs; an odd last number gets a zero.
fn round_row(level: Level, row: &[f32], out: &mut [u32]) {
    at_level!(level, round_row_body[row: &[f32], out: &mut [u32]]);
}

#[inline(always)]
fn round_row_body(row: &[f32], out: &mut [u32]) {
    let (whole, rest) = row.as_chunks::<2>();
    out.iter_mut().zip(whole).for_each(|(out, numbers)| *out = pair(numbers));
    if !rest.is_empty() {
        out[whole.len()] = pair(rest);
    }
}

/// One or two numbers, the first in the low half.
#[inline(always)]
fn pair(numbers: &[f32]) -> u32 {
    let high = numbers.get(1).map_or(0, |&x| u32::from(round(x)));
    u32::from(round(numbers[0])) | high << 16
}

/// To the nearest bfloat16, of two the even one; what is no number stays none.
#[inline(always)]
fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    ((if x.is_nan() { bits | 0x40_0000 } else { rounded }) >> 16) as u16
}

/// The tile in plain Rust.
fn plain(tile: &Tile<'_, u32>, start: Start<'_>, out: &mut [f32], stride: usize) {
    plain_tile(tile, start, out, stride, step);
}

/// What `vdpbf16ps` does to one sum.
fn step(sum: f32, x: u32, weight: u32) -> f32 {
    let high = |word: u32| f32::from_bits(word & 0xffff_0000);
    let low = |word: u32| f32::from_bits(word << 16);
    let add = |sum: f32, x: f32, weight: f32| flush(flush(x).mul_add(flush(weight), flush(sum)));
    add(add(sum, high(x), high(weight)), low(x), low(weight))
}

/// A subnormal number as zero.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0_f32.copysign(x) } else { x }
}

float_tile!(avx512, u32, "avx512f,avx512bf16", |sum, x, w| {
    // SAFETY: vectors of the same size, any bits are numbers.
    let (x, w) = (std::mem::transmute::<__m512i, __m512bh>(x), std::mem::transmute::<__m512i, __m512bh>(w));
    _mm512_dpbf16_ps(sum, x, w)
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{numbers, wild};

    const SHAPES: [(usize, usize, usize); 8] = [
        (1, 1, 1),
        (6, 64, 8),
        (7, 65, 769),
        (13, 130, 41),
        (5, 33, 1600),
        (2, 48, 17),
        (515, 3, 5),
        (4, 20, 1537),
    ];

    fn product(
        fast: bool,
        (x, rows): (&[f32], usize),
        weight: &PackedBf16,
        bias: Option<&[f32]>,
    ) -> Vec<f32> {
        let mut out = vec![f32::NAN; rows * weight.outputs];
        let target = Target { out: &mut out, stride: weight.outputs };
        weight.multiply_at(fast, View { x, stride: weight.k, rows }, bias, target);
        out
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|x| if x.is_nan() { f32::NAN } else { *x }.to_bits()).collect()
    }

    #[test]
    fn the_instruction_and_plain_rust_agree_to_the_bit() {
        if !instructions().bf16 {
            eprintln!("skipped: no AVX512-BF16");
            return;
        }
        for (rows, outputs, k) in SHAPES {
            for make in [numbers, wild] {
                let (x, w, bias) = (make(rows * k, 1), make(outputs * k, 3), make(outputs, 5));
                let weight = PackedBf16::from_rows(&w, outputs, k);
                for bias in [None, Some(bias.as_slice())] {
                    let fast = product(true, (&x, rows), &weight, bias);
                    let plain = product(false, (&x, rows), &weight, bias);
                    assert_eq!(bits(&fast), bits(&plain), "{rows}x{outputs}x{k}");
                }
            }
        }
        let x = [1.0, f32::INFINITY, 2.0, f32::NAN, -1.0, 3.0];
        let weight = PackedBf16::from_rows(&[0.5, 0.25], 1, 2);
        assert_eq!(bits(&product(true, (&x, 3), &weight, None)), bits(&[f32::INFINITY, f32::NAN, 0.25]));
    }

    /// Rounding either factor changes a product by 2^-8 of itself at most, and each of `k` sums adds 2^-24 of what was
    /// summed so far.
    #[test]
    fn is_as_near_to_the_exact_product_as_rounding_allows() {
        for (rows, outputs, k) in SHAPES {
            let (x, w, bias) = (numbers(rows * k, 1), numbers(outputs * k, 2), numbers(outputs, 3));
            let weight = PackedBf16::from_rows(&w, outputs, k);
            let found = product(instructions().bf16, (&x, rows), &weight, Some(&bias));
            for (r, o) in (0..rows).flat_map(|r| (0..outputs).map(move |o| (r, o))) {
                let products = (0..k).map(|d| f64::from(x[r * k + d]) * f64::from(w[o * k + d]));
                let exact: f64 = products.clone().sum::<f64>() + f64::from(bias[o]);
                let size: f64 = products.map(f64::abs).sum::<f64>() + f64::from(bias[o]).abs();
                let bound =
                    size * (2.0 * 2.0_f64.powi(-9) + 2.0_f64.powi(-18) + k as f64 * 2.0_f64.powi(-24));
                assert!((f64::from(found[r * outputs + o]) - exact).abs() <= bound, "{rows}x{outputs}x{k}");
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_among_others() {
        for (rows, outputs, k) in SHAPES {
            let (x, w) = (numbers(rows * k, 4), numbers(outputs * k, 5));
            let weight = PackedBf16::from_rows(&w, outputs, k);
            let together = product(instructions().bf16, (&x, rows), &weight, None);
            for r in 0..rows {
                let alone = product(instructions().bf16, (&x[r * k..(r + 1) * k], 1), &weight, None);
                assert_eq!(bits(&alone), bits(&together[r * outputs..(r + 1) * outputs]));
            }
        }
    }

    #[test]
    fn rounds_to_the_nearest_of_two_the_even_one() {
        for (x, rounded) in [
            (1.0, 0x3f80),
            (f32::from_bits(0x3f80_8000), 0x3f80), // half way, down to even
            (f32::from_bits(0x3f81_8000), 0x3f82), // half way, up to even
            (f32::from_bits(0x3f80_8001), 0x3f81),
            (f32::MAX, 0x7f80),
            (-0.0, 0x8000),
        ] {
            assert_eq!(round(x), rounded, "{x}");
        }
        assert!(f32::from_bits(u32::from(round(f32::NAN)) << 16).is_nan());
    }
}
