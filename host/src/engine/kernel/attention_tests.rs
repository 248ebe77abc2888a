//! Tests of attention against its formula in f64.

use super::*;
use crate::engine::kernel::packed::attention as packed;
use crate::engine::kernel::testing::{assert_close, numbers, slope, to};

fn naive(qkv: &[f64], sizes: Sizes, scale: f64) -> Vec<f64> {
    let Sizes { batch, tokens, heads, head_dim: d } = sizes;
    let at = |b, n, which, h| &qkv[(((b * tokens + n) * 3 + which) * heads + h) * d..][..d];
    let mut out = vec![0.0; sizes.out_len()];
    for (b, i, h) in
        (0..batch).flat_map(|b| (0..tokens).flat_map(move |i| (0..heads).map(move |h| (b, i, h))))
    {
        let score = |j| -> f64 {
            let pairs = at(b, i, 0, h).iter().zip(at(b, j, 1, h));
            scale * pairs.map(|(q, k)| q * k).sum::<f64>()
        };
        let p: Vec<f64> = (0..tokens).map(|j| score(j).exp()).collect();
        let sum: f64 = p.iter().sum();
        for c in 0..d {
            let mixed: f64 = (0..tokens).map(|j| p[j] * at(b, j, 2, h)[c]).sum();
            out[((b * tokens + i) * heads + h) * d + c] = mixed / sum;
        }
    }
    out
}

fn forward<T: Float>(qkv: &[f64], sizes: Sizes, scale: f64) -> (Vec<T>, Vec<T>) {
    let mut lse = vec![T::ONE; sizes.lse_len()];
    (attention(&to(qkv), sizes, all(scale), &mut lse), lse)
}

/// Scores of all tokens.
fn all<T: Float>(scale: f64) -> Scores<'static, T> {
    Scores { scale: T::from_f64(scale), lengths: None }
}

fn sizes([batch, tokens, heads, head_dim]: [usize; 4]) -> Sizes {
    Sizes { batch, tokens, heads, head_dim }
}

#[test]
fn attention_agrees_with_its_formula_at_odd_sizes() {
    for shape in [
        [1, 1, 1, 1],
        [2, 3, 2, 5],
        [1, 17, 3, 16],
        [3, 65, 2, 24],
        [1, 97, 1, 64],
        [1, 197, 2, 8],
        [0, 4, 1, 8],
        [2, 31, 1, 128],
    ] {
        let sizes = sizes(shape);
        let qkv: Vec<f64> = numbers(1, sizes.qkv_len()).iter().map(|x| 2.0 * x).collect();
        let want = naive(&qkv, sizes, 0.4);
        assert_close(&forward::<f32>(&qkv, sizes, 0.4).0, &want, 2e-5);
        assert_close(&forward::<f64>(&qkv, sizes, 0.4).0, &want, 1e-12);
    }
}

fn gradient<T: Float>(qkv: &[f64], dout: &[f64], sizes: Sizes, scale: f64) -> Vec<T> {
    let (_, lse) = forward::<T>(qkv, sizes, scale);
    let (qkv, dout) = (to::<T>(qkv), to::<T>(dout));
    let backward = Backward { qkv: &qkv, lse: &lse, dout: &dout };
    attention_backward(backward, sizes, all(scale))
}

#[test]
fn the_gradient_of_attention_agrees_with_central_differences() {
    for shape in [[1, 1, 1, 2], [2, 3, 2, 5], [1, 17, 1, 4], [2, 7, 3, 1]] {
        let sizes = sizes(shape);
        let (qkv, dout) = (numbers(2, sizes.qkv_len()), numbers(3, sizes.out_len()));
        let want = slope(&qkv, &dout, |qkv| naive(qkv, sizes, 0.7));
        assert_close(&gradient::<f64>(&qkv, &dout, sizes, 0.7), &want, 1e-7);
        assert_close(&gradient::<f32>(&qkv, &dout, sizes, 0.7), &want, 1e-5);
    }
}

#[test]
fn gradients_over_several_blocks_agree_between_f32_and_f64() {
    for shape in [[1, 97, 2, 64], [2, 197, 1, 33], [1, 260, 1, 16]] {
        let sizes = sizes(shape);
        let (qkv, dout) = (numbers(4, sizes.qkv_len()), numbers(5, sizes.out_len()));
        let want = gradient::<f64>(&qkv, &dout, sizes, 0.3);
        assert_close(&gradient::<f32>(&qkv, &dout, sizes, 0.3), &want, 2e-5);
    }
}

#[test]
fn a_gradient_over_several_blocks_agrees_with_a_directional_difference() {
    let sizes = sizes([1, 130, 1, 8]);
    let (qkv, dout) = (numbers(6, sizes.qkv_len()), numbers(7, sizes.out_len()));
    let along = numbers(8, sizes.qkv_len());
    let moved = |step: f64| -> f64 {
        let qkv: Vec<f64> = qkv.iter().zip(&along).map(|(x, a)| x + step * a).collect();
        naive(&qkv, sizes, 0.5).iter().zip(&dout).map(|(o, d)| o * d).sum()
    };
    let want = (moved(1e-5) - moved(-1e-5)) / 2e-5;
    let gradient = gradient::<f64>(&qkv, &dout, sizes, 0.5);
    let got: f64 = gradient.iter().zip(&along).map(|(g, a)| g * a).sum();
    assert_close(&[got], &[want], 1e-7);
}

