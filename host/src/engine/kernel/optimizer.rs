//! One pass over a parameter: updates of optimisers and teachers, and norms. All in f32, the type of
//! master weights.

use super::dispatch::{Kernel, dispatch};
use super::threads::{self, ELEMENTS_PER_TASK};

/// The constants of one `AdamW` update (Loshchilov and Hutter 2019).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay rates of the first and second moment.
    pub betas: [f32; 2],
    /// What weight decay leaves of a weight: 1 - lr decay.
    pub keep: f32,
    /// lr / (1 - beta1^t).
    pub step: f32,
    /// 1 / sqrt(1 - beta2^t).
    pub second_scale: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
}

impl AdamW {
    /// The constants of the update number `count`, from 1; computed in f64.
    pub fn new(lr: f64, decay: f64, betas: (f64, f64), eps: f64, count: u64) -> Self {
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        Self {
            betas: [betas.0 as f32, betas.1 as f32],
            keep: (1.0 - lr * decay) as f32,
            step: (lr / (1.0 - betas.0.powi(count))) as f32,
            second_scale: (1.0 / (1.0 - betas.1.powi(count)).sqrt()) as f32,
            eps: eps as f32,
        }
    }
}

/// A parameter's values and moments, all of one length.
#[derive(Debug)]
pub struct Moments<'a> {
    /// The values.
    pub values: &'a mut [f32],
    /// The first moment.
    pub first: &'a mut [f32],
    /// The second moment.
    pub second: &'a mut [f32],
}

/// `m += (1 - beta1) (g - m)`, `v = beta2 v + (1 - beta2) g^2`,
/// `p = keep p - step m / (sqrt(v) second_scale + eps)` with `g = gradient_scale gradient`.
///
/// # Panics
/// When the lengths differ.
pub fn adamw(
    Moments { values, first, second }: Moments<'_>,
    gradient: &[f32],
    gradient_scale: f32,
    constants: AdamW,
) {
    let len = gradient.len();
    assert_eq!([values.len(), first.len(), second.len()], [len; 3], "moments have one length");
    let task = ELEMENTS_PER_TASK;
    threads::chunks3((values, task), (first, task), (second, task), |i, values, first, second| {
        let gradient = &gradient[i * task..][..values.len()];
        let moments = Moments { values, first, second };
        dispatch(AdamWStep { moments, gradient, gradient_scale, constants });
    });
}

struct AdamWStep<'a> {
    moments: Moments<'a>,
    gradient: &'a [f32],
    gradient_scale: f32,
    constants: AdamW,
}

impl Kernel for AdamWStep<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Moments { values, first, second } = self.moments;
        let AdamW { betas: [beta1, beta2], keep, step, second_scale, eps } = self.constants;
        let moments = first.iter_mut().zip(second);
        for ((p, g), (m, v)) in values.iter_mut().zip(self.gradient).zip(moments) {
            let g = g * self.gradient_scale;
            *m += (1.0 - beta1) * (g - *m);
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            *p = *p * keep - step * *m / (v.sqrt() * second_scale + eps);
        }
    }
}

/// The constants of one update by SGD with momentum, weight decay added to the gradient as in
/// PyTorch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Learning rate.
    pub lr: f32,
    /// Weight decay.
    pub decay: f32,
    /// The share of the last velocity that is kept; 0 in the first update.
    pub momentum: f32,
    /// What the gradient (with weight decay) is multiplied by: a clip, or LARC's local rate.
    pub gradient_scale: f32,
}

/// `m = momentum m + scale (g + decay p)`, `p -= lr m`.
///
/// # Panics
/// When the lengths differ.
pub fn sgd(values: &mut [f32], velocity: &mut [f32], gradient: &[f32], constants: Sgd) {
    assert_eq!([values.len(), velocity.len()], [gradient.len(); 2], "operands have one length");
    let task = ELEMENTS_PER_TASK;
    threads::chunks2((values, task), (velocity, task), |i, values, velocity| {
        let gradient = &gradient[i * task..][..values.len()];
        dispatch(SgdStep { values, velocity, gradient, constants });
    });
}

struct SgdStep<'a> {
    values: &'a mut [f32],
    velocity: &'a mut [f32],
    gradient: &'a [f32],
    constants: Sgd,
}

