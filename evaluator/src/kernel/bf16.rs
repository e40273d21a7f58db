//! The matrix product in bfloat16: inputs and weights rounded, sums in `f32`.
//!
//! One instruction, `vdpbf16ps`, adds two products to each of sixteen sums. What it does was found by experiment and is
//! checked against `step` below, bit for bit: two fused multiply-adds, the second number of a pair first, with
//! subnormal numbers taken and given as zero.

use std::cell::RefCell;

#[cfg(target_arch = "x86_64")]
use super::tile::float_tile;
use super::tile::{PANEL, Panel, Start, Target, Tile, View, columns, fits, plain_tile, run_panel};
use super::{at_level, instructions, level};

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
    fn multiply_at(&self, fast: bool, x: View<'_, f32>, bias: Option<&[f32]>, mut target: Target<'_>) {
        if !fits(&x, (self.outputs, self.k), bias, &target) {
            return;
        }
        let pairs = self.k.div_ceil(2);
        ROUNDED.with_borrow_mut(|rounded| {
            for first in (0..x.rows).step_by(ROWS) {
                let rows = ROWS.min(x.rows - first);
                rounded.resize(rounded.len().max(rows * pairs), 0);
                for (row, out) in rounded.chunks_exact_mut(pairs).take(rows).enumerate() {
                    round_row(&x.x[(first + row) * x.stride..][..self.k], out);
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
fn round_row(row: &[f32], out: &mut [u32]) {
    at_level!(level(), round_row_body[row: &[f32], out: &mut [u32]]);
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
