//! Tests of softmax and the cross-entropies against their formulas in f64.

use super::*;
use crate::engine::kernel::testing::{assert_close, numbers, slope, to};

const SIZES: [(usize, usize); 7] = [(0, 3), (1, 1), (3, 1), (1, 33), (5, 31), (70, 300), (4, 1025)];

fn log_softmax(x: &[f64], width: usize, t: f64) -> Vec<f64> {
    let mut y = Vec::new();
    for row in x.chunks_exact(width) {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|x| ((x - max) / t).exp()).sum();
        y.extend(row.iter().map(|x| (x - max) / t - sum.ln()));
    }
    y
}

fn plain(x: &[f64], width: usize, t: f64) -> Vec<f64> {
    log_softmax(x, width, t).into_iter().map(f64::exp).collect()
}

fn losses(x: &[f64], targets: &[f64], width: usize, t: f64) -> Vec<f64> {
    let log = log_softmax(x, width, t);
    let rows = log.chunks_exact(width).zip(targets.chunks_exact(width));
    rows.map(|(log, t)| -log.iter().zip(t).map(|(a, b)| a * b).sum::<f64>()).collect()
}

/// The temperature of the tests, exact in f32.
const T: f64 = 0.125;

fn check<F: Float>(rows: usize, width: usize, tolerance: f64) {
    let x = numbers(1, rows * width);
    let xt = to::<F>(&x);
    let logits = Logits { data: &xt, width, temperature: F::from_f64(T) };
    let mut y = vec![F::ZERO; x.len()];
    softmax(Softmax::Plain, logits, &mut y);
    assert_close(&y, &plain(&x, width, T), tolerance);
    softmax(Softmax::Log, logits, &mut y);
    assert_close(&y, &log_softmax(&x, width, T), tolerance);
    let targets: Vec<f64> = numbers(2, x.len()).iter().map(|t| t.abs()).collect();
    let (mut loss, mut max, mut share) =
        (vec![F::ZERO; rows], vec![F::ZERO; rows], vec![F::ZERO; rows]);
    let out = Losses { loss: &mut loss, max: &mut max, share: &mut share };
    soft_cross_entropy(logits, &to::<F>(&targets), out);
    assert_close(&loss, &losses(&x, &targets, width, T), tolerance);
    let hard: Vec<u32> = (0..rows).map(|r| (r * 7 % width) as u32).collect();
    let out = Losses { loss: &mut loss, max: &mut max, share: &mut share };
    cross_entropy(logits, &hard, out);
    let log = log_softmax(&x, width, T);
    let want: Vec<f64> = (0..rows).map(|r| -log[r * width + r * 7 % width]).collect();
    assert_close(&loss, &want, tolerance);
}

#[test]
fn softmax_and_cross_entropies_agree_with_their_formulas() {
    for (rows, width) in SIZES {
        check::<f32>(rows, width, 1e-5);
        check::<f64>(rows, width, 1e-12);
    }
}

fn check_backward<F: Float>(rows: usize, width: usize, tolerance: f64) {
    let (x, dy) = (numbers(3, rows * width), numbers(4, rows * width));
    let (xt, dyt) = (to::<F>(&x), to::<F>(&dy));
    let logits = Logits { data: &xt, width, temperature: F::from_f64(T) };
    let (mut y, mut dx) = (vec![F::ZERO; x.len()], vec![F::ONE; x.len()]);
    softmax(Softmax::Plain, logits, &mut y);
    softmax_backward(Softmax::Plain, Logits { data: &y, ..logits }, &dyt, &mut dx);
    assert_close(&dx, &slope(&x, &dy, |x| plain(x, width, T)), tolerance);
    softmax(Softmax::Log, logits, &mut y);
    softmax_backward(Softmax::Log, Logits { data: &y, ..logits }, &dyt, &mut dx);
    assert_close(&dx, &slope(&x, &dy, |x| log_softmax(x, width, T)), tolerance);
}

