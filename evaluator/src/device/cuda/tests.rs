//! Our kernels against candle's operations in `f32` on the same numbers, on the first GPU; without one they say so, or fail
//! where `ZEROTH_TEST_DEVICE` promises one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)] // a helper's failure is the test's

use candle_core::{DType, Device, Tensor};

use super::super::look::{Look, Relative};
use super::super::ops::Ops;
use super::super::parts::{Added, Attention, Entering, Joining, Linear, Norm, Norms};
use super::super::plan::{Layout, Own, Plan};
use super::open;
use crate::backbone::{Activation, Heads, NormKind, Place, Sight, Wanted};

/// Largest difference, relative to the largest number: two roundings of the type.
const TYPES: [(DType, f32); 2] = [(DType::BF16, 0.01), (DType::F16, 0.002)];

fn gpu() -> Option<Device> {
    let promised = std::env::var_os("ZEROTH_TEST_DEVICE").is_some();
    let opened = open(0).inspect_err(|error| eprintln!("no GPU answers: {error}"));
    if promised { Some(opened.unwrap()) } else { opened.ok() }
}

fn random(shape: &[usize], device: &Device) -> Tensor {
    Tensor::randn(0.0_f32, 1.0, shape, device).unwrap()
}

/// The numbers as `dtype` has them, in it and in `f32`.
fn both(tensor: &Tensor, dtype: DType) -> (Tensor, Tensor) {
    let narrow = tensor.to_dtype(dtype).unwrap();
    (narrow.clone(), narrow.to_dtype(DType::F32).unwrap())
}

fn near(ours: &Tensor, theirs: &Tensor, bound: f32, what: &str) {
    let numbers = |tensor: &Tensor| {
        tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(ours.dims(), theirs.dims(), "{what}");
    let (ours, theirs) = (numbers(ours), numbers(theirs));
    let scale = theirs.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let apart = ours.iter().zip(&theirs).fold(0.0_f32, |largest, (a, b)| {
        if a.is_finite() && b.is_finite() { largest.max((a - b).abs()) } else { f32::INFINITY }
    });
    assert!(apart <= bound * scale, "{what}: {apart} of {scale}");
}

fn norm(kind: NormKind, hidden: usize, device: &Device) -> Norm {
    let bias = (kind != NormKind::Rms).then(|| random(&[hidden], device));
    Norm { weight: random(&[hidden], device), bias, eps: 1e-5 }
}

#[test]
fn products_add_their_bias() {
    let Some(device) = gpu() else { return };
    for (dtype, bound) in TYPES {
        let (ops, plain) = (Ops::new(&device, dtype).unwrap(), Ops::new(&device, DType::F32).unwrap());
        for (rows, depth, outputs) in [(1, 16, 8), (77, 384, 1536), (333, 1024, 72)] {
            let (x, wide_x) = both(&random(&[rows, depth], &device), dtype);
            let (weight, wide_weight) = both(&random(&[outputs, depth], &device), dtype);
            for biased in [true, false] {
                let bias = biased.then(|| both(&random(&[outputs], &device), dtype));
                let (bias, wide_bias) = bias.unzip();
                let linear = Linear { weight: weight.clone(), bias };
                let wide = Linear { weight: wide_weight.clone(), bias: wide_bias };
                let ours = ops.linear(&linear, &x).unwrap();
                near(&ours, &plain.linear(&wide, &wide_x).unwrap(), bound, "a product");
            }
        }
    }
}

#[test]
fn joins_are_those_of_candle() {
    let Some(device) = gpu() else { return };
    let layer = NormKind::Layer { bias: true };
    for (dtype, bound) in TYPES {
        let (ops, plain) = (Ops::new(&device, dtype).unwrap(), Ops::new(&device, DType::F32).unwrap());
        for hidden in [16, 384, 1024, 4096] {
            let (out, wide) = both(&random(&[37, hidden], &device), dtype);
            let (residual, prompt) = (random(&[37, hidden], &device), random(&[5, hidden], &device));
            for [branch, sum, next] in [
                [None, Some(layer), None],
                [None, None, Some(layer)],
                [Some(NormKind::Rms), None, Some(NormKind::Rms)],
                [None, None, None],
            ] {
                let made = |kind: Option<NormKind>| kind.map(|kind| norm(kind, hidden, &device));
                let norms = Norms { input: None, branch: made(branch), sum: made(sum) };
                let next = made(next);
                for prompt in [None, Some(Added { prompt: &prompt, first: 12 })] {
                    let joining = |out| Joining {
                        norms: &norms,
                        out,
                        residual: &residual,
                        prompt,
                        next: next.as_ref(),
                    };
                    let (ours, theirs) =
                        (ops.join(&joining(&out)).unwrap(), plain.join(&joining(&wide)).unwrap());
                    let what = format!("{dtype:?}, {hidden}, {branch:?}, {sum:?}");
                    near(&ours.stream, &theirs.stream, 1e-5, &what);
                    assert_eq!(ours.entering.dtype(), dtype);
                    near(&ours.entering, &theirs.entering, bound, &what);
                }
            }
        }
    }
}

#[test]
fn prompts_enter_as_with_candle() {
    let Some(device) = gpu() else { return };
    for (dtype, bound) in TYPES {
        let (ops, plain) = (Ops::new(&device, dtype).unwrap(), Ops::new(&device, DType::F32).unwrap());
        for (hidden, each, n, candidates) in [(16, 5, 5, 1), (384, 21, 7, 3), (1024, 50, 50, 2)] {
            let (rows, prompts) =
                (random(&[each, hidden], &device), random(&[candidates * n, hidden], &device));
            for kind in [None, Some(NormKind::Rms), Some(NormKind::Layer { bias: true })] {
                let next = kind.map(|kind| norm(kind, hidden, &device));
                let entering = Entering { rows: &rows, prompts: &prompts, n, next: next.as_ref() };
                let (ours, theirs) = (ops.enter(&entering).unwrap(), plain.enter(&entering).unwrap());
                near(&ours.stream, &theirs.stream, 1e-6, "the stream");
                near(&ours.entering, &theirs.entering, bound, "what is read of it");
            }
        }
    }
}

#[test]
fn activations_are_those_of_candle() {
    let Some(device) = gpu() else { return };
    for (dtype, bound) in TYPES {
        let (ops, plain) = (Ops::new(&device, dtype).unwrap(), Ops::new(&device, DType::F32).unwrap());
        let (x, wide) = both(&random(&[129, 176], &device), dtype);
        for activation in [Activation::GeluErf, Activation::GeluTanh, Activation::Relu, Activation::Silu] {
            for gated in [false, true] {
                let ours = ops.activate(activation, gated, &x).unwrap();
                let theirs = plain.activate(activation, gated, &wide).unwrap();
                near(&ours, &theirs, bound, &format!("{dtype:?} {activation:?} {gated}"));
            }
        }
    }
}

/// Ragged examples, some longer than a kernel's tile, each under a prompt.
fn layout(device: &Device, own: Own, entering: bool) -> Layout<'_> {
    let spans: &'static [std::ops::Range<usize>] = &[0..9, 9..90, 90..91, 91..300, 300..340];
    let place = Place { lead: 1, rows: 7 };
    Layout { device, candidates: 2, spans, place, own, text_shared: entering, prefix_each: entering }
}

