//! HuBERT's objective as pure functions of tensors.

use pretext_plugin_api::{Tensor, no_grad};

/// How much hidden and shown frames count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights {
    /// Of hidden frames.
    pub(crate) masked: f64,
    /// Of shown ones.
    pub(crate) unmasked: f64,
}

/// The mean cross-entropy over the frames that count (equation 1, with `alpha` as weights):
///
/// `(w_m sum_{t hidden} H_t + w_u sum_{t shown} H_t) / N`, N the number of frames with a weight above 0.
///
/// `rows` is H `[R]`, `mask` u8 `[R]` says what is hidden, `known` u8 `[R]` which frames have a unit: the others, such as
/// those of the padding, never count.
pub(crate) fn predict(rows: Tensor, mask: Tensor, known: Tensor, weights: Weights) -> Tensor {
    let Weights { masked, unmasked } = weights;
    let pick = |masked: f64, unmasked: f64| {
        let weight = ones(rows).scale(masked);
        let weight = Tensor::choose(mask, weight, ones(rows).scale(unmasked));
        Tensor::choose(known, weight, zeros(rows))
    };
    let counts = |weight: f64| if weight > 0.0 { 1.0 } else { 0.0 };
    let (weight, n) = no_grad(|| {
        let n = pick(counts(masked), counts(unmasked)).sum(&[], false);
        (pick(masked, unmasked), n.clamp(1.0, f64::MAX))
    });
    (rows * weight).sum(&[], false) / n
}

/// The mean square of the first features, which keeps them small.
pub(crate) fn penalty(frames: Tensor) -> Tensor {
    frames.square().mean(&[], false)
}

/// The share of hidden frames with a unit whose unit is said: logits `[R, K]`, units u32 `[R]`, mask and known u8 `[R]`.
pub(crate) fn accuracy(logits: Tensor, units: Tensor, mask: Tensor, known: Tensor) -> Tensor {
    no_grad(|| {
        let (ones, zeros) = (ones(logits.max(-1, false)), zeros(logits.max(-1, false)));
        let right = Tensor::choose(logits.argmax(-1).equal(units), ones, zeros);
        let hidden = Tensor::choose(known, Tensor::choose(mask, ones, zeros), zeros);
        (right * hidden).sum(&[], false) / hidden.sum(&[], false).clamp(1.0, f64::MAX)
    })
}

/// Exponential of the entropy of the mean distribution over the frames with a unit: how many units are said. `logits`
/// `[R, K]` before the `temperature`, `known` u8 `[R]`.
pub(crate) fn said(logits: Tensor, known: Tensor, temperature: f64) -> Tensor {
    no_grad(|| {
        let counted =
            Tensor::choose(known, ones(logits.max(-1, false)), zeros(logits.max(-1, false)));
        let n = counted.sum(&[], false).clamp(1.0, f64::MAX);
        let said = logits.softmax(-1, temperature) * counted.reshape(&[-1, 1]);
        let mean = said.sum(&[0], false) / n;
        (mean * mean.clamp(1e-12, 1.0).log()).sum(&[], false).scale(-1.0).exp()
    })
}

fn ones(like: Tensor) -> Tensor {
    like.stop_grad().affine(0.0, 1.0)
}

fn zeros(like: Tensor) -> Tensor {
    like.stop_grad().affine(0.0, 0.0)
}
