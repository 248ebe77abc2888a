//! `wave`: the network of wav2vec 2.0 (Baevski et al. 2020) and `HuBERT` (Hsu et al. 2021) over waveforms,
//! with names near those of transformers' `HubertModel`.

mod encoder;
mod frames;
#[cfg(test)]
mod tests;

use std::rc::Rc;

use candle_core::{DType, Tensor};

use self::encoder::{Encoder, Shape, dropped};
use self::frames::{Frames, Layer, frame_count, frame_counts};
use super::declare::Declare;
use super::linear::Linear;
use super::registry::{Kind, ModuleDef, OptionDef, Options, Role};
use super::transformer::{Norm, layer_of};
use super::{Forward, Input, Module, input, optional_input, select};
use crate::engine::Var;
use crate::engine::ops::mask_tokens::mask_tokens;
use crate::engine::ops::matmul::matmul;
use crate::engine::ops::mean::mean;
use crate::engine::ops::reshape::reshape;
use crate::state::{Init, ParamId};
use crate::{Error, Result};

/// What keeps a norm's variance from 0, as in the authors' code.
const EPS: f64 = 1e-5;

/// The backbone `wave`.
///
/// Inputs: `waveforms` `[B, T]`; `mask` u8 `[B, F]`, the frames that the mask embedding stands for (needs
/// `mask_token = true`); `lengths` u32 `[B]`, how many samples of each waveform are sound: no frame that
/// looks beyond them is attended to.
///
/// Outputs: `frames` `[B, F, C]`, what the convolutions make; `tokens` `[B, F, D]`; `layer.K` `[B, F, D]`,
/// tokens after block K; `pooled` and `cls` `[B, D]`, the mean of the tokens that are sound.
#[derive(Debug)]
struct Wave {
    frames: Frames,
    norm: Norm,
    projection: Linear,
    mask_embedding: Option<ParamId>,
    encoder: Encoder,
    layers: Vec<Layer>,
    input_dropout: f64,
    facts: Vec<(&'static str, i64)>,
    parameters: Vec<ParamId>,
}

/// Width, depth, heads and channels of the convolutions of the named sizes.
fn size_of(name: &str) -> (usize, usize, usize, usize) {
    match name {
        "base" => (768, 12, 12, 512),
        "small" => (384, 12, 6, 256),
        _ => (192, 4, 3, 128),
    }
}

/// Width of one head where the recipe gives a width and no heads.
const HEAD_DIM: usize = 64;

fn shape_of(options: &Options) -> Result<Shape> {
    let (width, depth, heads, _) = size_of(options.word("size"));
    let heads = match (options.size("heads"), options.size("width")) {
        (Some(heads), _) => heads,
        (None, Some(width)) => (width / HEAD_DIM).max(1),
        (None, None) => heads,
    };
    let width = options.size("width").unwrap_or(width);
    let shape = Shape {
        width,
        depth: options.size("depth").unwrap_or(depth),
        heads,
        hidden: (width as f64 * options.float("mlp_ratio")) as usize,
        position_kernel: options.required("position_kernel")?,
        position_groups: options.required("position_groups")?,
        dropout: options.float("dropout"),
        activation_dropout: options.float("activation_dropout"),
        layer_drop: options.float("layer_drop"),
    };
    for (parts, what) in [(heads, "heads"), (shape.position_groups, "position_groups")] {
        if !width.is_multiple_of(parts) {
            return Err(Error::asked_wrongly(format!(
                "a width of {width} can't be divided by `{what}` {parts}"
            ))
            .hint(format!("choose `backbone.{what}` so that it divides the width")));
        }
    }
    Ok(shape)
}

fn layers_of(options: &Options) -> Result<Vec<Layer>> {
    let (kernels, strides) = (options.sizes("conv_kernels"), options.sizes("conv_strides"));
    let mut widths = options.sizes("conv_widths");
    if widths.len() < 2 {
        let width = widths.first().copied().unwrap_or(size_of(options.word("size")).3);
        widths = vec![width; kernels.len()];
    }
    if kernels.len() != strides.len() || kernels.len() != widths.len() {
        return Err(Error::asked_wrongly(format!(
            "the convolutions have {} kernels, {} strides and {} widths",
            kernels.len(),
            strides.len(),
            widths.len()
        ))
        .hint("list as many `backbone.conv_kernels` as `conv_strides`, and one of `conv_widths` or as many"));
    }
    let layers = widths.iter().zip(&kernels).zip(&strides);
    Ok(layers
        .map(|((width, kernel), stride)| Layer { width: *width, kernel: *kernel, stride: *stride })
        .collect())
}

/// The samples of a sound of the shape `[T]`.
fn samples_of(sound: &[usize]) -> Result<usize> {
    match sound {
        [samples] => Ok(*samples),
        _ => Err(Error::asked_wrongly("the backbone `wave` takes waveforms, not images")
            .hint("use `backbone=vit` for images and spectrograms")),
    }
}

/// The samples of a sound, which fill a frame; 0 stands for any length.
fn check_length(sound: &[usize], layers: &[Layer]) -> Result<usize> {
    let samples = samples_of(sound)?;
    if samples > 0 && frame_count(layers, samples) == 0 {
        return Err(Error::asked_wrongly(format!(
            "{samples} samples don't fill one frame of {}",
            frames::size(layers)
        ))
        .hint("take longer crops of the sound, or fewer `backbone.conv_kernels`"));
    }
    Ok(samples)
}

/// The frames of a sound of `[T]` samples; none where it is too short for one.
fn grid(options: &Options, sound: &[usize]) -> Result<Vec<usize>> {
    Ok(vec![frame_count(&layers_of(options)?, samples_of(sound)?)])
}

impl Wave {
    fn build(options: &Options, sound: &[usize], mut d: Declare<'_>) -> Result<Self> {
        let (shape, layers) = (shape_of(options)?, layers_of(options)?);
        let samples = check_length(sound, &layers)?;
        let frames = Frames::declare(&mut d, &layers, options.float("conv_grad_factor"))?;
        let channels = layers.last().map_or(1, |layer| layer.width);
        let norm = Norm::with_eps(&mut d, "feature_projection.layer_norm", channels, EPS)?;
        let sizes = (channels, shape.width);
        let projection = Linear::declare(&mut d, "feature_projection.projection", sizes, true)?;
        let mask_embedding = options
            .flag("mask_token")
            .then(|| {
                let init = Init::Uniform { low: 0.0, high: 1.0 };
                d.parameter("masked_spec_embed", &[shape.width], init)
            })
            .transpose()?;
        let encoder = Encoder::declare(&mut d, shape)?;
        let facts = vec![
            ("dim", shape.width as i64),
            ("depth", shape.depth as i64),
            ("heads", shape.heads as i64),
            ("frame_dim", channels as i64),
            ("frame_stride", frames::stride(&layers) as i64),
            ("frame_size", frames::size(&layers) as i64),
            ("tokens", frame_count(&layers, samples) as i64),
        ];
        Ok(Self {
            frames,
            norm,
            projection,
            mask_embedding,
            encoder,
            layers,
            input_dropout: options.float("input_dropout"),
            facts,
            parameters: d.finish(),
        })
    }

