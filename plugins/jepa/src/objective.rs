//! I-JEPA's objective as pure functions of tensors.

use pretext_plugin_api::{Result, Tensor, no_grad};

/// What keeps a target's variance from 0: PyTorch's layer norm has this where nothing is said.
const EPS: f64 = 1e-5;

/// The teacher's tokens `[B, N, D]` as targets: each of mean 0 and variance 1, without learned factors.
pub(crate) fn normalize(tokens: Tensor) -> Tensor {
    tokens.layer_norm(None, None, EPS)
}

/// The mean smooth L1 distance of predictions and targets, `[M B, Kt, D]` each. The paper has the mean
/// squared distance; its authors' code trains with this.
pub(crate) fn distance(predicted: Tensor, targets: Tensor, beta: f64) -> Tensor {
    predicted.smooth_l1(targets, beta).mean(&[], false)
}

/// How far apart tokens `[R, K, D]` point, from 0, where all are one, to about 1/sqrt(D).
pub(crate) fn spread(tokens: Tensor) -> Result<Tensor> {
    let dim = tokens.size(-1)?.cast_signed() as i64;
    Ok(no_grad(|| tokens.reshape(&[-1, dim]).spread()))
}
