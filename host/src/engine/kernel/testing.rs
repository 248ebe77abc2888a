//! What the kernels' tests share: numbers that repeat, and a comparison that says where it failed.

use super::Float;

/// `count` numbers in [-1, 1) that depend on `seed` alone.
pub(super) fn numbers(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    let mut next = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as f64) / f64::from(1_u32 << 30) - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// The same numbers in `T`.
pub(super) fn to<T: Float>(numbers: &[f64]) -> Vec<T> {
    numbers.iter().map(|x| T::from_f64(*x)).collect()
}

/// Asserts that each pair differs by at most `tolerance`, relatively where larger than 1.
#[track_caller]
pub(super) fn assert_close<T: Float>(got: &[T], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "lengths");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let got = got.to_f64();
        let distance = (got - want).abs() / want.abs().max(1.0);
        assert!(distance <= tolerance, "element {i}: got {got}, want {want}");
    }
}

/// The central difference of `f` at `x` along each element, times `weight`: the exact gradient of
/// `sum weight f(x)` up to about 1e-9.
pub(super) fn slope(x: &[f64], weight: &[f64], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let kept = x[i];
            x[i] = kept + STEP;
            let above = f(&x);
            x[i] = kept - STEP;
            let below = f(&x);
            x[i] = kept;
            let change = above.iter().zip(&below).zip(weight).map(|((a, b), w)| w * (a - b));
            change.sum::<f64>() / (2.0 * STEP)
        })
        .collect()
}
