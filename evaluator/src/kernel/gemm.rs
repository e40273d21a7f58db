//! The matrix product in `f32`: rows times a weight matrix packed once, `out = x W^T + bias`.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::tile::float_tile;
use super::tile::{PANEL, Panel, Start, Target, Tile, View, columns, fits, plain_tile, run_panel};
use super::{Level, level};

/// Depth of one block of `k`.
const BLOCK: usize = 768;

/// A matrix ready to be multiplied by: `outputs` columns of depth `k`.
#[derive(Clone, Debug, Default)]
pub struct Packed {
    outputs: usize,
    k: usize,
    panels: Vec<f32>,
}

impl Packed {
    /// Packs a weight of a linear layer, row-major `[outputs, k]`, as checkpoints store it.
    ///
    /// # Panics
    /// When `weight` has another size: the caller has checked shapes while loading.
    pub fn from_rows(weight: &[f32], outputs: usize, k: usize) -> Self {
        assert_eq!(weight.len(), outputs * k, "weight of a linear layer");
        let mut packed = Self::default();
        packed.fill(outputs, k, |output, depth| weight[output * k + depth]);
        packed
    }

    /// Refills with `outputs` columns of depth `k`, element by element; keeps the allocation.
    pub(crate) fn fill(&mut self, outputs: usize, k: usize, element: impl Fn(usize, usize) -> f32) {
        self.reset(outputs, k);
        for (panel, columns) in self.panels.chunks_exact_mut(PANEL * k.max(1)).enumerate() {
            let first = panel * PANEL;
            let width = PANEL.min(outputs - first);
            for (depth, row) in columns.chunks_exact_mut(PANEL).enumerate() {
                for (column, value) in row[..width].iter_mut().enumerate() {
                    *value = element(first + column, depth);
                }
            }
        }
    }

    /// Refills from columns given as rows: `row(depth)` holds the `outputs` values.
    pub(crate) fn fill_rows<'a>(&mut self, outputs: usize, k: usize, row: impl Fn(usize) -> &'a [f32]) {
        self.reset(outputs, k);
        for (panel, columns) in self.panels.chunks_exact_mut(PANEL * k.max(1)).enumerate() {
            let first = panel * PANEL;
            let width = PANEL.min(outputs - first);
            for (depth, out) in columns.chunks_exact_mut(PANEL).enumerate() {
                out[..width].copy_from_slice(&row(depth)[first..first + width]);
            }
        }
    }

    /// Refills from columns: `column(output)` holds its `k` values.
    pub(crate) fn fill_columns<'a>(&mut self, outputs: usize, k: usize, column: impl Fn(usize) -> &'a [f32]) {
        self.reset(outputs, k);
        for (panel, columns) in self.panels.chunks_exact_mut(PANEL * k.max(1)).enumerate() {
            let first = panel * PANEL;
            for at in 0..PANEL.min(outputs - first) {
                let values = &column(first + at)[..k];
                columns.iter_mut().skip(at).step_by(PANEL).zip(values).for_each(|(out, x)| *out = *x);
            }
        }
    }

    fn reset(&mut self, outputs: usize, k: usize) {
        (self.outputs, self.k) = (outputs, k);
        // what a last panel holds beyond `outputs` is computed with and thrown away: it may be anything
        self.panels.resize(outputs.div_ceil(PANEL) * PANEL * k, 0.0);
    }

    /// The weight as it was packed, row-major `[outputs, k]`.
    pub(crate) fn rows(&self) -> Vec<f32> {
        let of = |output: usize| {
            let panel = &self.panels[output / PANEL * PANEL * self.k..][..PANEL * self.k];
            panel.iter().skip(output % PANEL).step_by(PANEL).copied()
        };
        (0..self.outputs).flat_map(of).collect()
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Depth.
    pub fn depth(&self) -> usize {
        self.k
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.panels.len() * size_of::<f32>()
    }
}

/// `out[r, :outputs] = x[r, :k] W^T + bias` for `rows` rows; `x` has rows `x_stride` apart, `out` `out_stride`.
/// Without a bias the products start from zero.
///
/// # Panics
/// When a slice is too short for its shape.
pub fn gemm(
    x: &[f32],
    x_stride: usize,
    rows: usize,
    weight: &Packed,
    bias: Option<&[f32]>,
    out: &mut [f32],
    out_stride: usize,
) {
    let target = Target { out, stride: out_stride };
    gemm_at(level(), View { x, stride: x_stride, rows }, weight, bias, target);
}

