//! The convolutions that turn a waveform into frames, 50 per second in the usual sizes.

use candle_core::{DType, Tensor};

use super::EPS;
use crate::engine::Var;
use crate::engine::ops::conv1d::{Windows, conv1d};
use crate::engine::ops::gelu::gelu;
use crate::engine::ops::gelu_conv1d::gelu_conv1d;
use crate::engine::ops::grad_scale::grad_scale;
use crate::engine::ops::group_norm::group_norm;
use crate::engine::ops::permute::permute;
use crate::engine::ops::reshape::reshape;
use crate::module::Forward;
use crate::module::declare::{Declare, ONES, ZEROS, join};
use crate::state::{Init, ParamId};
use crate::{Error, Result};

/// One convolution without bias and without padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    /// Channels that come out.
    pub(super) width: usize,
    /// Frames in a window.
    pub(super) kernel: usize,
    /// Frames from one window to the next.
    pub(super) stride: usize,
}

/// How many frames `layers` make of `samples` samples; none where they don't fill one window.
pub(super) fn frame_count(layers: &[Layer], samples: usize) -> usize {
    layers.iter().fold(samples, |frames, layer| {
        frames.checked_sub(layer.kernel).map_or(0, |rest| rest / layer.stride + 1)
    })
}

/// The same of each of `samples`, u32 `[B]`: f64 `[B]`, where they lie; nothing is read back from a device.
///
/// # Errors
/// None but the device's own.
pub(super) fn frame_counts(layers: &[Layer], samples: &Tensor) -> Result<Tensor> {
    layers.iter().try_fold(samples.to_dtype(DType::F64)?, |frames, layer| {
        let (kernel, stride) = (layer.kernel as f64, layer.stride as f64);
        // Half a sample more keeps a whole number of strides from being rounded down.
        let rest = frames.affine(1.0 / stride, (0.5 - kernel) / stride)?.floor()?;
        Ok(rest.affine(1.0, 1.0)?.maximum(0.0)?)
    })
}

/// Samples from one frame to the next.
pub(super) fn stride(layers: &[Layer]) -> usize {
    layers.iter().map(|layer| layer.stride).product()
}

/// Samples that one frame sees.
pub(super) fn size(layers: &[Layer]) -> usize {
    layers.iter().rev().fold(1, |size, layer| (size - 1) * layer.stride + layer.kernel)
}

/// Convolutions with GELU after each, and after the first a group norm of one channel per group: over
/// time, sample by sample.
#[derive(Debug)]
pub(super) struct Frames {
    layers: Vec<Layer>,
    weights: Vec<ParamId>,
    norm: [ParamId; 2],
    /// Multiplies the gradient that enters from above.
    grad_factor: f64,
}

impl Frames {
    /// Declares `feature_extractor.conv_layers.K.conv.weight` `[O, C, k]` and the first one's
    /// `layer_norm.weight` and `bias` `[O]`; weights start as He et al. (2015) have it, normal with
    /// variance 2 / fan in.
    pub(super) fn declare(
        declare: &mut Declare<'_>,
        layers: &[Layer],
        grad_factor: f64,
    ) -> Result<Self> {
        let mut channels = 1;
        let mut weights = Vec::new();
        let mut norm = None;
        for (i, layer) in layers.iter().enumerate() {
            let at = format!("feature_extractor.conv_layers.{i}");
            let init = Init::Normal { std: (2.0 / (channels * layer.kernel) as f64).sqrt() };
            let shape = [layer.width, channels, layer.kernel];
            weights.push(declare.parameter(&join(&at, "conv.weight"), &shape, init)?);
            if i == 0 {
                let shape = [layer.width];
                norm = Some([
                    declare.parameter(&join(&at, "layer_norm.weight"), &shape, ONES)?,
                    declare.parameter(&join(&at, "layer_norm.bias"), &shape, ZEROS)?,
                ]);
            }
            channels = layer.width;
        }
        let norm = norm.ok_or_else(|| {
            Error::asked_wrongly("`wave` needs at least one convolution")
                .hint("leave `backbone.conv_kernels` out, or list one kernel per layer")
        })?;
        Ok(Self { layers: layers.to_vec(), weights, norm, grad_factor })
    }

    /// Waveforms `[B, T]` to frames `[B, F, C]`.
    ///
    /// Between the layers everything lies as `[B, T, C]`, and the convolutions see transposed views of it.
    pub(super) fn apply(&self, f: &Forward<'_>, waveforms: &Var) -> Result<Var> {
        let &[batch, samples] = waveforms.dims() else {
            return Err(Error::failed(format!(
                "`wave` expects waveforms [B, T], got {:?}",
                waveforms.dims()
            )));
        };
        if frame_count(&self.layers, samples) == 0 {
            return Err(Error::failed(format!(
                "{samples} samples don't fill one frame of {}",
                size(&self.layers)
            ))
            .hint("take longer crops of the sound"));
        }
        let tape = f.tape;
        let mut x = reshape(tape, waveforms, &[batch, 1, samples])?;
        for (i, (layer, weight)) in self.layers.iter().zip(&self.weights).enumerate() {
            let windows = Windows { stride: layer.stride, padding: 0, groups: 1 };
            let weight = f.param(*weight);
            if i > 0 {
                x = gelu_conv1d(tape, &x, &weight, None, windows)?;
                continue;
            }
            x = conv1d(tape, &x, &weight, None, windows)?;
            let [weight, bias] = self.norm.map(|id| f.param(id));
            x = group_norm(tape, &x, layer.width, (Some(&weight), Some(&bias)), EPS)?;
        }
        let frames = gelu(tape, &permute(tape, &x, &[0, 2, 1])?)?;
        if self.grad_factor == 1.0 {
            return Ok(frames);
        }
        grad_scale(tape, &frames, self.grad_factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layers of `HuBERT`.
    fn usual() -> Vec<Layer> {
        let windows = [(10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)];
        windows.map(|(kernel, stride)| Layer { width: 8, kernel, stride }).to_vec()
    }

    #[test]
    fn a_frame_sees_400_samples_and_the_next_one_begins_320_later() {
        assert_eq!((size(&usual()), stride(&usual())), (400, 320));
    }

    #[test]
    fn two_facts_give_the_number_of_frames_of_every_length() {
        let layers = usual();
        for samples in (0_usize..3000).chain([16_000, 250_000]) {
            let by_facts = samples.checked_sub(400).map_or(0, |rest| rest / 320 + 1);
            assert_eq!(frame_count(&layers, samples), by_facts, "{samples}");
        }
    }
}
