//! Packed convolutions against the plain ones in f64.

use super::super::super::conv1d as plain;
use super::super::super::testing::{numbers, to};
use super::*;

const CASES: [Conv; 9] = [
    case([1, 5, 1, 1], [1, 1, 0, 1]),
    case([2, 203, 1, 40], [10, 5, 0, 1]),
    case([3, 211, 6, 5], [3, 2, 0, 1]),
    case([1, 9, 4, 33], [2, 2, 0, 1]),
    case([2, 40, 24, 24], [8, 1, 4, 4]),
    case([2, 7, 96, 96], [16, 1, 8, 2]),
    case([2, 30, 6, 9], [5, 3, 2, 3]),
    case([1, 8, 3, 2], [2, 4, 1, 1]),
    case([2, 13, 5, 10], [3, 1, 1, 5]),
];

const fn case(
    [batch, frames, channels, outputs]: [usize; 4],
    [kernel, stride, padding, groups]: [usize; 4],
) -> Conv {
    Conv { batch, frames, channels, outputs, kernel, stride, padding, groups }
}

#[track_caller]
fn assert_near(what: &str, conv: &Conv, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what} of {conv:?}");
    let scale = want.iter().fold(1e-3_f64, |most, x| most.max(x.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let far = (f64::from(*got) - want).abs();
        assert!(far < tolerance * scale, "{what} of {conv:?}, {i}: {got} {want}");
    }
}

fn check<const BF16: bool>(conv: &Conv, tolerance: f64) {
    let rounded = |seed, n| to::<f32>(&numbers(seed, n));
    let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
    let (x, w) = (rounded(1, conv.x_len()), rounded(2, conv.w_len()));
    let (bias, dy) = (rounded(3, conv.outputs), rounded(4, conv.y_len()));
    let near = |what: &str, got: &[f32], want: &[f64]| {
        assert_near(what, conv, got, want, tolerance);
    };
    let (wide_x, wide_w, wide_dy) = (wide(&x), wide(&w), wide(&dy));
    let want = plain::forward(&wide_x, &wide_w, Some(&wide(&bias)), conv);
    near("y", &forward::<BF16>((&x, false), &w, Some(&bias), conv), &want);
    let want = plain::grad_input(&wide_dy, &wide_w, conv);
    near("dx", &grad_input::<BF16>(&dy, &w, None, conv), &want);
    let slopes = activation::backward(Activation::Gelu, &wide_x, &want);
    near("dh", &grad_input::<BF16>(&dy, &w, Some(&x), conv), &slopes);
    near("dw", &grad_weight::<BF16>(&dy, &x, conv), &plain::grad_weight(&wide_dy, &wide_x, conv));
    let made = activation::forward(Activation::Gelu, &wide_x);
    let want = plain::forward(&made, &wide_w, None, conv);
    near("y of gelu", &forward::<BF16>((&x, true), &w, None, conv), &want);
}

#[test]
fn packed_convolutions_and_their_gradients_agree_with_plain_ones() {
    for conv in &CASES {
        check::<false>(conv, 3e-6);
        check::<true>(conv, 2e-2);
    }
}

#[test]
fn the_number_of_threads_changes_no_bit_of_a_convolution() {
    let conv = case([3, 150, 24, 24], [8, 1, 4, 4]);
    let (x, w) = (to::<f32>(&numbers(1, conv.x_len())), to::<f32>(&numbers(2, conv.w_len())));
    let dy = to::<f32>(&numbers(3, conv.y_len()));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let y = forward::<false>((&x, true), &w, None, &conv);
            let dx = grad_input::<false>(&dy, &w, Some(&x), &conv);
            let dw = grad_weight::<true>(&dy, &x, &conv);
            [y, dx, dw].concat().into_iter().map(f32::to_bits).collect::<Vec<_>>()
        })
    };
    assert_eq!(run(1), run(3));
}
