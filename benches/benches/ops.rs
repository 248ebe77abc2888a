//! The ops that a training step consists of, at its shapes: 64 pictures of 65 tokens of width 192.
//!
//! Products report operations per second (one element is one floating point operation, a backward
//! pass counts twice the forward pass); everything else reports elements per second, forward and
//! backward counted likewise. Precision is that of matrix products, so what has none is measured in f32
//! only; attention multiplies in f32 under either precision, and its two rows say so.

use candle_core::Tensor;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use pretext::Result;
use pretext::engine::ops::attention::attention;
use pretext::engine::ops::feed_forward::feed_forward;
use pretext::engine::ops::linear::linear;
use pretext::engine::ops::norm_linear::{Norm, norm_linear};
use pretext::engine::ops::soft_cross_entropy::soft_cross_entropy;
use pretext::engine::{Precision, Tape, Var};
use pretext::schedule::{Progress, Schedule};
use pretext::state::{Group, Init, ParamId, State};
use pretext::teacher::Average;
use pretext::train::optimizer::{Optimizer, Rates, Rule};
use pretext_benches::{measure, tensors};

const BATCH: usize = 64;
const TOKENS: usize = 65;
const ROWS: usize = BATCH * TOKENS;
const WIDTH: usize = 192;
const HEADS: usize = 3;
const HIDDEN: usize = 4 * WIDTH;
const PROTOTYPES: usize = 4096;
/// Two global crops per picture.
const CROPS: usize = 2 * BATCH;
const DEPTH: usize = 12;

const PRECISIONS: [(&str, Precision); 2] = [("f32", Precision::F32), ("bf16", Precision::Bf16)];

/// Measures `op` on `inputs` forward, and forward and backward with a gradient for every input.
fn both_ways(
    group: &mut BenchmarkGroup<'_, WallTime>,
    (name, precision): (&str, Precision),
    (inputs, work): (&[Tensor], usize),
    op: impl Fn(&Tape, &[Var]) -> Result<Var>,
) -> Result<()> {
    let constants: Vec<Var> = inputs.iter().cloned().map(Var::constant).collect();
    group.throughput(Throughput::Elements(work as u64));
    measure::time(group, BenchmarkId::new("forward", name), || {
        op(&Tape::new(precision), &constants)
    })?;
    let shape = op(&Tape::new(precision), &constants)?.dims().to_vec();
    let seed = tensors::normal("seed", &shape, 1.0)?;
    group.throughput(Throughput::Elements(3 * work as u64));
    measure::time(group, BenchmarkId::new("forward-backward", name), || {
        let tape = Tape::new(precision);
        let leaves: Vec<Var> = inputs.iter().map(|input| tape.leaf(input.clone())).collect();
        let made = op(&tape, &leaves)?;
        tape.backward_from(&made, seed.clone())
    })
}

/// Input, weight and bias of a map from `from` to `to` numbers, and the operations of its product.
fn affine(from: usize, to: usize) -> Result<([Tensor; 3], usize)> {
    let x = tensors::normal("x", &[BATCH, TOKENS, from], 1.0)?;
    let w = tensors::normal("w", &[to, from], 0.02)?;
    let b = tensors::normal("b", &[to], 0.02)?;
    Ok(([x, w, b], 2 * ROWS * from * to))
}