impl Kernel for SgdStep<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Sgd { lr, decay, momentum, gradient_scale } = self.constants;
        for ((p, m), g) in self.values.iter_mut().zip(self.velocity).zip(self.gradient) {
            *m = momentum * *m + gradient_scale * (g + decay * *p);
            *p -= lr * *m;
        }
    }
}

/// The sum of squares in f64, from partial sums of fixed size: NaN or infinite exactly where an
/// element is, so that it is the check for such elements as well.
pub fn squared_norm(x: &[f32]) -> f64 {
    let mut partials = vec![0.0_f64; x.len().div_ceil(ELEMENTS_PER_TASK)];
    threads::chunks(&mut partials, 1, |i, partial| {
        let start = i * ELEMENTS_PER_TASK;
        let x = &x[start.min(x.len())..x.len().min(start + ELEMENTS_PER_TASK)];
        partial.fill(dispatch(Squares { x }));
    });
    partials.iter().sum()
}

/// The norms of a parameter and of its gradient, `||p||` and `||g||`, by which LARC and LARS scale
/// the learning rate.
pub fn norms(values: &[f32], gradient: &[f32]) -> (f64, f64) {
    (squared_norm(values).sqrt(), squared_norm(gradient).sqrt())
}

struct Squares<'a> {
    x: &'a [f32],
}

impl Kernel for Squares<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> f64 {
        let mut lanes = [0.0_f64; 32];
        let chunks = self.x.chunks_exact(lanes.len());
        let rest = chunks.remainder();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(*x) * f64::from(*x);
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *lane += f64::from(*x) * f64::from(*x);
        }
        lanes.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::kernel::testing::{assert_close, numbers, to};

    const N: usize = ELEMENTS_PER_TASK + 37;

    #[test]
    fn three_updates_of_adamw_agree_with_the_papers_formula() {
        let (lr, decay, betas, eps) = (0.01, 0.1, (0.9, 0.99), 1e-8);
        let mut p = numbers(1, N);
        let mut state = [to::<f32>(&p), vec![0.0; N], vec![0.0; N]];
        let (mut m, mut v) = (vec![0.0; N], vec![0.0; N]);
        for count in 1..=3 {
            let gradient = to::<f32>(&numbers(1 + count, N));
            let [values, first, second] = &mut state;
            let constants = AdamW::new(lr, decay, betas, eps, count);
            adamw(Moments { values, first, second }, &gradient, 0.5, constants);
            let power = i32::try_from(count).unwrap();
            for i in 0..N {
                let g = 0.5 * f64::from(gradient[i]);
                m[i] = betas.0 * m[i] + (1.0 - betas.0) * g;
                v[i] = betas.1 * v[i] + (1.0 - betas.1) * g * g;
                let m_hat = m[i] / (1.0 - betas.0.powi(power));
                let v_hat: f64 = v[i] / (1.0 - betas.1.powi(power));
                p[i] -= lr * (m_hat / (v_hat.sqrt() + eps) + decay * p[i]);
            }
        }
        assert_close(&state[0], &p, 1e-6);
    }

    #[test]
    fn two_updates_of_sgd_agree_with_their_formula() {
        let mut p = numbers(5, N);
        let (mut values, mut velocity) = (to::<f32>(&p), vec![0.0; N]);
        let mut m = vec![0.0; N];
        for momentum in [0.0, 0.9] {
            let g = numbers(6, N);
            let constants = Sgd { lr: 0.1, decay: 0.01, momentum, gradient_scale: 0.5 };
            sgd(&mut values, &mut velocity, &to::<f32>(&g), constants);
            for i in 0..N {
                m[i] = f64::from(momentum) * m[i] + 0.5 * (g[i] + 0.01 * p[i]);
                p[i] -= 0.1 * m[i];
            }
        }
        assert_close(&values, &p, 1e-6);
    }

    #[test]
    fn norms_are_exact_and_show_what_is_not_finite() {
        let mut x = to::<f32>(&numbers(7, N));
        let want: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        assert!((squared_norm(&x) / want - 1.0).abs() < 1e-12);
        assert_eq!(norms(&[3.0, 4.0], &[2.0]), (5.0, 2.0));
        assert_eq!(squared_norm(&[]), 0.0);
        // The squares of large numbers don't overflow in f64.
        assert!(squared_norm(&[f32::MAX, f32::MAX]).is_finite());
        for bad in [f32::NAN, f32::INFINITY] {
            x[N - 1] = bad;
            assert!(!squared_norm(&x).is_finite());
        }
    }
}
