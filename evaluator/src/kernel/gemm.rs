//! The matrix product: rows times a weight matrix packed once, `out = x W^T + bias`.
//!
//! A packed matrix holds panels of 64 outputs, `[outputs/64][k][64]`, so that the inner loop reads weights in order.
//! A tile is 6 rows by 64 outputs: 24 AVX-512 accumulators. `k` runs in blocks that keep a panel in the second-level
//! cache; accumulators rest in `out` between two blocks, which loses no bit.

use std::ops::Range;

use super::{Level, level};

/// Outputs in one panel.
pub(super) const PANEL: usize = 64;
/// Rows in one tile.
const TILE: usize = 6;
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

    /// Refills from columns given as rows: `row(depth)` holds the `outputs` values of that depth (at most one panel).
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
        self.panels.clear();
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
    gemm_at(level(), View { x, x_stride, rows }, weight, bias, Target { out, out_stride });
}

/// Rows of the left matrix.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) x: &'a [f32],
    pub(super) x_stride: usize,
    pub(super) rows: usize,
}

/// Where the product goes.
pub(super) struct Target<'a> {
    pub(super) out: &'a mut [f32],
    pub(super) out_stride: usize,
}

pub(super) fn gemm_at(
    level: Level,
    x: View<'_>,
    weight: &Packed,
    bias: Option<&[f32]>,
    mut target: Target<'_>,
) {
    let (outputs, k) = (weight.outputs, weight.k);
    if fits(&x, (outputs, k), bias, &target) {
        for (panel, weights) in weight.panels.chunks_exact(PANEL * k).enumerate() {
            run_panel(level, x, (weights, k), columns(panel, outputs), bias, &mut target);
        }
    }
}

/// The outputs of a panel.
pub(super) fn columns(panel: usize, outputs: usize) -> Range<usize> {
    panel * PANEL..outputs.min((panel + 1) * PANEL)
}

/// Checks every slice against its shape; `false` where there is nothing to do.
pub(super) fn fits(
    x: &View<'_>,
    (outputs, k): (usize, usize),
    bias: Option<&[f32]>,
    target: &Target<'_>,
) -> bool {
    let rows = x.rows;
    if rows == 0 || outputs == 0 {
        return false;
    }
    assert!(k > 0 && x.x_stride >= k && target.out_stride >= outputs, "gemm: strides");
    assert!(x.x.len() >= (rows - 1) * x.x_stride + k, "gemm: x is too short");
    assert!(target.out.len() >= (rows - 1) * target.out_stride + outputs, "gemm: out is too short");
    assert!(bias.is_none_or(|bias| bias.len() == outputs), "gemm: bias");
    true
}

/// All rows by one panel, `weights` (`[k][64]`), into the outputs `columns`; [`fits`] has checked the slices.
pub(super) fn run_panel(
    level: Level,
    x: View<'_>,
    (weights, k): (&[f32], usize),
    columns: Range<usize>,
    bias: Option<&[f32]>,
    target: &mut Target<'_>,
) {
    for depth in (0..k).step_by(BLOCK) {
        let len = BLOCK.min(k - depth);
        let weights = &weights[depth * PANEL..][..len * PANEL];
        for row in (0..x.rows).step_by(TILE) {
            let tile = Tile {
                x: &x.x[row * x.x_stride + depth..],
                x_stride: x.x_stride,
                rows: TILE.min(x.rows - row),
                weights,
                depth: len,
                // the first block starts from the bias, later ones from what the last one left
                start: if depth > 0 {
                    Start::Out
                } else {
                    bias.map_or(Start::Zero, |b| Start::Bias(&b[columns.clone()]))
                },
                out_stride: target.out_stride,
                width: columns.len(),
            };
            let out = &mut target.out[row * target.out_stride + columns.start..];
            run_tile(level, &tile, out);
        }
    }
}

/// What the accumulators start from.
#[derive(Clone, Copy)]
enum Start<'a> {
    Zero,
    Bias(&'a [f32]),
    Out,
}

/// One tile of the product.
struct Tile<'a> {
    x: &'a [f32],
    x_stride: usize,
    rows: usize,
    weights: &'a [f32],
    depth: usize,
    start: Start<'a>,
    out_stride: usize,
    width: usize,
}

