//! The transformer over frames: convolutional positions, then blocks whose norms follow their sums.

use candle_core::Tensor;

use super::EPS;
use crate::Result;
use crate::engine::Var;
use crate::engine::ops::add::add;
use crate::engine::ops::attention::attention;
use crate::engine::ops::conv1d::{Windows, conv1d};
use crate::engine::ops::dropout::dropout;
use crate::engine::ops::gelu::gelu;
use crate::engine::ops::narrow::narrow;
use crate::engine::ops::padded_attention::padded_attention;
use crate::engine::ops::permute::permute;
use crate::engine::ops::weight_norm::weight_norm;
use crate::module::Forward;
use crate::module::declare::{Declare, ZEROS, join};
use crate::module::linear::Linear;
use crate::module::transformer::Norm;
use crate::state::{Init, ParamId};

/// Sizes and chances of an encoder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shape {
    /// Width of a token, D.
    pub(super) width: usize,
    /// Number of blocks.
    pub(super) depth: usize,
    /// Attention heads per block.
    pub(super) heads: usize,
    /// Width of the hidden layer.
    pub(super) hidden: usize,
    /// Frames that a position sees.
    pub(super) position_kernel: usize,
    /// Groups of the convolution of positions.
    pub(super) position_groups: usize,
    /// Dropout of what a branch adds, and of the tokens before the first block.
    pub(super) dropout: f64,
    /// Dropout of what GELU makes in a block's hidden layer.
    pub(super) activation_dropout: f64,
    /// The chance that a block is left out of a step.
    pub(super) layer_drop: f64,
}

/// Dropout where a student trains.
pub(super) fn dropped(f: &Forward<'_>, x: Var, p: f64) -> Result<Var> {
    if f.training && p > 0.0 { dropout(f.tape, &x, p, &f.stream) } else { Ok(x) }
}

/// GELU of a grouped convolution over frames: what tells a token where it stands.
#[derive(Debug)]
struct Positions {
    /// The weight's direction `[D, D / groups, k]`.
    direction: ParamId,
    /// Its length per tap, `[1, 1, k]`.
    length: ParamId,
    bias: ParamId,
    kernel: usize,
    groups: usize,
}

impl Positions {
    /// Declares `encoder.pos_conv_embed.conv.weight_v`, `weight_g` and `bias`. The weight starts normal with
    /// variance 4 / (k D), as in the authors' code, and its lengths as they then are.
    fn declare(declare: &mut Declare<'_>, shape: &Shape) -> Result<Self> {
        let Shape { width, position_kernel: kernel, position_groups: groups, .. } = *shape;
        let at = |part: &str| join("encoder.pos_conv_embed.conv", part);
        let init = Init::Normal { std: (4.0 / (kernel * width) as f64).sqrt() };
        let sizes = [width, width / groups, kernel];
        let direction = declare.parameter(&at("weight_v"), &sizes, init)?;
        let start: Tensor = declare.start_of(direction).sqr()?.sum_keepdim((0, 1))?.sqrt()?;
        let length = declare.starting(&at("weight_g"), &start)?;
        let bias = declare.parameter(&at("bias"), &[width], ZEROS)?;
        Ok(Self { direction, length, bias, kernel, groups })
    }

    /// What is added to tokens `[B, F, D]`. With an even kernel there is one place more than frames, the
    /// last, which is left away.
    fn apply(&self, f: &Forward<'_>, x: &Var) -> Result<Var> {
        let tape = f.tape;
        let taps = permute(tape, &f.param(self.direction), &[2, 0, 1])?;
        let taps = weight_norm(tape, &taps, Some(&f.param(self.length)))?;
        let weight = permute(tape, &taps, &[1, 2, 0])?;
        let windows = Windows { stride: 1, padding: self.kernel / 2, groups: self.groups };
        let frames = permute(tape, x, &[0, 2, 1])?;
        let made = conv1d(tape, &frames, &weight, Some(&f.param(self.bias)), windows)?;
        let mut made = permute(tape, &made, &[0, 2, 1])?;
        if made.dims()[1] > x.dims()[1] {
            made = narrow(tape, &made, 1, 0, x.dims()[1])?;
        }
        gelu(tape, &made)
    }
}

