//! Functions on rows: softmax, soft-capping, activations, residual, layer norm, RMS norm, rotation.
//!
//! Each is a scalar program that the compiler vectorises; sums run over sixteen lanes.

#[cfg(test)]
mod tests;

use super::{at_level, level};

/// Lanes of a sum; the fold over them is part of the result.
const LANES: usize = 16;

/// Softmax of `row * scale`, in place.
pub fn softmax(row: &mut [f32], scale: f32) {
    at_level!(level(), softmax_body[row: &mut [f32], scale: f32]);
}

/// `0.5 x (1 + erf(x / sqrt 2))`, in place: BERT's `gelu`.
pub fn gelu_erf(values: &mut [f32]) {
    at_level!(level(), gelu_erf_body[values: &mut [f32]]);
}

/// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`, in place: `gelu_new`.
pub fn gelu_tanh(values: &mut [f32]) {
    at_level!(level(), gelu_tanh_body[values: &mut [f32]]);
}

/// `max(x, 0)`, in place.
pub fn relu(values: &mut [f32]) {
    at_level!(level(), relu_body[values: &mut [f32]]);
}

/// `x / (1 + exp(-x))`, in place: SiLU, also called swish.
pub fn silu(values: &mut [f32]) {
    at_level!(level(), silu_body[values: &mut [f32]]);
}

/// `gate[i] *= up[i]`: the second half of a gated feed-forward.
pub fn multiply(gate: &mut [f32], up: &[f32]) {
    at_level!(level(), multiply_body[gate: &mut [f32], up: &[f32]]);
}

/// `out[i] += residual[i]`.
pub fn add(out: &mut [f32], residual: &[f32]) {
    at_level!(level(), add_body[out: &mut [f32], residual: &[f32]]);
}

/// `cap * tanh(scale * x / cap)`, in place: bounds logits smoothly by `cap`.
pub fn soft_cap(values: &mut [f32], scale: f32, cap: f32) {
    at_level!(level(), soft_cap_body[values: &mut [f32], scale: f32, cap: f32]);
}

/// Rotates each head of a row by its position's angles: dimension `i` with `i + cos.len()`, for as many as there are
/// angles; what lies beyond them in a head of `width` stays.
pub fn rotate(row: &mut [f32], width: usize, cos: &[f32], sin: &[f32]) {
    at_level!(level(), rotate_body[row: &mut [f32], width: usize, cos: &[f32], sin: &[f32]]);
}

/// `rows[r] = RMSNorm(rows[r])` for each row of `weight.len()` numbers: `x / sqrt(mean(x^2) + eps) * weight`.
pub fn rms_norm(rows: &mut [f32], weight: &[f32], eps: f32) {
    at_level!(level(), rms_norm_body[rows: &mut [f32], weight: &[f32], eps: f32]);
}

/// `rows[r] = LayerNorm(rows[r])` for each row of `weight.len()` numbers.
pub fn layer_norm(rows: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    at_level!(level(), layer_norm_body[rows: &mut [f32], weight: &[f32], bias: &[f32], eps: f32]);
}

/// `out[r] = LayerNorm(out[r] + residual[r])` for each row of `weight.len()` numbers.
pub fn add_layer_norm(out: &mut [f32], residual: &[f32], weight: &[f32], bias: &[f32], eps: f32) {
    at_level!(
        level(),
        add_layer_norm_body[out: &mut [f32], residual: &[f32], weight: &[f32], bias: &[f32], eps: f32]
    );
}

#[inline(always)]
fn softmax_body(row: &mut [f32], scale: f32) {
    let lanes = over_lanes(row, f32::NEG_INFINITY, |lane, x| lane.max(x * scale));
    let largest = fold(lanes, f32::max); // any order gives the same
    row.iter_mut().for_each(|x| *x = exp(x.mul_add(scale, -largest)));
    let inverse = 1.0 / sum(row);
    row.iter_mut().for_each(|x| *x *= inverse);
}

#[inline(always)]
fn gelu_erf_body(values: &mut [f32]) {
    values.iter_mut().for_each(|x| *x = 0.5 * *x * (1.0 + erf(*x * std::f32::consts::FRAC_1_SQRT_2)));
}

#[inline(always)]
fn gelu_tanh_body(values: &mut [f32]) {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    for x in values.iter_mut() {
        let inner = SQRT_2_OVER_PI * (0.044_715 * *x * *x).mul_add(*x, *x);
        // tanh(y) = 1 - 2 / (exp(2y) + 1); the clamp keeps exp finite where tanh is 1 already
        let tanh = 1.0 - 2.0 / (exp(2.0 * inner.clamp(-20.0, 20.0)) + 1.0);
        *x = 0.5 * *x * (1.0 + tanh);
    }
}

#[inline(always)]
fn relu_body(values: &mut [f32]) {
    values.iter_mut().for_each(|x| *x = x.max(0.0));
}

#[inline(always)]
fn multiply_body(gate: &mut [f32], up: &[f32]) {
    gate.iter_mut().zip(up).for_each(|(gate, up)| *gate *= up);
}

#[inline(always)]
fn add_body(out: &mut [f32], residual: &[f32]) {
    out.iter_mut().zip(residual).for_each(|(x, r)| *x += r);
}

