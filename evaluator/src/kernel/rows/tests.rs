//! Against libm and the functions' definitions, and every level against plain Rust.

use super::*;
use crate::kernel::Level;

fn grid(from: f32, to: f32, count: usize) -> Vec<f32> {
    (0..count).map(|i| from + (to - from) * i as f32 / (count - 1) as f32).collect()
}

#[test]
fn exp_erf_and_tanh_agree_with_libm() {
    for x in grid(-80.0, 80.0, 100_001) {
        let right = libm::exp(f64::from(x));
        assert!(((f64::from(exp(x)) - right) / right).abs() < 2e-7, "exp({x})");
    }
    for x in grid(-6.0, 6.0, 100_001) {
        assert!((f64::from(erf(x)) - libm::erf(f64::from(x))).abs() < 4e-7, "erf({x})");
    }
    for x in grid(-12.0, 12.0, 100_001) {
        let right = libm::tanh(f64::from(x));
        assert!((f64::from(tanh(x)) - right).abs() < 4e-7 * right.abs().max(1e-3), "tanh({x})");
    }
    assert_eq!(exp(-1000.0), 0.0);
    assert!(exp(f32::NAN).is_nan());
}

#[test]
fn gelu_and_layer_norm_agree_with_their_definitions() {
    let mut values = grid(-9.0, 9.0, 1001);
    let before = values.clone();
    gelu_erf(&mut values);
    for (&x, &y) in before.iter().zip(&values) {
        let x = f64::from(x);
        assert!((f64::from(y) - 0.5 * x * (1.0 + libm::erf(x / 2_f64.sqrt()))).abs() < 2e-6, "gelu({x})");
    }
    let mut values = before.clone();
    gelu_tanh(&mut values);
    for (&x, &y) in before.iter().zip(&values) {
        let x = f64::from(x);
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
        assert!((f64::from(y) - 0.5 * x * (1.0 + inner.tanh())).abs() < 2e-6, "gelu_new({x})");
    }
    let (weight, bias) = (grid(0.5, 1.5, 37), grid(-1.0, 1.0, 37));
    let mut row = grid(-3.0, 5.0, 37);
    let sums: Vec<f64> = row.iter().map(|&x| f64::from(x) + 1.0).collect();
    add_layer_norm(&mut row, &[1.0; 37], &weight, &bias, 1e-5);
    let mean = sums.iter().sum::<f64>() / 37.0;
    let variance = sums.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 37.0;
    for i in 0..37 {
        let right = (sums[i] - mean) / (variance + 1e-5).sqrt() * f64::from(weight[i]) + f64::from(bias[i]);
        assert!((f64::from(row[i]) - right).abs() < 1e-5);
    }
}

#[test]
fn silu_cap_rotation_and_rms_norm_agree_with_their_definitions() {
    let before = grid(-30.0, 30.0, 1001);
    let mut values = before.clone();
    silu(&mut values);
    for (&x, &y) in before.iter().zip(&values) {
        let right = f64::from(x) / (1.0 + libm::exp(f64::from(-x)));
        assert!((f64::from(y) - right).abs() <= 3e-7 * right.abs(), "silu({x})");
    }
    let mut values = before.clone();
    soft_cap(&mut values, 2.0, 5.0);
    for (&x, &y) in before.iter().zip(&values) {
        let right = 5.0 * libm::tanh(f64::from(x) * 2.0 / 5.0);
        assert!((f64::from(y) - right).abs() < 2e-6, "cap({x})");
    }
    let weight = grid(0.5, 1.5, 37);
    let mut row = grid(-3.0, 5.0, 37);
    let squares: f64 = row.iter().map(|&x| f64::from(x).powi(2)).sum();
    let right: Vec<f64> =
        (0..37).map(|i| f64::from(row[i]) / (squares / 37.0 + 1e-6).sqrt() * f64::from(weight[i])).collect();
    rms_norm(&mut row, &weight, 1e-6);
    for (x, right) in row.iter().zip(right) {
        assert!((f64::from(*x) - right).abs() < 1e-6);
    }
    // two heads of five, two pairs each; the fifth stays
    let mut row = grid(1.0, 10.0, 10);
    let angles = [0.3_f32, 1.1];
    rotate(&mut row, 5, &angles.map(f32::cos), &angles.map(f32::sin));
    for head in 0..2 {
        let x = |i: usize| (head * 5 + i + 1) as f32;
        for (i, angle) in angles.iter().enumerate() {
            let (a, b) = (x(i), x(i + 2));
            assert!((row[head * 5 + i] - (a * angle.cos() - b * angle.sin())).abs() < 1e-5);
            assert!((row[head * 5 + i + 2] - (b * angle.cos() + a * angle.sin())).abs() < 1e-5);
        }
        assert_eq!(row[head * 5 + 4], x(4));
    }
}

#[test]
fn every_level_gives_the_same_bits() {
    fn all(level: Level, row: &mut [f32], norm: &mut [f32], weight: &[f32]) {
        let (scale, eps) = (0.3, 1e-5);
        at_level!(level, softmax_body[row: &mut [f32], scale: f32]);
        let (out, residual, bias) = (norm, &*row, weight);
        at_level!(
            level,
            add_layer_norm_body[out: &mut [f32], residual: &[f32], weight: &[f32], bias: &[f32], eps: f32]
        );
        let values = out;
        at_level!(level, gelu_erf_body[values: &mut [f32]]);
        at_level!(level, gelu_tanh_body[values: &mut [f32]]);
        at_level!(level, silu_body[values: &mut [f32]]);
        let rows = values;
        at_level!(level, rms_norm_body[rows: &mut [f32], weight: &[f32], eps: f32]);
        at_level!(level, layer_norm_body[rows: &mut [f32], weight: &[f32], bias: &[f32], eps: f32]);
        let (width, pairs) = (weight.len(), weight.len() / 2);
        let (row, cos, sin) = (rows, &weight[..pairs], &weight[weight.len() - pairs..]);
        at_level!(level, rotate_body[row: &mut [f32], width: usize, cos: &[f32], sin: &[f32]]);
        let (values, cap) = (row, 0.9);
        at_level!(level, soft_cap_body[values: &mut [f32], scale: f32, cap: f32]);
        let (gate, up) = (values, weight);
        at_level!(level, multiply_body[gate: &mut [f32], up: &[f32]]);
        let (out, residual) = (gate, weight);
        at_level!(level, add_body[out: &mut [f32], residual: &[f32]]);
        let values = out;
        at_level!(level, relu_body[values: &mut [f32]]);
    }
    let levels: &[Level] = match level() {
        Level::Avx512 => &[Level::Avx512, Level::Avx2],
        Level::Avx2 => &[Level::Avx2],
        Level::Plain => &[],
    };
    for len in [1, 15, 16, 17, 50, 131] {
        let start = grid(-4.0, 3.0, len.max(2))[..len].to_vec();
        let run = |level| {
            let (mut row, mut norm) = (start.clone(), start.clone());
            all(level, &mut row, &mut norm, &start);
            [row, norm].concat().iter().map(|x| x.to_bits()).collect::<Vec<u32>>()
        };
        for &level in levels {
            assert_eq!(run(level), run(Level::Plain), "{level:?}, {len} numbers");
        }
    }
}