fn check_loss_backward<F: Float>(rows: usize, width: usize, tolerance: f64) {
    let (x, targets) = (numbers(5, rows * width), numbers(6, rows * width));
    let (xt, targets_t) = (to::<F>(&x), to::<F>(&targets));
    let dloss = numbers(7, rows);
    let dloss_t = to::<F>(&dloss);
    let logits = Logits { data: &xt, width, temperature: F::from_f64(T) };
    let (mut loss, mut max, mut share) =
        (vec![F::ZERO; rows], vec![F::ZERO; rows], vec![F::ZERO; rows]);
    let out = Losses { loss: &mut loss, max: &mut max, share: &mut share };
    soft_cross_entropy(logits, &targets_t, out);
    let mut dx = vec![F::ONE; x.len()];
    let gradient = LossGradient { dloss: &dloss_t, max: &max, share: &share };
    soft_cross_entropy_backward(logits, &targets_t, gradient, &mut dx);
    assert_close(&dx, &slope(&x, &dloss, |x| losses(x, &targets, width, T)), tolerance);
    let hard: Vec<u32> = (0..rows).map(|r| (r * 5 % width) as u32).collect();
    let out = Losses { loss: &mut loss, max: &mut max, share: &mut share };
    cross_entropy(logits, &hard, out);
    let gradient = LossGradient { dloss: &dloss_t, max: &max, share: &share };
    cross_entropy_backward(logits, &hard, gradient, &mut dx);
    let mut one_hot = vec![0.0; x.len()];
    for (r, target) in hard.iter().enumerate() {
        one_hot[r * width + *target as usize] = 1.0;
    }
    assert_close(&dx, &slope(&x, &dloss, |x| losses(x, &one_hot, width, T)), tolerance);
}

#[test]
fn gradients_of_softmax_and_cross_entropies_agree_with_central_differences() {
    for (rows, width) in [(1, 1), (3, 5), (2, 40), (9, 16)] {
        check_backward::<f32>(rows, width, 5e-5);
        check_backward::<f64>(rows, width, 1e-7);
        check_loss_backward::<f32>(rows, width, 5e-5);
        check_loss_backward::<f64>(rows, width, 1e-7);
    }
}

#[test]
fn large_logits_neither_overflow_nor_lose_the_loss() {
    let x = [1000.0_f32, 999.0, -1e30, f32::NEG_INFINITY];
    let logits = Logits { data: &x, width: 4, temperature: 1.0 };
    let mut y = [0.0; 4];
    softmax(Softmax::Plain, logits, &mut y);
    assert_close(&y, &[0.731_058_58, 0.268_941_42, 0.0, 0.0], 1e-6);
    let (mut loss, mut max, mut share) = ([0.0], [0.0], [0.0]);
    let out = Losses { loss: &mut loss, max: &mut max, share: &mut share };
    cross_entropy(logits, &[1], out);
    assert_close(&loss, &[1.313_261_7], 1e-6);
}

#[test]
fn a_low_temperature_costs_the_gradient_of_a_loss_no_digits() {
    let (x, targets) = ([4.9_f32, 4.7, 1.0, -3.0], [0.25_f32, 0.25, 0.25, 0.25]);
    let logits = Logits { data: &x, width: 4, temperature: 0.04 };
    let (mut loss, mut max, mut share) = ([0.0], [0.0], [0.0]);
    let out = Losses { loss: &mut loss, max: &mut max, share: &mut share };
    soft_cross_entropy(logits, &targets, out);
    let gradient = LossGradient { dloss: &[1.0], max: &max, share: &share };
    let mut dx = [0.0; 4];
    soft_cross_entropy_backward(logits, &targets, gradient, &mut dx);
    let exact = |x: f32| f64::from(x);
    let t = exact(0.04);
    let p = 1.0 / (1.0 + ((exact(4.7) - exact(4.9)) / t).exp());
    let want = [p, 1.0 - p, 0.0, 0.0].map(|p| (p - 0.25) / t);
    assert_close(&dx, &want, 1e-6);
    let out = Losses { loss: &mut loss, max: &mut max, share: &mut share };
    cross_entropy(logits, &[1], out);
    let gradient = LossGradient { dloss: &[1.0], max: &max, share: &share };
    cross_entropy_backward(logits, &[1], gradient, &mut dx);
    assert_close(&dx, &[p / t, -p / t, 0.0, 0.0], 1e-6);
}