#[inline(always)]
fn silu_body(values: &mut [f32]) {
    values.iter_mut().for_each(|x| *x /= 1.0 + exp(-*x));
}

#[inline(always)]
fn soft_cap_body(values: &mut [f32], scale: f32, cap: f32) {
    let inner = scale / cap;
    values.iter_mut().for_each(|x| *x = cap * tanh(*x * inner));
}

#[inline(always)]
fn rotate_body(row: &mut [f32], width: usize, cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    for head in row.chunks_exact_mut(width) {
        let (first, second) = head.split_at_mut(half);
        for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
            (*a, *b) = (a.mul_add(*cos, -(*b * sin)), b.mul_add(*cos, *a * sin));
        }
    }
}

#[inline(always)]
fn rms_norm_body(rows: &mut [f32], weight: &[f32], eps: f32) {
    let width = weight.len();
    for row in rows.chunks_exact_mut(width) {
        let scale = 1.0 / (sum_of_squares(row) / width as f32 + eps).sqrt();
        row.iter_mut().zip(weight).for_each(|(x, w)| *x = *x * scale * w);
    }
}

#[inline(always)]
fn add_layer_norm_body(out: &mut [f32], residual: &[f32], weight: &[f32], bias: &[f32], eps: f32) {
    let width = weight.len();
    for (row, residual) in out.chunks_exact_mut(width).zip(residual.chunks_exact(width)) {
        row.iter_mut().zip(residual).for_each(|(x, r)| *x += r);
        layer_norm_body(row, weight, bias, eps);
    }
}

#[inline(always)]
fn layer_norm_body(rows: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let width = weight.len();
    for row in rows.chunks_exact_mut(width) {
        let mean = sum(row) / width as f32;
        row.iter_mut().for_each(|x| *x -= mean);
        let variance = sum_of_squares(row) / width as f32;
        let scale = 1.0 / (variance + eps).sqrt();
        for ((x, w), b) in row.iter_mut().zip(weight).zip(bias) {
            *x = (*x * scale).mul_add(*w, *b);
        }
    }
}

#[inline(always)]
fn sum(values: &[f32]) -> f32 {
    fold(over_lanes(values, 0.0, |lane, x| lane + x), |a, b| a + b)
}

#[inline(always)]
fn sum_of_squares(values: &[f32]) -> f32 {
    fold(over_lanes(values, 0.0, |lane, x| x.mul_add(x, lane)), |a, b| a + b)
}

/// Number `i` into lane `i` modulo their number, in order; whole chunks and the rest apart, so that the former are
/// vectors.
#[inline(always)]
fn over_lanes(values: &[f32], start: f32, step: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    let mut lanes = [start; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = step(lanes[i], chunk[i]);
        }
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, x)| *lane = step(*lane, *x));
    lanes
}

/// The lanes, pairwise.
#[inline(always)]
fn fold(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = join(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// `e^x` to about one unit in the last place, 0 below -87: Cephes' reduction and polynomial.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let clamped = x.clamp(-87.3, 88.0);
    let n = (clamped * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-0.693_359_4, clamped);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.987_569_1e-4_f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 5.000_000_3e-1);
    let value = p.mul_add(r * r, r) + 1.0;
    let scale = f32::from_bits(((n as i32 + 127) << 23) as u32);
    let result = if x < -87.3 { 0.0 } else { value * scale };
    if x.is_nan() { x } else { result }
}

/// The hyperbolic tangent to a few units in the last place: the rational approximation that Eigen and XLA use.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    let x = x.clamp(-7.905_311, 7.905_311);
    let y = x * x;
    let p = -2.760_768_5e-16_f32;
    let p = p.mul_add(y, 2.000_188e-13);
    let p = p.mul_add(y, -8.604_672e-11);
    let p = p.mul_add(y, 5.122_297e-8);
    let p = p.mul_add(y, 1.485_722_4e-5);
    let p = p.mul_add(y, 6.372_619_3e-4);
    let p = p.mul_add(y, 4.893_524_6e-3);
    let q = 1.198_258_4e-6_f32;
    let q = q.mul_add(y, 1.185_347_1e-4);
    let q = q.mul_add(y, 2.268_434_6e-3);
    let q = q.mul_add(y, 4.893_525e-3);
    x * p / q
}

/// The error function to a few units in the last place: the rational approximation on [-4, 4] that Eigen and XLA use.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let y = x * x;
    let p = -2.726_142_3e-10_f32;
    let p = p.mul_add(y, 2.770_681_4e-8);
    let p = p.mul_add(y, -2.101_024e-6);
    let p = p.mul_add(y, -5.692_506_4e-5);
    let p = p.mul_add(y, -7.349_906_3e-4);
    let p = p.mul_add(y, -2.954_6e-3);
    let p = p.mul_add(y, -1.609_603_3e-2);
    let q = -1.456_607_2e-5_f32;
    let q = q.mul_add(y, -2.133_740_6e-4);
    let q = q.mul_add(y, -1.682_827e-3);
    let q = q.mul_add(y, -7.373_329_2e-3);
    let q = q.mul_add(y, -1.426_473_9e-2);
    x * p / q
}
