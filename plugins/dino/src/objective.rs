//! DINO's objective as pure functions of tensors, one per equation.

use pretext_plugin_api::{Result, Tensor, no_grad};

/// How many crops there are of how many samples.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Crops that the student sees: 2 global ones and the local ones.
    pub(crate) crops: usize,
    /// Samples.
    pub(crate) batch: usize,
}

/// The teacher's distributions: softmax((t - c) / T), `[2 B, K]`.
pub(crate) fn sharpen(told: Tensor, center: Tensor, temperature: f64) -> Tensor {
    (told - center).softmax(-1, temperature)
}

/// The mean cross-entropy of every student crop against every teacher view but itself (equation 3):
///
/// `1 / (2 (V - 1)) sum_{t in 2 globals} sum_{s in V crops, s != t} mean_B H(P_t, P_s)`.
///
/// `said` is `[V B, K]`, the two global crops first; `targets` `[2 B, K]`. A crop's terms share its log
/// softmax, so their targets are added first and each crop costs one cross-entropy.
pub(crate) fn cross_view(said: Tensor, targets: Tensor, temperature: f64, terms: Terms) -> Tensor {
    let Terms { crops, batch } = terms;
    let (first, second) = (targets.narrow(0, 0, batch), targets.narrow(0, batch, batch));
    let mut rows = vec![second, first];
    if crops > 2 {
        rows.extend(vec![first + second; crops - 2]);
    }
    let losses = said.soft_cross_entropy(Tensor::cat(0, &rows), temperature);
    let n = 2 * (crops - 1);
    losses.sum(&[], false).scale(1.0 / (n * batch) as f64)
}

/// The center after this batch (equation 4): `c = m c + (1 - m) mean_{2 B} t`, over all ranks.
pub(crate) fn recenter(center: Tensor, told: Tensor, decay: f64) -> Tensor {
    no_grad(|| {
        let mean = told.mean(&[0], true).all_reduce(true);
        center.scale(decay) + mean.scale(1.0 - decay)
    })
}

/// Mean entropy of the teacher's distributions, in nats: near 0 or near log K, it has collapsed.
pub(crate) fn entropy(targets: Tensor) -> Tensor {
    no_grad(|| {
        (targets * targets.clamp(1e-12, 1.0).log()).sum(&[], false).scale(-1.0) / rows(targets)
    })
}

/// Exponential of the entropy of the mean distribution: how many prototypes the teacher uses.
pub(crate) fn used(targets: Tensor) -> Tensor {
    no_grad(|| {
        let mean = targets.mean(&[0], false);
        (mean * mean.clamp(1e-12, 1.0).log()).sum(&[], false).scale(-1.0).exp()
    })
}

/// The number of rows, as a tensor.
fn rows(x: Tensor) -> Tensor {
    let rows = |x: Tensor| -> Result<usize> { x.size(0) };
    Tensor::scalar(rows(x).unwrap_or(1) as f32)
}