/// `x = norm(x + attention(x))`, then `x = norm(x + mlp(x))`.
#[derive(Debug)]
struct Block {
    qkv: Linear,
    out: Linear,
    norm: Norm,
    into: Linear,
    back: Linear,
    final_norm: Norm,
}

impl Block {
    fn declare(d: &mut Declare<'_>, name: &str, shape: &Shape) -> Result<Self> {
        let Shape { width, hidden, .. } = *shape;
        let at = |part: &str| join(name, part);
        Ok(Self {
            qkv: Linear::declare(d, &at("attention.qkv"), (width, 3 * width), true)?,
            out: Linear::declare(d, &at("attention.out_proj"), (width, width), true)?,
            norm: Norm::with_eps(d, &at("layer_norm"), width, EPS)?,
            into: Linear::declare(
                d,
                &at("feed_forward.intermediate_dense"),
                (width, hidden),
                true,
            )?,
            back: Linear::declare(d, &at("feed_forward.output_dense"), (hidden, width), true)?,
            final_norm: Norm::with_eps(d, &at("final_layer_norm"), width, EPS)?,
        })
    }

    /// Tokens `[B, F, D]` to tokens, of which those beyond `lengths` are nothing to attend to.
    fn apply(&self, f: &Forward<'_>, x: &Var, lengths: Option<&Var>, shape: &Shape) -> Result<Var> {
        let tape = f.tape;
        let qkv = self.qkv.apply(f, x)?;
        let mixed = match lengths {
            Some(lengths) => padded_attention(tape, &qkv, lengths, shape.heads, 0.0)?,
            None => attention(tape, &qkv, shape.heads, 0.0)?,
        };
        let mixed = dropped(f, self.out.apply(f, &mixed)?, shape.dropout)?;
        let x = self.norm.apply(f, &add(tape, x, &mixed)?)?;
        let made = if f.training && shape.activation_dropout > 0.0 {
            let made = gelu(tape, &self.into.apply(f, &x)?)?;
            self.back.apply(f, &dropped(f, made, shape.activation_dropout)?)?
        } else {
            self.into.apply_gelu_and(f, &x, None, &self.back)?
        };
        let made = dropped(f, made, shape.dropout)?;
        self.final_norm.apply(f, &add(tape, &x, &made)?)
    }
}

/// Positions, a norm, and blocks.
#[derive(Debug)]
pub(super) struct Encoder {
    positions: Positions,
    norm: Norm,
    blocks: Vec<Block>,
    shape: Shape,
}

impl Encoder {
    /// Declares `encoder.pos_conv_embed.*`, `encoder.layer_norm.*` and `encoder.layers.K.*`.
    pub(super) fn declare(declare: &mut Declare<'_>, shape: Shape) -> Result<Self> {
        let positions = Positions::declare(declare, &shape)?;
        let norm = Norm::with_eps(declare, "encoder.layer_norm", shape.width, EPS)?;
        let blocks = (0..shape.depth)
            .map(|i| Block::declare(declare, &format!("encoder.layers.{i}"), &shape))
            .collect::<Result<_>>()?;
        Ok(Self { positions, norm, blocks, shape })
    }

    /// Tokens `[B, F, D]` after every block, the first of them number 1.
    pub(super) fn apply(
        &self,
        f: &Forward<'_>,
        x: &Var,
        lengths: Option<&Var>,
    ) -> Result<Vec<Var>> {
        let placed = add(f.tape, x, &self.positions.apply(f, x)?)?;
        let mut x = dropped(f, self.norm.apply(f, &placed)?, self.shape.dropout)?;
        let mut layers = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            // Drawn for every block, so that leaving one out moves no later draw.
            let left_out = f.training
                && self.shape.layer_drop > 0.0
                && f.stream.borrow_mut().chance(self.shape.layer_drop);
            if !left_out {
                x = block.apply(f, &x, lengths, &self.shape)?;
            }
            layers.push(x.clone());
        }
        Ok(layers)
    }
}