    /// Frames `[B, F, C]` as tokens `[B, F, D]`, masked and without what is beyond the sound.
    fn embed(
        &self,
        f: &Forward<'_>,
        frames: &Var,
        mask: Option<&Var>,
        valid: Option<&Valid>,
    ) -> Result<Var> {
        let normed = self.projection.apply_normed(f, frames, &self.norm)?;
        let mut x = dropped(f, normed, self.input_dropout)?;
        if let Some(mask) = mask {
            let embedding = self.mask_embedding.ok_or_else(|| {
                Error::failed("this `wave` has no mask embedding")
                    .hint("set `backbone.mask_token=true`")
            })?;
            x = mask_tokens(f.tape, &x, mask, &f.param(embedding))?;
        }
        if let Some(valid) = valid {
            let zeros = Tensor::zeros(x.dims()[2], x.dtype(), x.device())?;
            x = mask_tokens(f.tape, &x, &valid.beyond, &Var::constant(zeros))?;
        }
        Ok(x)
    }

    fn layer(&self, name: &str) -> Option<usize> {
        if name == "tokens" { Some(self.depth()) } else { layer_of(name, self.depth()) }
    }

    fn depth(&self) -> usize {
        self.fact("depth").map_or(0, |depth| depth as usize)
    }
}

/// Which frames are sound.
struct Valid {
    /// How many of each sample, u32 `[B]`.
    lengths: Var,
    /// The others, u8 `[B, F]`.
    beyond: Var,
    /// 1 / count where sound, else 0: `[B, 1, F]`.
    shares: Var,
}

impl Valid {
    /// From the lengths of waveforms, u32 `[B]`, that `layers` turn into `count` frames.
    fn new(lengths: &Var, [batch, count]: [usize; 2], layers: &[Layer]) -> Result<Self> {
        if lengths.dims() != [batch] {
            return Err(Error::failed(format!(
                "`wave` expects one of `lengths` for each of {batch} waveforms, got {:?}",
                lengths.dims()
            )));
        }
        let frames = frame_counts(layers, lengths.value())?.minimum(count as f64)?;
        let lengths = frames.to_dtype(DType::U32)?;
        let places = Tensor::arange(0, count as u32, lengths.device())?.reshape((1, count))?;
        let column = lengths.reshape((batch, 1))?;
        let share = frames.to_dtype(DType::F32)?.maximum(1.0)?.recip()?.reshape((batch, 1))?;
        let within = places.broadcast_lt(&column)?.to_dtype(DType::F32)?;
        Ok(Self {
            beyond: Var::constant(places.broadcast_ge(&column)?),
            shares: Var::constant(within.broadcast_mul(&share)?.reshape((batch, 1, count))?),
            lengths: Var::constant(lengths),
        })
    }
}

impl Module for Wave {
    fn call(&self, f: &Forward<'_>, inputs: &[Input], outputs: &[&str]) -> Result<Vec<Var>> {
        let frames = self.frames.apply(f, input("wave", inputs, "waveforms")?)?;
        let (batch, count) = (frames.dims()[0], frames.dims()[1]);
        let valid = optional_input(inputs, "lengths")
            .map(|lengths| Valid::new(lengths, [batch, count], &self.layers))
            .transpose()?;
        let layers = if outputs.iter().all(|output| *output == "frames") {
            Vec::new()
        } else {
            let mask = optional_input(inputs, "mask");
            let tokens = self.embed(f, &frames, mask, valid.as_ref())?;
            self.encoder.apply(f, &tokens, valid.as_ref().map(|valid| &valid.lengths))?
        };
        select("wave", outputs, |name| match name {
            "frames" => Ok(Some(frames.clone())),
            "pooled" | "cls" => {
                let Some(tokens) = layers.last() else { return Ok(None) };
                let pooled = match &valid {
                    None => mean(f.tape, tokens, &[1], false)?,
                    Some(valid) => {
                        let sum = matmul(f.tape, &valid.shares, tokens)?;
                        reshape(f.tape, &sum, &[batch, tokens.dims()[2]])?
                    }
                };
                Ok(Some(pooled))
            }
            name => Ok(self.layer(name).and_then(|layer| layers.get(layer - 1)).cloned()),
        })
    }