pub(super) fn gemm_at(
    level: Level,
    x: View<'_, f32>,
    weight: &Packed,
    bias: Option<&[f32]>,
    mut target: Target<'_>,
) {
    let (outputs, k) = (weight.outputs, weight.k);
    if fits(&x, (outputs, k), bias, &target) {
        for (panel, weights) in weight.panels.chunks_exact(PANEL * k).enumerate() {
            multiply_panel(level, x, weights, columns(panel, outputs), bias, &mut target);
        }
    }
}

/// All rows by one panel, `weights` (`[k][64]`), into the outputs `columns`; [`fits`] has checked the slices.
pub(super) fn multiply_panel(
    level: Level,
    x: View<'_, f32>,
    weights: &[f32],
    columns: Range<usize>,
    bias: Option<&[f32]>,
    target: &mut Target<'_>,
) {
    let panel = Panel { weights, width: columns.len(), bias: bias.map(|bias| &bias[columns.clone()]) };
    run_panel(x, panel, BLOCK, (target, columns.start), |tile, start, out, stride| match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this level exists only where the processor has AVX-512F.
        Level::Avx512 => unsafe { avx512::run(tile, start, out, stride) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this level exists only where the processor has AVX2 and FMA.
        Level::Avx2 => unsafe { avx2(tile, start, out, stride) },
        _ => plain(tile, start, out, stride),
    });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(tile: &Tile<'_, f32>, start: Start<'_>, out: &mut [f32], stride: usize) {
    plain(tile, start, out, stride);
}

/// The same chains of fused multiply-adds in plain Rust.
#[inline(always)]
fn plain(tile: &Tile<'_, f32>, start: Start<'_>, out: &mut [f32], stride: usize) {
    plain_tile(tile, start, out, stride, |sum, x, weight| x.mul_add(weight, sum));
}

float_tile!(avx512, f32, "avx512f", |sum, x, w| _mm512_fmadd_ps(
    _mm512_castsi512_ps(x),
    _mm512_castsi512_ps(w),
    sum
));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::numbers;

    fn product(level: Level, x: &[f32], rows: usize, weight: &Packed, bias: Option<&[f32]>) -> Vec<f32> {
        let mut out = vec![f32::NAN; rows * weight.outputs()];
        let stride = weight.outputs();
        gemm_at(
            level,
            View { x, stride: weight.depth(), rows },
            weight,
            bias,
            Target { out: &mut out, stride },
        );
        out
    }

    fn levels() -> Vec<Level> {
        match level() {
            Level::Avx512 => vec![Level::Avx512, Level::Avx2, Level::Plain],
            Level::Avx2 => vec![Level::Avx2, Level::Plain],
            Level::Plain => vec![Level::Plain],
        }
    }

    #[test]
    fn equals_a_chain_of_fused_multiply_adds_at_every_level_and_shape() {
        for (rows, outputs, k) in
            [(1, 1, 1), (6, 64, 8), (7, 65, 769), (13, 130, 40), (5, 33, 1600), (2, 48, 17)]
        {
            let (x, w, bias) = (numbers(rows * k, 1), numbers(outputs * k, 2), numbers(outputs, 3));
            let weight = Packed::from_rows(&w, outputs, k);
            let chain = |r: usize, o: usize, start: f32| {
                (0..k).fold(start, |sum, d| x[r * k + d].mul_add(w[o * k + d], sum))
            };
            for level in levels() {
                let with = product(level, &x, rows, &weight, Some(&bias));
                let without = product(level, &x, rows, &weight, None);
                for (r, o) in (0..rows).flat_map(|r| (0..outputs).map(move |o| (r, o))) {
                    let at = format!("{level:?} {rows}x{outputs}x{k} at {r},{o}");
                    assert_eq!(with[r * outputs + o].to_bits(), chain(r, o, bias[o]).to_bits(), "{at}");
                    assert_eq!(without[r * outputs + o].to_bits(), chain(r, o, 0.0).to_bits(), "{at}");
                }
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_among_others() {
        let (rows, outputs, k) = (17, 100, 300);
        let (x, w) = (numbers(rows * k, 4), numbers(outputs * k, 5));
        let weight = Packed::from_rows(&w, outputs, k);
        let together = product(level(), &x, rows, &weight, None);
        for r in 0..rows {
            let alone = product(level(), &x[r * k..(r + 1) * k], 1, &weight, None);
            assert_eq!(alone, together[r * outputs..(r + 1) * outputs]);
        }
    }
}
