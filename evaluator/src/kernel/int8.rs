//! The matrix product in 8-bit integers: inputs and weights rounded, sums exact.
//!
//! Each output's weights are `scale * w` with `w` in -127..=127. Each row of inputs is `scale * (u - zero)` with `u` in
//! 0..=255, its scale and zero taken from its own least and largest number. So `sum (u - zero) w` is a sum of integers,
//! `sum u w - zero * sum w`, which no order of summing changes; it becomes `f32` at the end.

use std::cell::RefCell;

use super::instructions;
use super::tile::{PANEL, TILE, Target, Tile, View, columns, fits};

/// Rows that are rounded at a time: bounds the buffers.
const ROWS: usize = 512;

thread_local! {
    /// The rows being multiplied; they grow to the deepest product's and stay.
    static ROUNDED: RefCell<Rounded> = RefCell::default();
}

/// Rows of four 8-bit numbers a word, and what each row's numbers stand for.
#[derive(Default)]
struct Rounded {
    words: Vec<u32>,
    grids: Vec<Grid>,
}

/// What the integers `u` of a row stand for: `scale * (u - zero)`.
#[derive(Clone, Copy, Default)]
struct Grid {
    scale: f32,
    zero: i32,
}

/// A matrix of 8-bit integers ready to be multiplied by: panels of fours, `[outputs/64][k/4][64][4]`.
#[derive(Clone, Debug)]
pub(crate) struct PackedInt8 {
    outputs: usize,
    k: usize,
    panels: Vec<u32>,
    /// Of each output, up to whole panels.
    scales: Vec<f32>,
    /// Sum of each output's integers.
    sums: Vec<i32>,
}

impl PackedInt8 {
    /// Rounds and packs a weight of a linear layer, row-major `[outputs, k]`, as checkpoints store it.
    ///
    /// # Panics
    /// When `weight` has another size: the caller has checked shapes while loading.
    pub(crate) fn from_rows(weight: &[f32], outputs: usize, k: usize) -> Self {
        assert_eq!(weight.len(), outputs * k, "weight of a linear layer");
        let (words, padded) = (k.div_ceil(4), outputs.div_ceil(PANEL) * PANEL);
        let (mut panels, mut scales, mut sums) =
            (vec![0; padded * words], vec![0.0; padded], vec![0; padded]);
        // beyond 66,311 inputs a sum of the largest products would leave an i32, so there weights get fewer steps
        let most = (i32::MAX as usize / (255 * k.max(1))).min(127) as f32;
        for (output, row) in weight.chunks_exact(k.max(1)).enumerate() {
            let scale = row.iter().fold(0.0_f32, |most, x| most.max(x.abs())) / most;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            let round = |x: &f32| (x * inverse).round_ties_even().clamp(-most, most) as i8;
            let first = output / PANEL * PANEL * words + output % PANEL;
            for (place, numbers) in panels[first..].iter_mut().step_by(PANEL).zip(row.chunks(4)) {
                let mut four = [0; 4];
                four.iter_mut().zip(numbers).for_each(|(four, x)| *four = round(x));
                sums[output] += four.iter().map(|&w| i32::from(w)).sum::<i32>();
                *place = u32::from_le_bytes(four.map(|w| w as u8));
            }
            scales[output] = scale;
        }
        Self { outputs, k, panels, scales, sums }
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
            + size_of_val(self.scales.as_slice())
            + size_of_val(self.sums.as_slice())
    }

    /// Bytes that a product by it holds beside its rows, a thread.
    pub(crate) fn product_bytes(&self) -> usize {
        ROWS * (self.k.div_ceil(4) * size_of::<u32>() + size_of::<Grid>())
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
        self.multiply_at(instructions().int8, x, bias, Target { out, stride: out_stride });
    }

    /// With the instruction, or in plain Rust.
    fn multiply_at(&self, fast: bool, x: View<'_, f32>, bias: Option<&[f32]>, target: Target<'_>) {
        if !fits(&x, (self.outputs, self.k), bias, &target) {
            return;
        }
        let words = self.k.div_ceil(4);
        ROUNDED.with_borrow_mut(|rounded| {
            for first in (0..x.rows).step_by(ROWS) {
                let rows = ROWS.min(x.rows - first);
                rounded.words.resize(rounded.words.len().max(rows * words), 0);
                rounded.grids.clear();
                for (row, out) in rounded.words.chunks_exact_mut(words).take(rows).enumerate() {
                    rounded.grids.push(round_row(fast, &x.x[(first + row) * x.stride..][..self.k], out));
                }
                let out = &mut target.out[first * target.stride..];
                self.run(fast, rounded, bias, &mut Target { out, stride: target.stride });
            }
        });
    }

