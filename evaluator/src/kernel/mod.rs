//! Arithmetic on rows of `f32`: the matrix product (in `f32`, bfloat16 or 8-bit integers), softmax, activations, norms,
//! rotation.
//!
//! One rule holds everywhere: **the bits of a result depend on the numbers that enter it alone**, not on how many rows
//! are computed together, on a tile's position or on the processor's vector width. Every output of a product is one
//! chain of fused multiply-adds over `k` in order; every sum runs over sixteen lanes folded in a fixed way; and every
//! element-wise function is the same scalar program for each element. Fused multiply-add rounds once by definition
//! (IEEE 754), so AVX-512, AVX2 and plain Rust agree to the bit, which the tests under this module check. Products in
//! bfloat16 and 8-bit integers (`bf16`, `int8`) hold to the rule as well: each row is rounded by itself alone, one's chain
//! is that of its instruction, and the other's sums are exact.
//!
//! `unsafe` lives here, in `models/map.rs`, which maps files, and in `device/cuda`, which launches kernels. Here it is for
//! target features (checked at run time before each use) and vector loads inside slices whose bounds are checked at the
//! entry of each function.
#![allow(unsafe_code)]

mod bf16;
#[cfg(test)]
pub(crate) mod counted;
mod gemm;
mod int8;
mod made;
mod peak;
mod rows;
mod tile;

pub(crate) use bf16::PackedBf16;
pub use gemm::{Packed, gemm};
pub(crate) use int8::PackedInt8;
pub(crate) use made::{Made, gemm_made, made_bytes};
pub use peak::Instruction;
pub use rows::{
    add, add_layer_norm, gelu_erf, gelu_tanh, layer_norm, multiply, relu, rms_norm, rotate, silu, soft_cap,
    softmax,
};

/// What the processor can do, detected once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// 512-bit vectors with fused multiply-add.
    Avx512,
    /// 256-bit vectors with fused multiply-add.
    Avx2,
    /// Nothing that may be relied on.
    Plain,
}

/// The best level this processor has.
pub(crate) fn level() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        let wide = std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512vl")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512bw");
        if wide {
            return Level::Avx512;
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            return Level::Avx2;
        }
    }
    Level::Plain
}

/// Which narrow products the processor has instructions for.
pub(crate) struct Instructions {
    /// `vdpbf16ps`
    pub(crate) bf16: bool,
    /// `vpdpbusd`
    pub(crate) int8: bool,
}

/// What this processor has.
pub(crate) fn instructions() -> Instructions {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        return Instructions {
            bf16: std::arch::is_x86_feature_detected!("avx512bf16"),
            int8: std::arch::is_x86_feature_detected!("avx512vnni"),
        };
    }
    Instructions { bf16: false, int8: false }
}

/// Numbers in -1..1 without pattern, the same every time.
#[cfg(test)]
fn numbers(count: usize, mut state: u64) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Numbers of every size, subnormal ones, infinities and zeros among them.
#[cfg(test)]
fn wild(count: usize, seed: u64) -> Vec<f32> {
    let exponent = |x: f32| (x * 1e6) as i32 % 160;
    let wild = |(i, (&x, y)): (usize, (&f32, f32))| match i % 97 {
        13 => f32::from_bits(x.to_bits() & 0x807f_ffff), // subnormal
        57 => 0.0_f32.copysign(x),
        _ => x * 2.0_f32.powi(exponent(y)),
    };
    numbers(count, seed).iter().zip(numbers(count, seed + 1)).enumerate().map(wild).collect()
}

/// Calls `body` compiled for `level`.
macro_rules! at_level {
    ($level:expr, $body:path [$($arg:ident: $type:ty),*]) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
        fn avx512($($arg: $type),*) { $body($($arg),*) }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        fn avx2($($arg: $type),*) { $body($($arg),*) }
        match $level {
            // SAFETY: `level()` returns a level only where the processor has its features.
            #[cfg(target_arch = "x86_64")]
            $crate::kernel::Level::Avx512 => unsafe { avx512($($arg),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            $crate::kernel::Level::Avx2 => unsafe { avx2($($arg),*) },
            _ => $body($($arg),*),
        }
    }};
}
pub(crate) use at_level;