#[test]
fn scores_that_overflow_exp_still_mix_the_values() {
    let sizes = sizes([1, 2, 1, 1]);
    let (out, lse) = forward::<f32>(&[20.0, 20.0, 1.0, 20.0, -20.0, 3.0], sizes, 1.0);
    assert_close(&out, &[1.0, 1.0], 1e-6);
    assert_close(&lse, &[400.0, 400.0], 1e-6);
    for sign in [1.0, -1.0] {
        let qkv = [20.0, 20.0 * sign, 1.0, 20.0, 20.0 * sign, 3.0];
        let got = gradient::<f32>(&qkv, &[1.0, -1.0], sizes, 1.0);
        // A log sum exp of 400 is known to 3e-5 in f32.
        assert_close(&got, &gradient::<f64>(&qkv, &[1.0, -1.0], sizes, 1.0), 1e-3);
    }
}

#[test]
fn products_in_bf16_change_attention_and_its_gradient_by_their_rounding() {
    for shape in [[1, 1, 1, 1], [2, 3, 2, 5], [3, 65, 2, 24], [1, 197, 2, 64], [2, 31, 1, 33]] {
        let sizes = sizes(shape);
        let (qkv, dout) = (numbers(9, sizes.qkv_len()), numbers(10, sizes.out_len()));
        let (exact, _) = forward::<f64>(&qkv, sizes, 0.4);
        let mut lse = vec![1.0; sizes.lse_len()];
        let rounded: Vec<f32> = to(&qkv);
        let out = packed::attention(&rounded, sizes, all(0.4), &mut lse);
        assert_close(&out, &exact, 2e-2);
        let backward = Backward { qkv: &rounded, lse: &lse, dout: &to::<f32>(&dout) };
        let made = packed::attention_backward(backward, sizes, all(0.4));
        assert_close(&made, &gradient::<f64>(&qkv, &dout, sizes, 0.4), 3e-2);
    }
}

fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|x| f64::from(*x)).collect()
}

#[test]
fn tokens_that_do_not_count_are_left_alone_in_bf16_too() {
    let sizes = sizes([2, 19, 2, 6]);
    let (qkv, dout) = (numbers(11, sizes.qkv_len()), numbers(12, sizes.out_len()));
    let (qkv, dout) = (to::<f32>(&qkv), to::<f32>(&dout));
    let lengths = [17, 0];
    let scores = Scores { scale: 0.4, lengths: Some(&lengths) };
    let (mut lse, mut exact_lse) = (vec![0.0; sizes.lse_len()], vec![0.0; sizes.lse_len()]);
    let out = packed::attention(&qkv, sizes, scores, &mut lse);
    assert_close(&out, &wide(&attention(&qkv, sizes, scores, &mut exact_lse)), 2e-2);
    let counted = lengths[0] as usize * sizes.stride();
    assert!(out[..counted].iter().all(|x| *x != 0.0) && out[counted..].iter().all(|x| *x == 0.0));
    let made =
        packed::attention_backward(Backward { qkv: &qkv, lse: &lse, dout: &dout }, sizes, scores);
    let exact = Backward { qkv: &qkv, lse: &exact_lse, dout: &dout };
    assert_close(&made, &wide(&attention_backward(exact, sizes, scores)), 3e-2);
    assert!(made[3 * counted..].iter().all(|x| *x == 0.0));
}

#[test]
fn an_infinite_value_of_one_sample_stays_its_own() {
    let whole = sizes([6, 40, 1, 4]);
    let lengths = [40, 7, 40, 17, 40, 2];
    let each = whole.qkv_len() / lengths.len();
    let mut qkv = to::<f32>(&numbers(13, whole.qkv_len()));
    for sample in [0, 2, 4] {
        qkv[sample * each + 8..][..4].fill(f32::INFINITY);
    }
    let dout = to::<f32>(&numbers(14, whole.out_len()));
    let gradient = |qkv: &[f32], dout: &[f32], sizes: Sizes, lengths: &[u32], bf16: bool| {
        let mut lse = vec![0.0; sizes.lse_len()];
        let scores = Scores { scale: 0.4, lengths: Some(lengths) };
        let forward = if bf16 { packed::attention } else { attention::<f32> };
        forward(qkv, sizes, scores, &mut lse);
        let backward = if bf16 { packed::attention_backward } else { attention_backward::<f32> };
        backward(Backward { qkv, lse: &lse, dout }, sizes, scores)
    };
    let one = Sizes { batch: 1, ..whole };
    for bf16 in [false, true] {
        let together = gradient(&qkv, &dout, whole, &lengths, bf16);
        for sample in [1, 3, 5] {
            let (x, dy) = (&qkv[sample * each..][..each], &dout[sample * each / 3..][..each / 3]);
            let alone = gradient(x, dy, one, &lengths[sample..=sample], bf16);
            assert_eq!(&together[sample * each..][..each], alone, "sample {sample}, bf16 {bf16}");
        }
    }
}