    fn run(&self, fast: bool, x: &Rounded, bias: Option<&[f32]>, target: &mut Target<'_>) {
        let words = self.k.div_ceil(4);
        for (panel, weights) in self.panels.chunks_exact(PANEL * words).enumerate() {
            let columns = columns(panel, self.outputs);
            let whole = panel * PANEL..(panel + 1) * PANEL;
            for (group, grids) in x.grids.chunks(TILE).enumerate() {
                let row = group * TILE;
                let tile = Tile {
                    x: &x.words[row * words..],
                    stride: words,
                    rows: grids.len(),
                    weights,
                    depth: words,
                    width: columns.len(),
                };
                let end = End {
                    grids,
                    scales: &self.scales[whole.clone()],
                    sums: &self.sums[whole.clone()],
                    bias: bias.map(|bias| &bias[columns.clone()]),
                };
                let out = &mut target.out[row * target.stride + columns.start..];
                match fast {
                    #[cfg(target_arch = "x86_64")]
                    // SAFETY: `fast` says that the processor has AVX-512 and AVX512-VNNI.
                    true => unsafe { avx512::run(&tile, &end, out, target.stride) },
                    _ => plain(&tile, &end, out, target.stride),
                }
            }
        }
    }
}

/// What makes numbers of a tile's sums.
struct End<'a> {
    /// Of each row.
    grids: &'a [Grid],
    /// Of each of 64 outputs.
    scales: &'a [f32],
    sums: &'a [i32],
    bias: Option<&'a [f32]>,
}

/// Rounds a row. One with an infinite number, or none, gets a scale that is no number, so that its outputs are none.
fn round_row(fast: bool, row: &[f32], out: &mut [u32]) -> Grid {
    let (least, most, poison) = match fast {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `fast` says that the processor has AVX-512.
        true => unsafe { avx512::range(row) },
        _ => plain_range(row),
    };
    let scale = (most - least) / 255.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let zero = (-least * inverse).round_ties_even();
    match fast {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        true => unsafe { avx512::round(row, out, inverse, zero) },
        _ => plain_round(row, out, inverse, zero),
    }
    Grid { scale: scale + poison, zero: zero as i32 }
}

/// A row's least and largest number, zero among them, and zero times their sum: no number where one is infinite or none.
fn plain_range(row: &[f32]) -> (f32, f32, f32) {
    let see =
        |(least, most, poison): (f32, f32, f32), &x: &f32| (least.min(x), most.max(x), poison + x * 0.0);
    row.iter().fold((0.0, 0.0, 0.0), see)
}

/// Added to a small number it leaves its nearest integer in the lowest bits, of two the even one.
const ROUND: f32 = 12_582_912.0;

/// Each number as `x / scale + zero`, rounded, within 0..=255; four a word, the last word filled up with anything.
fn plain_round(row: &[f32], out: &mut [u32], inverse: f32, zero: f32) {
    for (word, numbers) in out.iter_mut().zip(row.chunks(4)) {
        let mut four = [0; 4];
        for (byte, x) in four.iter_mut().zip(numbers) {
            *byte = x.mul_add(inverse, ROUND + zero).clamp(ROUND, ROUND + 255.0).to_bits() as u8;
        }
        *word = u32::from_le_bytes(four);
    }
}

/// The tile in plain Rust.
fn plain(tile: &Tile<'_, u32>, end: &End<'_>, out: &mut [f32], stride: usize) {
    for (row, grid) in end.grids.iter().enumerate() {
        let x = &tile.x[row * tile.stride..][..tile.depth];
        for (column, out) in out[row * stride..][..tile.width].iter_mut().enumerate() {
            let weights = tile.weights[column..].iter().step_by(PANEL);
            let start = end.sums[column].wrapping_mul(-grid.zero);
            let sum = x.iter().zip(weights).fold(start, |sum, (&x, &w)| step(sum, x, w));
            let bias = end.bias.map_or(0.0, |bias| bias[column]);
            *out = (sum as f32).mul_add(grid.scale * end.scales[column], bias);
        }
    }
}