fn products(criterion: &mut Criterion) -> Result<()> {
    let mut group = criterion.benchmark_group("linear");
    let (inputs, work) = affine(WIDTH, WIDTH)?;
    for precision in PRECISIONS {
        both_ways(&mut group, precision, (&inputs, work), |tape, x| {
            linear(tape, &x[0], &x[1], Some(&x[2]))
        })?;
    }
    group.finish();
    let mut group = criterion.benchmark_group("norm_linear");
    let ([x, w, b], work) = affine(WIDTH, 3 * WIDTH)?;
    let norm = [tensors::normal("weight", &[WIDTH], 1.0)?, tensors::normal("bias", &[WIDTH], 1.0)?];
    let inputs = [[x, w, b].as_slice(), &norm].concat();
    for precision in PRECISIONS {
        both_ways(&mut group, precision, (&inputs, work), |tape, x| {
            let norm = Norm { weight: &x[3], bias: &x[4], eps: 1e-6 };
            norm_linear(tape, &x[0], norm, &x[1], Some(&x[2]))
        })?;
    }
    group.finish();
    let mut group = criterion.benchmark_group("feed_forward");
    let ([x, w1, b1], first) = affine(WIDTH, HIDDEN)?;
    let ([_, w2, b2], second) = affine(HIDDEN, WIDTH)?;
    let inputs = [[x, w1, b1, w2, b2].as_slice(), &norm].concat();
    for precision in PRECISIONS {
        both_ways(&mut group, precision, (&inputs, first + second), |tape, x| {
            let norm = Norm { weight: &x[5], bias: &x[6], eps: 1e-6 };
            feed_forward(tape, &x[0], Some(norm), (&x[1], Some(&x[2])), (&x[3], Some(&x[4])))
        })?;
    }
    group.finish();
    let mut group = criterion.benchmark_group("attention");
    let qkv = tensors::normal("qkv", &[BATCH, TOKENS, 3 * WIDTH], 1.0)?;
    // Scores and their product with the values.
    let work = 2 * 2 * BATCH * TOKENS * TOKENS * WIDTH;
    for precision in PRECISIONS {
        both_ways(&mut group, precision, (std::slice::from_ref(&qkv), work), |tape, x| {
            attention(tape, &x[0], HEADS, 0.0)
        })?;
    }
    group.finish();
    Ok(())
}

fn objective(criterion: &mut Criterion) -> Result<()> {
    let mut group = criterion.benchmark_group("soft_cross_entropy");
    let logits = tensors::normal("logits", &[CROPS, PROTOTYPES], 0.5)?;
    let targets = Tensor::full(1.0 / PROTOTYPES as f32, (CROPS, PROTOTYPES), logits.device())?;
    let targets = Var::constant(targets);
    let work = CROPS * PROTOTYPES;
    let inputs = (std::slice::from_ref(&logits), work);
    both_ways(&mut group, ("f32", Precision::F32), inputs, |tape, x| {
        soft_cross_entropy(tape, &x[0], &targets, 0.1)
    })?;
    group.finish();
    Ok(())
}

/// The matrices of a student and its teacher: 12 blocks of width 192.
fn matrices() -> Result<(State, Vec<(ParamId, ParamId)>)> {
    let shapes = [
        ("qkv", [3 * WIDTH, WIDTH]),
        ("proj", [WIDTH, WIDTH]),
        ("fc1", [HIDDEN, WIDTH]),
        ("fc2", [WIDTH, HIDDEN]),
    ];
    let mut state = State::new(0);
    let mut pairs = Vec::new();
    for block in 0..DEPTH {
        for (name, shape) in &shapes {
            let mut declare = |whose: &str| {
                let name = format!("{whose}.{block}.{name}");
                state.parameter(&name, shape, Init::Normal { std: 0.02 }, Group::default())
            };
            pairs.push((declare("student")?, declare("teacher")?));
        }
    }
    Ok((state, pairs))
}

fn updates(criterion: &mut Criterion) -> Result<()> {
    let (state, pairs) = matrices()?;
    let gradients = pairs
        .iter()
        .map(|(student, _)| {
            let parameter = state.get(*student);
            Ok((*student, tensors::normal(&parameter.name, parameter.value.dims(), 0.01)?))
        })
        .collect::<Result<Vec<_>>>()?;
    let elements: usize = gradients.iter().map(|(_, gradient)| gradient.elem_count()).sum();
    let mut group = criterion.benchmark_group("update");
    group.throughput(Throughput::Elements(elements as u64));
    let rule = Rule::AdamW { betas: (0.9, 0.999), eps: 1e-8 };
    let mut optimizer = Optimizer::new(rule, &state);
    let rates = Rates { lr: 1e-4, weight_decay: 0.04 };
    measure::time(&mut group, BenchmarkId::new("adamw", "f32"), || {
        optimizer.step(&state, &gradients, rates)
    })?;
    let average = Average { pairs, decay: Schedule::constant(0.996) };
    let at = Progress { step: 0, steps_per_epoch: 1, total_steps: 1 };
    measure::time(&mut group, BenchmarkId::new("teacher", "f32"), || average.update(&state, at))?;
    group.finish();
    Ok(())
}

fn main() -> Result<()> {
    measure::run(|criterion| {
        products(criterion)?;
        objective(criterion)?;
        updates(criterion)
    })
}
