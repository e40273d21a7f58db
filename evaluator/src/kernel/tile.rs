//! How a product is walked, whatever it is computed in: panels of 64 outputs, blocks of depth, tiles of six rows.
//!
//! A packed matrix holds panels of 64 outputs, `[outputs/64][depth][64]`, so that the inner loop reads weights in
//! order. One step of depth is a word of 32 bits: one `f32`, two bf16, or four 8-bit integers. A tile is 6 rows by 64
//! outputs: 24 AVX-512 accumulators, whose chains are long enough to hide the instructions' latency, and 10 loads for 24
//! products.

use std::ops::Range;

/// Outputs in one panel.
pub(super) const PANEL: usize = 64;
/// Rows in one tile.
pub(super) const TILE: usize = 6;

/// Rows of the left matrix, `stride` words apart.
#[derive(Clone, Copy)]
pub(super) struct View<'a, T> {
    pub(super) x: &'a [T],
    pub(super) stride: usize,
    pub(super) rows: usize,
}

/// Where the product goes.
pub(super) struct Target<'a> {
    pub(super) out: &'a mut [f32],
    pub(super) stride: usize,
}

/// The outputs of a panel.
pub(super) fn columns(panel: usize, outputs: usize) -> Range<usize> {
    panel * PANEL..outputs.min((panel + 1) * PANEL)
}

/// Checks every slice against its shape; `false` where there is nothing to do.
pub(super) fn fits<T>(
    x: &View<'_, T>,
    (outputs, depth): (usize, usize),
    bias: Option<&[f32]>,
    target: &Target<'_>,
) -> bool {
    let rows = x.rows;
    if rows == 0 || outputs == 0 {
        return false;
    }
    assert!(depth > 0 && x.stride >= depth && target.stride >= outputs, "gemm: strides");
    assert!(x.x.len() >= (rows - 1) * x.stride + depth, "gemm: x is too short");
    assert!(target.out.len() >= (rows - 1) * target.stride + outputs, "gemm: out is too short");
    assert!(bias.is_none_or(|bias| bias.len() == outputs), "gemm: bias");
    true
}

/// One panel: its weights, `[depth][64]`, its outputs, and what is added to them.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a, T> {
    pub(super) weights: &'a [T],
    /// Width, at most 64.
    pub(super) width: usize,
    pub(super) bias: Option<&'a [f32]>,
}

/// What the accumulators start from.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    Zero,
    Bias(&'a [f32]),
    Out,
}

/// One tile of a product: `rows` rows of `depth` words in `x`, `depth` panels of 64 words in `weights`.
pub(super) struct Tile<'a, T> {
    pub(super) x: &'a [T],
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) weights: &'a [T],
    pub(super) depth: usize,
    pub(super) width: usize,
}