/// What `vpdpbusd` does to one sum.
fn step(sum: i32, x: u32, weight: u32) -> i32 {
    let products = x.to_le_bytes().into_iter().zip(weight.to_le_bytes());
    products.fold(sum, |sum, (x, w)| sum.wrapping_add(i32::from(x) * i32::from(w as i8)))
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! The tile with 512-bit vectors.

    use std::arch::x86_64::*;

    use super::{End, ROUND, Tile};
    use crate::kernel::tile::{PANEL, chains, mask, pick};

    /// As the plain one: no order of taking minima and maxima changes them.
    #[target_feature(enable = "avx512f")]
    pub(super) fn range(row: &[f32]) -> (f32, f32, f32) {
        let nothing = _mm512_setzero_ps();
        let (mut least, mut most, mut poison) = (nothing, nothing, nothing);
        for numbers in row.chunks(16) {
            // SAFETY: masked lanes are not read.
            let x = unsafe { _mm512_maskz_loadu_ps(mask(numbers.len()), numbers.as_ptr()) };
            // where the first is no number these give the second
            least = _mm512_min_ps(x, least);
            most = _mm512_max_ps(x, most);
            poison = _mm512_fmadd_ps(x, nothing, poison);
        }
        (_mm512_reduce_min_ps(least), _mm512_reduce_max_ps(most), _mm512_reduce_add_ps(poison))
    }

    /// As the plain one, sixteen numbers at a time.
    #[target_feature(enable = "avx512f")]
    pub(super) fn round(row: &[f32], out: &mut [u32], inverse: f32, zero: f32) {
        let (inverse, bottom) = (_mm512_set1_ps(inverse), _mm512_set1_ps(ROUND + zero));
        let (least, most) = (_mm512_set1_ps(ROUND), _mm512_set1_ps(ROUND + 255.0));
        for (numbers, words) in row.chunks(16).zip(out.chunks_mut(4)) {
            // SAFETY: masked lanes are not read.
            let x = unsafe { _mm512_maskz_loadu_ps(mask(numbers.len()), numbers.as_ptr()) };
            // where the first is no number these give the second
            let rounded = _mm512_max_ps(_mm512_fmadd_ps(x, inverse, bottom), least);
            let rounded = _mm512_castps_si512(_mm512_min_ps(rounded, most));
            let mut four = [0; 4];
            // SAFETY: `four` has the vector's 16 bytes.
            unsafe { _mm_storeu_si128(four.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(rounded)) };
            words.copy_from_slice(&four[..words.len()]);
        }
    }

    /// Runs a tile into `out`, whose rows are `stride` apart, with as many vectors as its width needs.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn run(tile: &Tile<'_, u32>, end: &End<'_>, out: &mut [f32], stride: usize) {
        pick!(tile, kernel(tile, end, out, stride))
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn kernel<const R: usize, const V: usize>(
        tile: &Tile<'_, u32>,
        end: &End<'_>,
        out: &mut [f32],
        stride: usize,
    ) {
        debug_assert!(out.len() >= (R - 1) * stride + tile.width && tile.width > (V - 1) * 16);
        debug_assert!(end.grids.len() == R && end.scales.len() == PANEL && end.sums.len() == PANEL);
        let last = mask(tile.width - (V - 1) * 16);
        let full = |v: usize| if v + 1 == V { last } else { 0xffff };
        let mut sums = [[_mm512_setzero_si512(); V]; R];
        // SAFETY: `fits` and the walk guarantee `R` rows of `depth` words in `x`, `depth` panels of 64 in `weights`, and
        // `R` rows of `width` numbers in `out`; `width > (V - 1) * 16`, and masked lanes are neither read nor written.
        // `bias` has `width` numbers, `scales` and `sums` 64, `grids` `R`.
        unsafe {
            for (r, row) in sums.iter_mut().enumerate() {
                let zero = _mm512_set1_epi32(-end.grids[r].zero);
                for (v, sum) in row.iter_mut().enumerate() {
                    *sum = _mm512_mullo_epi32(_mm512_loadu_si512(end.sums.as_ptr().add(v * 16).cast()), zero);
                }
            }
            chains!(tile, sums, V, |sum, x, w| _mm512_dpbusd_epi32(sum, x, w));
            for v in 0..V {
                let scales = _mm512_loadu_ps(end.scales.as_ptr().add(v * 16));
                let bias = match end.bias {
                    Some(bias) => _mm512_maskz_loadu_ps(full(v), bias.as_ptr().add(v * 16)),
                    None => _mm512_setzero_ps(),
                };
                for (r, sums) in sums.iter().enumerate() {
                    let scale = _mm512_mul_ps(_mm512_set1_ps(end.grids[r].scale), scales);
                    let value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[v]), scale, bias);
                    _mm512_mask_storeu_ps(out.as_mut_ptr().add(r * stride + v * 16), full(v), value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