fn run_tile(level: Level, tile: &Tile<'_>, out: &mut [f32]) {
    debug_assert!(tile.x.len() >= (tile.rows - 1) * tile.x_stride + tile.depth);
    debug_assert!(out.len() >= (tile.rows - 1) * tile.out_stride + tile.width);
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => avx512::run(tile, out),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this level exists only where the processor has AVX2 and FMA.
        Level::Avx2 => unsafe { avx2(tile, out) },
        _ => plain(tile, out),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(tile: &Tile<'_>, out: &mut [f32]) {
    plain(tile, out);
}

/// The same chains of fused multiply-adds in plain Rust, sixteen outputs at a time.
#[inline(always)]
fn plain(tile: &Tile<'_>, out: &mut [f32]) {
    const LANES: usize = 16;
    for row in 0..tile.rows {
        let x = &tile.x[row * tile.x_stride..][..tile.depth];
        let out = &mut out[row * tile.out_stride..][..tile.width];
        for (group, out) in out.chunks_mut(LANES).enumerate() {
            let first = group * LANES;
            let mut sums = [0.0_f32; LANES];
            match tile.start {
                Start::Zero => {}
                Start::Bias(bias) => sums[..out.len()].copy_from_slice(&bias[first..first + out.len()]),
                Start::Out => sums[..out.len()].copy_from_slice(out),
            }
            for (&x, weights) in x.iter().zip(tile.weights.chunks_exact(PANEL)) {
                for (sum, &weight) in sums.iter_mut().zip(&weights[first..first + LANES]) {
                    *sum = x.mul_add(weight, *sum);
                }
            }
            out.copy_from_slice(&sums[..out.len()]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! The tile with 512-bit vectors: `R` rows by `V` vectors of 16 outputs, all sums in registers.

    use std::arch::x86_64::*;

    use super::{PANEL, Start, Tile};

    /// Runs a tile with as many vectors as its width needs.
    pub(super) fn run(tile: &Tile<'_>, out: &mut [f32]) {
        // SAFETY: this level exists only where the processor has AVX-512F; `fits` has checked the bounds.
        unsafe {
            match tile.width.div_ceil(16) {
                1 => rows::<1>(tile, out),
                2 => rows::<2>(tile, out),
                3 => rows::<3>(tile, out),
                _ => rows::<4>(tile, out),
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    fn rows<const V: usize>(tile: &Tile<'_>, out: &mut [f32]) {
        match tile.rows {
            1 => kernel::<1, V>(tile, out),
            2 => kernel::<2, V>(tile, out),
            3 => kernel::<3, V>(tile, out),
            4 => kernel::<4, V>(tile, out),
            5 => kernel::<5, V>(tile, out),
            _ => kernel::<6, V>(tile, out),
        }
    }

    #[target_feature(enable = "avx512f")]
    fn kernel<const R: usize, const V: usize>(tile: &Tile<'_>, out: &mut [f32]) {
        let last = mask(tile.width - (V - 1) * 16);
        let full = |v: usize| if v + 1 == V { last } else { 0xffff };
        let mut sums = [[_mm512_setzero_ps(); V]; R];
        // SAFETY: `run_tile`'s caller guarantees `R` rows of `depth` numbers in `x`, `depth` panels of 64 in `weights`,
        // and `R` rows of `width` numbers in `out`; `width > (V - 1) * 16`, and masked lanes are neither read nor
        // written. `bias` has `width` numbers.
        unsafe {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = match tile.start {
                        Start::Zero => _mm512_setzero_ps(),
                        Start::Bias(bias) => _mm512_maskz_loadu_ps(full(v), bias.as_ptr().add(v * 16)),
                        Start::Out => {
                            _mm512_maskz_loadu_ps(full(v), out.as_ptr().add(r * tile.out_stride + v * 16))
                        }
                    };
                }
            }
            let (x, mut weights) = (tile.x.as_ptr(), tile.weights.as_ptr());
            for depth in 0..tile.depth {
                let mut columns = [_mm512_setzero_ps(); V];
                for (v, column) in columns.iter_mut().enumerate() {
                    *column = _mm512_loadu_ps(weights.add(v * 16));
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let value = _mm512_set1_ps(*x.add(r * tile.x_stride + depth));
                    for (sum, &column) in sums.iter_mut().zip(&columns) {
                        *sum = _mm512_fmadd_ps(value, column, *sum);
                    }
                }
                weights = weights.add(PANEL);
            }
            for (r, sums) in sums.iter().enumerate() {
                for (v, &sum) in sums.iter().enumerate() {
                    _mm512_mask_storeu_ps(out.as_mut_ptr().add(r * tile.out_stride + v * 16), full(v), sum);
                }
            }
        }
    }

    /// The lowest `lanes` (1 to 16) lanes.
    fn mask(lanes: usize) -> __mmask16 {
        if lanes >= 16 { 0xffff } else { (1 << lanes) - 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers without pattern, the same every time.
    fn numbers(count: usize, mut state: u64) -> Vec<f32> {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn product(level: Level, x: &[f32], rows: usize, weight: &Packed, bias: Option<&[f32]>) -> Vec<f32> {
        let mut out = vec![f32::NAN; rows * weight.outputs()];
        let stride = weight.outputs();
        gemm_at(
            level,
            View { x, x_stride: weight.depth(), rows },
            weight,
            bias,
            Target { out: &mut out, out_stride: stride },
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