/// All rows by one panel into the outputs from `first` on, tile by tile in blocks of `block` words, so that a block's
/// weights stay in the second-level cache. Sums rest in `out` between two blocks, which loses no bit.
pub(super) fn run_panel<T>(
    x: View<'_, T>,
    panel: Panel<'_, T>,
    block: usize,
    (target, first): (&mut Target<'_>, usize),
    run: impl Fn(&Tile<'_, T>, Start<'_>, &mut [f32], usize),
) {
    let words = panel.weights.len() / PANEL;
    for depth in (0..words).step_by(block) {
        let len = block.min(words - depth);
        let start = match panel.bias {
            _ if depth > 0 => Start::Out,
            Some(bias) => Start::Bias(bias),
            None => Start::Zero,
        };
        for row in (0..x.rows).step_by(TILE) {
            let tile = Tile {
                x: &x.x[row * x.stride + depth..],
                stride: x.stride,
                rows: TILE.min(x.rows - row),
                weights: &panel.weights[depth * PANEL..][..len * PANEL],
                depth: len,
                width: panel.width,
            };
            debug_assert!(tile.x.len() >= (tile.rows - 1) * tile.stride + tile.depth);
            run(&tile, start, &mut target.out[row * target.stride + first..], target.stride);
        }
    }
}

/// A tile in plain Rust, sixteen outputs at a time.
#[inline(always)]
pub(super) fn plain_tile<T: Copy>(
    tile: &Tile<'_, T>,
    start: Start<'_>,
    out: &mut [f32],
    stride: usize,
    step: impl Fn(f32, T, T) -> f32,
) {
    const LANES: usize = 16;
    for row in 0..tile.rows {
        let x = &tile.x[row * tile.stride..][..tile.depth];
        let out = &mut out[row * stride..][..tile.width];
        for (group, out) in out.chunks_mut(LANES).enumerate() {
            let first = group * LANES;
            let mut sums = [0.0_f32; LANES];
            match start {
                Start::Zero => {}
                Start::Bias(bias) => sums[..out.len()].copy_from_slice(&bias[first..first + out.len()]),
                Start::Out => sums[..out.len()].copy_from_slice(out),
            }
            for (&x, weights) in x.iter().zip(tile.weights.chunks_exact(PANEL)) {
                for (sum, &weight) in sums.iter_mut().zip(&weights[first..first + LANES]) {
                    *sum = step(*sum, x, weight);
                }
            }
            out.copy_from_slice(&sums[..out.len()]);
        }
    }
}

/// The lowest `lanes` (1 to 16) lanes.
#[cfg(target_arch = "x86_64")]
pub(super) fn mask(lanes: usize) -> std::arch::x86_64::__mmask16 {
    if lanes >= 16 { 0xffff } else { (1 << lanes) - 1 }
}

/// Calls `kernel::<R, V>` for a tile's rows and the vectors of its width.
macro_rules! pick {
    ($tile:expr, $kernel:ident $args:tt) => {
        match $tile.width.div_ceil(16) {
            1 => pick!($tile, 1, $kernel $args),
            2 => pick!($tile, 2, $kernel $args),
            3 => pick!($tile, 3, $kernel $args),
            _ => pick!($tile, 4, $kernel $args),
        }
    };
    ($tile:expr, $vectors:literal, $kernel:ident $args:tt) => {
        match $tile.rows {
            1 => $kernel::<1, $vectors> $args,
            2 => $kernel::<2, $vectors> $args,
            3 => $kernel::<3, $vectors> $args,
            4 => $kernel::<4, $vectors> $args,
            5 => $kernel::<5, $vectors> $args,
            _ => $kernel::<6, $vectors> $args,
        }
    };
}

/// The inner loop: for each word of depth in order, `sum = step(sum, x, weights)` for `R` rows by `V` vectors of sums.
/// Needs a [`Tile`]'s promises.
macro_rules! chains {
    ($tile:ident, $sums:ident, $vectors:ident, $step:expr) => {
        let (x, mut weights) = ($tile.x.as_ptr().cast::<i32>(), $tile.weights.as_ptr());
        for depth in 0..$tile.depth {
            let mut columns = [_mm512_setzero_si512(); $vectors];
            for (v, column) in columns.iter_mut().enumerate() {
                *column = _mm512_loadu_si512(weights.add(v * 16).cast());
            }
            for (r, sums) in $sums.iter_mut().enumerate() {
                let value = _mm512_set1_epi32(*x.add(r * $tile.stride + depth));
                for (sum, &column) in sums.iter_mut().zip(&columns) {
                    *sum = $step(*sum, value, column);
                }
            }
            weights = weights.add(PANEL);
        }
    };
}

/// A module with the tile of a product whose sums are `f32`, by 512-bit vectors.
macro_rules! float_tile {
    ($name:ident, $word:ty, $features:literal, $step:expr) => {
        #[cfg(target_arch = "x86_64")]
        mod $name {
            use std::arch::x86_64::*;

            use crate::kernel::tile::{PANEL, Start, Tile, chains, mask, pick};

            /// Runs a tile into `out`, whose rows are `stride` apart, with as many vectors as its width needs.
            #[target_feature(enable = $features)]
            pub(super) fn run(tile: &Tile<'_, $word>, start: Start<'_>, out: &mut [f32], stride: usize) {
                pick!(tile, kernel(tile, start, out, stride))
            }

            #[target_feature(enable = $features)]
            fn kernel<const R: usize, const V: usize>(
                tile: &Tile<'_, $word>,
                start: Start<'_>,
                out: &mut [f32],
                stride: usize,
            ) {
                debug_assert!(out.len() >= (R - 1) * stride + tile.width && tile.width > (V - 1) * 16);
                let last = mask(tile.width - (V - 1) * 16);
                let full = |v: usize| if v + 1 == V { last } else { 0xffff };
                let mut sums = [[_mm512_setzero_ps(); V]; R];
                // SAFETY: `fits` and the walk guarantee `R` rows of `depth` words in `x`, `depth` panels of 64 in
                // `weights`, and `R` rows of `width` numbers in `out`; `width > (V - 1) * 16`, and masked lanes are
                // neither read nor written. `bias` has `width` numbers.
                unsafe {
                    for (r, sums) in sums.iter_mut().enumerate() {
                        for (v, sum) in sums.iter_mut().enumerate() {
                            let at = out.as_ptr().wrapping_add(r * stride + v * 16);
                            *sum = match start {
                                Start::Zero => _mm512_setzero_ps(),
                                Start::Bias(bias) => {
                                    _mm512_maskz_loadu_ps(full(v), bias.as_ptr().add(v * 16))
                                }
                                Start::Out => _mm512_maskz_loadu_ps(full(v), at),
                            };
                        }
                    }
                    chains!(tile, sums, V, $step);
                    for (r, sums) in sums.iter().enumerate() {
                        for (v, &sum) in sums.iter().enumerate() {
                            _mm512_mask_storeu_ps(out.as_mut_ptr().add(r * stride + v * 16), full(v), sum);
                        }
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
pub(super) use {chains, float_tile, pick};
