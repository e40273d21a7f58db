//! The matrix product by weights that are not there as `f32` yet: quantised ones, made a panel at a time.

use std::ops::Range;

use super::gemm::multiply_panel;
use super::level;
use super::tile::{PANEL, Target, View, columns, fits};

/// A matrix of `outputs` rows of `k` numbers that are made when they are needed, a panel at a time.
pub(crate) struct Made<F> {
    pub(crate) outputs: usize,
    pub(crate) k: usize,
    /// Appends these rows, one after the other.
    pub(crate) rows: F,
}

/// As [`gemm`], by a matrix made on the way: to the bit what the packed one gives.
///
/// # Panics
/// When a slice is too short for its shape, or `rows` makes another number of numbers.
pub(crate) fn gemm_made<F: Fn(Range<usize>, &mut Vec<f32>)>(
    x: &[f32],
    x_stride: usize,
    rows: usize,
    weight: &Made<F>,
    bias: Option<&[f32]>,
    out: &mut [f32],
    out_stride: usize,
) {
    let (x, mut target) = (View { x, stride: x_stride, rows }, Target { out, stride: out_stride });
    let (outputs, k) = (weight.outputs, weight.k);
    if !fits(&x, (outputs, k), bias, &target) {
        return;
    }
    let (mut made, mut packed) = (Vec::with_capacity(PANEL * k), vec![0.0; PANEL * k]);
    for panel in 0..outputs.div_ceil(PANEL) {
        let columns = columns(panel, outputs);
        made.clear();
        (weight.rows)(columns.clone(), &mut made);
        assert_eq!(made.len(), columns.len() * k, "gemm: rows made");
        // eight rows at a time: enough for whole vectors, few enough for a cache's ways where rows lie a power of two apart
        for (group, rows) in made.chunks(8 * k).enumerate() {
            for (depth, out) in packed.chunks_exact_mut(PANEL).enumerate() {
                let out = &mut out[group * 8..][..rows.len() / k];
                out.iter_mut().zip(rows[depth..].iter().step_by(k)).for_each(|(out, weight)| *out = *weight);
            }
        }
        multiply_panel(level(), x, &packed, columns, bias, &mut target);
    }
}

/// Bytes that [`gemm_made`] holds for a depth of `k`.
pub(crate) fn made_bytes(k: usize) -> usize {
    2 * PANEL * k * size_of::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Packed, gemm};

    #[test]
    fn equals_the_packed_product_to_the_bit() {
        for (rows, outputs, k) in [(1, 1, 1), (7, 65, 769), (13, 130, 40), (5, 77, 300)] {
            let number = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 1009.0 - 0.5;
            let x: Vec<f32> = (0..rows * k).map(number).collect();
            let weight: Vec<f32> = (0..outputs * k).map(|i| number(i + 5)).collect();
            let bias: Vec<f32> = (0..outputs).map(number).collect();
            let made = Made {
                outputs,
                k,
                rows: |range: Range<usize>, out: &mut Vec<f32>| {
                    out.extend(&weight[range.start * k..range.end * k]);
                },
            };
            let packed = Packed::from_rows(&weight, outputs, k);
            let (mut one, mut other) = (vec![f32::NAN; rows * outputs], vec![f32::NAN; rows * outputs]);
            gemm(&x, k, rows, &packed, Some(&bias), &mut one, outputs);
            gemm_made(&x, k, rows, &made, Some(&bias), &mut other, outputs);
            assert!(one.iter().zip(&other).all(|(a, b)| a.to_bits() == b.to_bits()), "{rows} {outputs} {k}");
        }
    }
}