    fn fact(&self, name: &str) -> Option<i64> {
        self.facts.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    fn parameters(&self) -> &[ParamId] {
        &self.parameters
    }
}

/// A size that the named size gives where the recipe doesn't.
const DERIVED: Kind = Kind::Int { default: None, low: 1, high: 1 << 16 };

const fn chance(default: f64) -> Kind {
    Kind::Float { default: Some(default), low: 0.0, high: 0.99 }
}

inventory::submit! {
    ModuleDef {
        name: "wave",
        help: "convolutions over a waveform, then a transformer; near transformers' HubertModel",
        role: Role::Backbone,
        options: &[
            OptionDef {
                name: "size",
                kind: Kind::Choice { default: "tiny", of: &["tiny", "small", "base"] },
                help: "width, depth, heads and channels together: 192, 4, 3, 128; 384, 12, 6, 256; 768, 12, 12, 512",
            },
            OptionDef { name: "width", kind: DERIVED, help: "width of a token; else by `size`" },
            OptionDef { name: "depth", kind: DERIVED, help: "number of blocks; else by `size`" },
            OptionDef {
                name: "heads",
                kind: DERIVED,
                help: "attention heads, a divisor of `width`; else by `size`, or one per 64",
            },
            OptionDef {
                name: "mlp_ratio",
                kind: Kind::Float { default: Some(4.0), low: 0.01, high: 100.0 },
                help: "width of the hidden layer, as a multiple of `width`",
            },
            OptionDef {
                name: "conv_widths",
                kind: Kind::Ints { default: &[], low: 1, high: 1 << 16 },
                help: "channels of the convolutions: one number, or one per layer; else by `size`",
            },
            OptionDef {
                name: "conv_kernels",
                kind: Kind::Ints { default: &[10, 3, 3, 3, 3, 2, 2], low: 1, high: 1 << 16 },
                help: "window of each convolution",
            },
            OptionDef {
                name: "conv_strides",
                kind: Kind::Ints { default: &[5, 2, 2, 2, 2, 2, 2], low: 1, high: 1 << 16 },
                help: "stride of each convolution; their product is the samples per frame",
            },
            OptionDef {
                name: "conv_grad_factor",
                kind: Kind::Float { default: Some(0.1), low: 0.0, high: 1.0 },
                help: "multiplies the gradient of the convolutions",
            },
            OptionDef {
                name: "position_kernel",
                kind: Kind::Int { default: Some(128), low: 1, high: 1 << 16 },
                help: "frames that the convolution of positions sees",
            },
            OptionDef {
                name: "position_groups",
                kind: Kind::Int { default: Some(16), low: 1, high: 1 << 16 },
                help: "groups of the convolution of positions, a divisor of `width`",
            },
            OptionDef {
                name: "mask_token",
                kind: Kind::Bool { default: false },
                help: "whether it can stand a learned embedding in for masked frames",
            },
            OptionDef {
                name: "dropout",
                kind: chance(0.1),
                help: "dropout of what a block's branches add; students only",
            },
            OptionDef {
                name: "input_dropout",
                kind: chance(0.1),
                help: "dropout of the projected frames; students only",
            },
            OptionDef {
                name: "activation_dropout",
                kind: chance(0.0),
                help: "dropout inside a block's hidden layer; students only",
            },
            OptionDef {
                name: "layer_drop",
                kind: chance(0.05),
                help: "chance that a block is left out of a step; students only",
            },
        ],
        build: |options, sound, declare| Ok(Rc::new(Wave::build(options, sound, declare)?)),
        grid: Some(grid),
    }
}