/// Rows that there are of each kind: of what asks, and of keys and values, a prefix behind them.
fn counts(layout: Layout<'_>, plan: &Plan) -> (usize, usize) {
    let copies = if layout.text_shared { 1 } else { layout.candidates };
    let rows = copies * layout.text() + layout.candidates * layout.prompt();
    let prefixes = if layout.prefix_each { layout.candidates } else { 1 };
    let prefix = if layout.own == Own::Prefix { prefixes * layout.place.rows } else { 0 };
    (if plan.wanted_ask { plan.wanted_positions.elem_count() } else { rows }, rows + prefix)
}

fn compare(
    (ops, plain): (&Ops, &Ops),
    (dtype, bound): (DType, f32),
    heads: &Heads,
    (look, asking, keys): (&Look, usize, usize),
    reach: Option<usize>,
    what: &str,
) {
    let device = look.queries.device();
    let (query, wide_query) = both(&random(&[asking, heads.query_width()], device), dtype);
    let (key_value, wide) = both(&random(&[keys, 2 * heads.key_width()], device), dtype);
    let relative =
        reach.map(|reach| Relative { reach, table: random(&[2 * reach + 1, heads.queries], device) });
    let relative = relative.as_ref();
    let of = |query, key_value| Attention { heads, query, key_value, relative, look };
    let ours = ops.attend(&of(&query, &key_value)).unwrap().expect("there is a kernel for it");
    let theirs = of(&wide_query, &wide).context(plain).unwrap();
    near(&ours, &theirs, bound, &format!("{dtype:?} {heads:?} {reach:?} {what}"));
}

#[test]
fn attention_is_that_of_candle() {
    let Some(device) = gpu() else { return };
    let heads =
        |width, queries, keys| Heads { queries, keys, width, scale: 0.3, cap: None, sight: Sight::All };
    let mut cases = Vec::new();
    for width in [16, 32, 64, 128] {
        for sight in [Sight::All, Sight::Around(11), Sight::Back, Sight::Last(30)] {
            cases.push((Heads { sight, ..heads(width, 4, 4) }, None));
        }
        cases.push((Heads { cap: Some(2.0), ..heads(width, 6, 2) }, None));
        cases.push((heads(width, 4, 1), Some(20)));
    }
    for typed in TYPES {
        let ops = &(Ops::new(&device, typed.0).unwrap(), Ops::new(&device, DType::F32).unwrap());
        for (heads, reach) in &cases {
            for own in [Own::Rows, Own::Shared, Own::Prefix] {
                for (entering, known) in [(true, true), (true, false), (false, false)] {
                    for wanted in [Wanted::All, Wanted::Text, Wanted::One(&[3, 70, 0, 200, 39])] {
                        let layout = layout(&device, own, entering);
                        let plan = layout.plan(wanted, known).unwrap();
                        let (asking, keys) = counts(layout, &plan);
                        let what = format!("{own:?}, entering {entering}, known {known}");
                        let view = (&plan.look, asking, keys);
                        compare((&ops.0, &ops.1), typed, heads, view, *reach, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn attention_over_an_encoder_is_that_of_candle() {
    let Some(device) = gpu() else { return };
    let heads = Heads { queries: 4, keys: 4, width: 64, scale: 1.0, cap: None, sight: Sight::All };
    for typed in TYPES {
        let ops = (&Ops::new(&device, typed.0).unwrap(), &Ops::new(&device, DType::F32).unwrap());
        for own in [Own::Rows, Own::Prefix] {
            let encoder = layout(&device, own, false);
            let spans = &[0..2, 2..3, 3..6, 6..7, 7..9];
            let decoder = Layout { spans, place: Place::default(), own: Own::Rows, ..encoder };
            let look = decoder.across(&encoder, Wanted::Text).unwrap();
            let keys = encoder.candidates * (encoder.text() + encoder.prompt());
            let view = (&look, decoder.candidates * decoder.text(), keys);
            compare(ops, typed, &heads, view, None, &format!("{own:?}"));
        }
    }
}
