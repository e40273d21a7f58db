//! The product against integers worked out the long way, and against the exact one.

use super::*;
use crate::kernel::{numbers, wild};

const SHAPES: [(usize, usize, usize); 8] = [
    (1, 1, 1),
    (6, 64, 8),
    (7, 65, 769),
    (13, 130, 41),
    (5, 33, 1602),
    (2, 48, 17),
    (515, 3, 5),
    (3, 70, 63),
];

fn product(fast: bool, (x, rows): (&[f32], usize), weight: &PackedInt8, bias: Option<&[f32]>) -> Vec<f32> {
    let mut out = vec![f32::NAN; rows * weight.outputs];
    let target = Target { out: &mut out, stride: weight.outputs };
    weight.multiply_at(fast, View { x, stride: weight.k, rows }, bias, target);
    out
}

/// The integers of rows and their scales, worked out the long way.
fn steps(x: &[f32]) -> (Vec<i64>, f64) {
    let (least, most) = x.iter().fold((0.0_f32, 0.0_f32), |(a, b), &x| (a.min(x), b.max(x)));
    let scale = (most - least) / 255.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let zero = (-least * inverse).round_ties_even();
    let steps = x.iter().map(|&x| {
        let exact = f64::from(x) * f64::from(inverse) + f64::from(zero);
        (exact.round_ties_even().clamp(0.0, 255.0) - f64::from(zero)) as i64
    });
    (steps.collect(), f64::from(scale))
}

fn weight_steps(w: &[f32]) -> (Vec<i64>, f64) {
    let scale = w.iter().fold(0.0_f32, |a, w| a.max(w.abs())) / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    (w.iter().map(|w| (w * inverse).round_ties_even() as i64).collect(), f64::from(scale))
}

#[test]
fn is_a_sum_of_integers_to_the_bit_with_and_without_the_instruction() {
    for (rows, outputs, k) in SHAPES {
        let (mut x, w, bias) = (numbers(rows * k, 1), numbers(outputs * k, 2), numbers(outputs, 3));
        x[..k].fill(0.0); // a row of nothing
        x[(rows - 1) * k..].iter_mut().for_each(|x| *x = x.abs() + 0.1); // one above zero
        let weight = PackedInt8::from_rows(&w, outputs, k);
        let plain = product(false, (&x, rows), &weight, Some(&bias));
        for (r, o) in (0..rows).flat_map(|r| (0..outputs).map(move |o| (r, o))) {
            let (u, scale) = steps(&x[r * k..(r + 1) * k]);
            let (w, of_weight) = weight_steps(&w[o * k..(o + 1) * k]);
            let sum: i64 = u.iter().zip(&w).map(|(u, w)| u * w).sum();
            let right = (sum as f32).mul_add(scale as f32 * of_weight as f32, bias[o]);
            assert_eq!(plain[r * outputs + o].to_bits(), right.to_bits(), "{rows}x{outputs}x{k}");
        }
        if instructions().int8 {
            assert_eq!(product(true, (&x, rows), &weight, Some(&bias)), plain, "{rows}x{outputs}x{k}");
            let (fast, plain) = [true, false].map(|fast| product(fast, (&x, rows), &weight, None)).into();
            assert_eq!(fast, plain, "{rows}x{outputs}x{k}, no bias");
        }
    }
}

#[test]
fn the_instruction_and_plain_rust_agree_on_numbers_of_every_size() {
    if !instructions().int8 {
        eprintln!("skipped: no AVX512-VNNI");
        return;
    }
    let bits = |values: Vec<f32>| -> Vec<u32> {
        values.iter().map(|x| if x.is_nan() { f32::NAN } else { *x }.to_bits()).collect()
    };
    for (rows, outputs, k) in SHAPES {
        let (mut x, bias) = (wild(rows * k, 1), wild(outputs, 5));
        x[k - 1] = f32::INFINITY;
        for w in [numbers(outputs * k, 2), wild(outputs * k, 3)] {
            let weight = PackedInt8::from_rows(&w, outputs, k);
            let [fast, plain] = [true, false].map(|fast| product(fast, (&x, rows), &weight, Some(&bias)));
            assert_eq!(bits(fast), bits(plain), "{rows}x{outputs}x{k}");
        }
    }
}

/// Each factor is off by half a step at most.
#[test]
fn is_as_near_to_the_exact_product_as_rounding_allows() {
    for (rows, outputs, k) in SHAPES {
        let (x, w) = (numbers(rows * k, 1), numbers(outputs * k, 2));
        let weight = PackedInt8::from_rows(&w, outputs, k);
        let found = product(instructions().int8, (&x, rows), &weight, None);
        for (r, o) in (0..rows).flat_map(|r| (0..outputs).map(move |o| (r, o))) {
            let (x, w) = (&x[r * k..(r + 1) * k], &w[o * k..(o + 1) * k]);
            let (half, half_weight) = (0.5001 * steps(x).1, 0.5001 * weight_steps(w).1);
            let pairs = x.iter().zip(w).map(|(&x, &w)| (f64::from(x), f64::from(w)));
            let exact: f64 = pairs.clone().map(|(x, w)| x * w).sum();
            let off = |(x, w): (f64, f64)| x.abs() * half_weight + w.abs() * half + half * half_weight;
            let bound = pairs.map(off).sum::<f64>() + exact.abs() * 1e-6;
            assert!((f64::from(found[r * outputs + o]) - exact).abs() <= bound, "{rows}x{outputs}x{k}");
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_among_others() {
    for (rows, outputs, k) in SHAPES {
        let (x, w) = (numbers(rows * k, 4), numbers(outputs * k, 5));
        let weight = PackedInt8::from_rows(&w, outputs, k);
        let together = product(instructions().int8, (&x, rows), &weight, None);
        for r in 0..rows {
            let alone = product(instructions().int8, (&x[r * k..(r + 1) * k], 1), &weight, None);
            assert_eq!(alone, together[r * outputs..(r + 1) * outputs]);
        }
    }
}

#[test]
fn what_is_no_number_stays_none_and_the_deepest_sum_fits() {
    let weight = PackedInt8::from_rows(&[1.0, -1.0, 0.5], 1, 3);
    for wrong in [f32::NAN, f32::INFINITY] {
        let found = product(instructions().int8, (&[0.5, wrong, 0.1, 1.0, 0.0, 0.0], 2), &weight, None);
        assert!(found[0].is_nan() && (found[1] - 1.0).abs() < 1e-6, "{found:?}");
    }
    let k = 100_000;
    let weight = PackedInt8::from_rows(&vec![1.0; k], 1, k);
    for fast in [false, instructions().int8] {
        let found = product(fast, (&vec![1.0; k], 1), &weight, None)[0];
        assert!((found / k as f32 - 1.0).abs() < 1e-5, "{found}");
    }
}
