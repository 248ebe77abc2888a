//! SwAV's objective as pure functions of tensors, one per equation.

use pretext_plugin_api::{Tensor, no_grad};

/// How many crops there are of how many samples.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// All crops: 2 that are assigned, and the local ones.
    pub(crate) crops: usize,
    /// Samples.
    pub(crate) batch: usize,
}

/// How scores become assignments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Assign {
    /// Weight of the entropy in equation 3: the smaller, the sharper.
    pub(crate) epsilon: f64,
    /// Iterations of Sinkhorn and Knopp.
    pub(crate) iterations: usize,
}

/// Assignments `[B, K]` of `own` scores `[B, K]` that use all prototypes equally (equation 5), together with
/// scores of the `past` `[L, K]`, whose own assignments nobody needs.
pub(crate) fn assign(own: Tensor, past: Option<Tensor>, assign: Assign) -> Tensor {
    no_grad(|| {
        let Assign { epsilon, iterations } = assign;
        match past {
            None => own.sinkhorn(epsilon, iterations),
            Some(past) => {
                let all = Tensor::cat(0, &[own, past]).sinkhorn(epsilon, iterations);
                all.narrow(0, 0, own.size(0).unwrap_or_default())
            }
        }
    })
}

/// The mean cross-entropy of every crop's prediction against the assignment of each of the two assigned crops but
/// itself (equations 1 and 2, with the crops of section 3.3):
///
/// `1 / (2 (V - 1)) sum_{i in 2} sum_{v in V, v != i} mean_B H(q_i, softmax(z_v / T))`.
///
/// `scores` is `[V B, K]`, the assigned crops first; `codes` `[B, K]` each. A crop's terms share its log softmax, so
/// their targets are added first and each crop costs one cross-entropy.
pub(crate) fn swapped(
    scores: Tensor,
    codes: [Tensor; 2],
    temperature: f64,
    terms: Terms,
) -> Tensor {
    let Terms { crops, batch } = terms;
    let mut rows = vec![codes[1], codes[0]];
    if crops > 2 {
        let both = no_grad(|| codes[0] + codes[1]);
        rows.extend(vec![both; crops - 2]);
    }
    let losses = scores.soft_cross_entropy(Tensor::cat(0, &rows), temperature);
    losses.sum(&[], false).scale(1.0 / (2 * (crops - 1) * batch) as f64)
}

/// Exponential of the entropy of the mean prediction: how many prototypes are used. 1 means collapse.
pub(crate) fn used(scores: Tensor, temperature: f64) -> Tensor {
    no_grad(|| {
        let mean = scores.softmax(-1, temperature).mean(&[0], false);
        (mean * mean.clamp(1e-12, 1.0).log()).sum(&[], false).scale(-1.0).exp()
    })
}

/// Mean entropy of the assignments of `rows` samples, in nats: near log K, nothing is told apart.
pub(crate) fn entropy(codes: Tensor, rows: usize) -> Tensor {
    no_grad(|| {
        let sum = (codes * codes.clamp(1e-12, 1.0).log()).sum(&[], false);
        sum.scale(-1.0 / rows as f64)
    })
}
