//! `transformer`: a stack of pre-norm attention blocks over tokens, shared by `vit` and predictors.
//!
//! Block: `x + s1 proj(attention(qkv(norm1(x))))`, then `x + s2 fc2(gelu(fc1(norm2(x))))`, with optional
//! layer scales s1, s2 and drop path on both branches.

use std::cell::RefCell;
use std::rc::Rc;

use super::declare::{Declare, ONES, ZEROS, join};
use super::linear::Linear;
use super::registry::{Kind, ModuleDef, OptionDef, Options, Role};
use super::{Forward, Input, Module, input, select};
use crate::engine::Var;
use crate::engine::checkpoint::checkpoint;
use crate::engine::ops::add::add;
use crate::engine::ops::attention::attention;
use crate::engine::ops::drop_path::drop_path;
use crate::engine::ops::layer_norm::layer_norm;
use crate::engine::ops::mul::mul;
use crate::engine::ops::narrow::narrow;
use crate::state::{Init, ParamId, State, StepVars};
use crate::{Error, Result};

/// What keeps a layer norm's variance from 0 where nothing else is asked for, as in DINO and timm's `ViT`.
pub const EPS: f64 = 1e-6;

/// A layer norm over the last dimension, with the parameters `weight` and `bias` `[D]`.
#[derive(Clone, Debug)]
pub struct Norm {
    /// The factors.
    pub weight: ParamId,
    /// The summands.
    pub bias: ParamId,
    /// What keeps the variance from 0.
    pub eps: f64,
}

impl Norm {
    /// Declares it under `name`.
    pub fn with_eps(declare: &mut Declare<'_>, name: &str, width: usize, eps: f64) -> Result<Self> {
        let weight = declare.parameter(&join(name, "weight"), &[width], ONES)?;
        let bias = declare.parameter(&join(name, "bias"), &[width], ZEROS)?;
        Ok(Self { weight, bias, eps })
    }

    /// Normalises the last dimension of `x`.
    pub fn apply(&self, forward: &Forward<'_>, x: &Var) -> Result<Var> {
        let (weight, bias) = (forward.param(self.weight), forward.param(self.bias));
        layer_norm(forward.tape, x, Some(&weight), Some(&bias), self.eps)
    }
}

/// The shape of a stack.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Width of a token, D.
    pub width: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads per block; D is a multiple of it.
    pub heads: usize,
    /// Width of the hidden layer, as a multiple of D.
    pub mlp_ratio: f64,
    /// Whether qkv has a bias.
    pub qkv_bias: bool,
    /// Drop path of the last block; it grows linearly from 0 at the first.
    pub drop_path: f64,
    /// Where layer scales start; 0 for none.
    pub layer_scale: f64,
    /// What keeps a layer norm's variance from 0.
    pub norm_eps: f64,
    /// The first so many blocks keep their input only, and are computed again on the way back.
    pub checkpoint_blocks: usize,
}

/// Depth, heads and so on as options of a module.
pub const DEPTH: Kind = Kind::Int { default: None, low: 1, high: 1000 };

/// The option `checkpoint_blocks` of a module that has a stack.
pub const CHECKPOINTS: Kind = Kind::Int { default: Some(0), low: 0, high: 1000 };
/// Its help.
pub const CHECKPOINTS_HELP: &str =
    "blocks that are computed twice to keep their input only: less memory, up to a third more time";

#[derive(Debug)]
struct Block {
    norm1: Norm,
    qkv: Linear,
    proj: Linear,
    scale1: Option<ParamId>,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
    scale2: Option<ParamId>,
    heads: usize,
    drop_path: f64,
    parameters: Vec<ParamId>,
}

impl Block {
    fn declare(d: &mut Declare<'_>, name: &str, shape: &Shape, drop_path: f64) -> Result<Self> {
        let width = shape.width;
        let hidden = (width as f64 * shape.mlp_ratio) as usize;
        let before = d.declared().len();
        let at = |part: &str| join(name, part);
        let scale = |d: &mut Declare<'_>, part: &str| {
            (shape.layer_scale > 0.0)
                .then(|| d.parameter(&at(part), &[width], Init::Constant(shape.layer_scale)))
                .transpose()
        };
        let block = Self {
            norm1: Norm::with_eps(d, &at("norm1"), width, shape.norm_eps)?,
            qkv: Linear::declare(d, &at("attn.qkv"), (width, 3 * width), shape.qkv_bias)?,
            proj: Linear::declare(d, &at("attn.proj"), (width, width), true)?,
            scale1: scale(d, "ls1.gamma")?,
            norm2: Norm::with_eps(d, &at("norm2"), width, shape.norm_eps)?,
            fc1: Linear::declare(d, &at("mlp.fc1"), (width, hidden), true)?,
            fc2: Linear::declare(d, &at("mlp.fc2"), (hidden, width), true)?,
            scale2: scale(d, "ls2.gamma")?,
            heads: shape.heads,
            drop_path,
            parameters: Vec::new(),
        };
        Ok(Self { parameters: d.declared()[before..].to_vec(), ..block })
    }

    /// The same as `apply`, of which the tape keeps `x` and nothing more.
    fn apply_forgetfully(
        self: &Rc<Self>,
        forward: &Forward<'_>,
        x: &Var,
        keep: Option<usize>,
    ) -> Result<Var> {
        let parameters: Vec<Var> = self.parameters.iter().map(|id| forward.param(*id)).collect();
        let inputs: Vec<&Var> = std::iter::once(x).chain(&parameters).collect();
        let (block, training) = (Rc::clone(self), forward.training);
        // Drop path draws the same numbers both times.
        let stream = forward.stream.borrow().clone();
        checkpoint(
            forward.tape,
            &inputs,
            || self.apply(forward, x, keep),
            move |tape, inputs| {
                let state = State::new(0);
                let parameters = block.parameters.iter().copied().zip(inputs[1..].iter().cloned());
                let vars = StepVars::given(&state, parameters);
                let stream = Rc::new(RefCell::new(stream));
                let forward = Forward { tape, vars: &vars, training, stream };
                block.apply(&forward, &inputs[0], keep)
            },
        )
    }

    /// Tokens `[B, N, D]` to tokens, of which only the first `keep` are made where it is given:
    /// the others are attended to and not needed after that.
    fn apply(&self, forward: &Forward<'_>, x: &Var, keep: Option<usize>) -> Result<Var> {
        let qkv = self.qkv.apply_normed(forward, x, &self.norm1)?;
        let mixed = attention(forward.tape, &qkv, self.heads, 0.0)?;
        let (x, mixed) = match keep {
            Some(first) if first < x.dims()[1] => {
                let part = |tokens: &Var| narrow(forward.tape, tokens, 1, 0, first);
                (part(x)?, part(&mixed)?)
            }
            _ => (x.clone(), mixed),
        };
        let x = self.branch(forward, &x, self.proj.apply(forward, &mixed)?, self.scale1)?;
        let made = self.fc1.apply_gelu_and(forward, &x, Some(&self.norm2), &self.fc2)?;
        self.branch(forward, &x, made, self.scale2)
    }

    fn branch(
        &self,
        forward: &Forward<'_>,
        x: &Var,
        mut y: Var,
        scale: Option<ParamId>,
    ) -> Result<Var> {
        if let Some(scale) = scale {
            y = mul(forward.tape, &y, &forward.param(scale))?;
        }
        if forward.training && self.drop_path > 0.0 {
            y = drop_path(forward.tape, &y, self.drop_path, &forward.stream)?;
        }
        add(forward.tape, x, &y)
    }
}

/// Blocks one after another, with the parameters `blocks.0.norm1.weight`, `blocks.0.attn.qkv.weight`, ...
#[derive(Debug)]
pub struct Stack {
    blocks: Vec<Rc<Block>>,
    checkpoint_blocks: usize,
}

impl Stack {
    /// Declares the blocks.
    ///
    /// # Errors
    /// When the width is no multiple of the heads.
    pub fn declare(declare: &mut Declare<'_>, shape: &Shape) -> Result<Self> {
        if !shape.width.is_multiple_of(shape.heads) {
            return Err(Error::asked_wrongly(format!(
                "a width of {} can't be divided among {} heads",
                shape.width, shape.heads
            ))
            .hint("choose `heads` so that it divides the width; 64 per head is usual"));
        }
        let last = shape.depth.saturating_sub(1).max(1) as f64;
        let blocks = (0..shape.depth)
            .map(|i| {
                let drop_path = shape.drop_path * i as f64 / last;
                Block::declare(declare, &format!("blocks.{i}"), shape, drop_path).map(Rc::new)
            })
            .collect::<Result<_>>()?;
        Ok(Self { blocks, checkpoint_blocks: shape.checkpoint_blocks })
    }

    /// How many blocks there are.
    pub fn depth(&self) -> usize {
        self.blocks.len()
    }

    /// Tokens `[B, N, D]` through every block. `after(k, tokens)` sees the tokens after block `k`,
    /// counted from 1. Where `keep` is given, only that many tokens leave the last block.
    pub fn apply(
        &self,
        forward: &Forward<'_>,
        tokens: Var,
        keep: Option<usize>,
        mut after: impl FnMut(usize, &Var),
    ) -> Result<Var> {
        let mut x = tokens;
        for (i, block) in self.blocks.iter().enumerate() {
            let keep = keep.filter(|_| i + 1 == self.blocks.len());
            x = if i < self.checkpoint_blocks {
                block.apply_forgetfully(forward, &x, keep)?
            } else {
                block.apply(forward, &x, keep)?
            };
            after(i + 1, &x);
        }
        Ok(x)
    }
}

/// The block number K in an output called `layer.K`, if it is one of `depth` blocks.
pub fn layer_of(output: &str, depth: usize) -> Option<usize> {
    let number = output.strip_prefix("layer.")?.parse().ok()?;
    (1..=depth).contains(&number).then_some(number)
}

/// The block `transformer`: input `tokens` `[B, N, dim]`; outputs `out` (after the last block and the
/// norm, if any) and `layer.K`, both `[B, N, dim]`.
#[derive(Debug)]
struct Transformer {
    stack: Stack,
    norm: Option<Norm>,
    shape: Shape,
    parameters: Vec<ParamId>,
}

impl Transformer {
    fn build(options: &Options, mut declare: Declare<'_>) -> Result<Self> {
        let shape = Shape {
            width: options.required("dim")?,
            depth: options.required("depth")?,
            heads: options.required("heads")?,
            mlp_ratio: options.float("mlp_ratio"),
            qkv_bias: options.flag("qkv_bias"),
            drop_path: options.float("drop_path"),
            layer_scale: options.float("layer_scale"),
            norm_eps: EPS,
            checkpoint_blocks: options.size("checkpoint_blocks").unwrap_or(0),
        };
        let stack = Stack::declare(&mut declare, &shape)?;
        let norm = options
            .flag("norm")
            .then(|| Norm::with_eps(&mut declare, "norm", shape.width, EPS))
            .transpose()?;
        Ok(Self { stack, norm, shape, parameters: declare.finish() })
    }
}

impl Module for Transformer {
    fn call(&self, forward: &Forward<'_>, inputs: &[Input], outputs: &[&str]) -> Result<Vec<Var>> {
        let tokens = input("transformer", inputs, "tokens")?;
        check_tokens(tokens, self.shape.width)?;
        let mut layers = vec![tokens.clone()];
        let x = self.stack.apply(forward, tokens.clone(), None, |_, x| layers.push(x.clone()))?;
        let out = match &self.norm {
            Some(norm) if outputs.contains(&"out") => norm.apply(forward, &x)?,
            _ => x,
        };
        select("transformer", outputs, |name| {
            let layer = layer_of(name, self.stack.depth()).map(|k| layers[k].clone());
            Ok(if name == "out" { Some(out.clone()) } else { layer })
        })
    }

    fn fact(&self, name: &str) -> Option<i64> {
        match name {
            "in" | "dim" => Some(self.shape.width as i64),
            "depth" => Some(self.shape.depth as i64),
            "heads" => Some(self.shape.heads as i64),
            _ => None,
        }
    }

    fn parameters(&self) -> &[ParamId] {
        &self.parameters
    }
}

fn check_tokens(tokens: &Var, width: usize) -> Result<()> {
    match tokens.dims() {
        [_, _, last] if *last == width => Ok(()),
        dims => Err(Error::failed(format!(
            "`transformer` expects tokens [B, N, {width}], got {dims:?}"
        ))),
    }
}

inventory::submit! {
    ModuleDef {
        name: "transformer",
        help: "a stack of pre-norm attention blocks over tokens, as predictors use",
        role: Role::Block,
        options: &[
            OptionDef {
                name: "dim",
                kind: Kind::Int { default: None, low: 1, high: 1 << 20 },
                help: "width of a token; must be given",
            },
            OptionDef { name: "depth", kind: DEPTH, help: "number of blocks; must be given" },
            OptionDef {
                name: "heads",
                kind: Kind::Int { default: None, low: 1, high: 1024 },
                help: "attention heads, a divisor of `dim`; must be given",
            },
            OptionDef {
                name: "mlp_ratio",
                kind: Kind::Float { default: Some(4.0), low: 0.01, high: 100.0 },
                help: "width of the hidden layer, as a multiple of `dim`",
            },
            OptionDef {
                name: "qkv_bias",
                kind: Kind::Bool { default: true },
                help: "whether queries, keys and values have biases",
            },
            OptionDef {
                name: "drop_path",
                kind: Kind::Float { default: Some(0.0), low: 0.0, high: 0.99 },
                help: "drop path of the last block; grows linearly from 0",
            },
            OptionDef {
                name: "layer_scale",
                kind: Kind::Float { default: Some(0.0), low: 0.0, high: 10.0 },
                help: "where layer scales start; 0 for none",
            },
            OptionDef {
                name: "checkpoint_blocks",
                kind: CHECKPOINTS,
                help: CHECKPOINTS_HELP,
            },
            OptionDef {
                name: "norm",
                kind: Kind::Bool { default: true },
                help: "whether a layer norm follows the last block",
            },
        ],
        grid: None,
        build: |options, _, declare| Ok(Rc::new(Transformer::build(options, declare)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::mean::mean;
    use crate::engine::ops::mul::mul;
    use crate::engine::{Precision, Tape, storage};
    use crate::module::testing::{Bench, named};
    use crate::random::Stream;

    /// Gradients of all parameters of a small `vit` with drop path, and the bytes that the tape kept.
    fn trained(precision: Precision, checkpoints: usize, output: &str) -> (Vec<Vec<f32>>, u64) {
        let options = format!(
            "width = 16\ndepth = 3\nheads = 2\npatch = 4\ndrop_path = 0.5\nlayer_scale = 0.1\n\
             checkpoint_blocks = {checkpoints}\n"
        );
        let bench = Bench::backbone("vit", &options, &[3, 16, 16]).unwrap();
        let (tape, vars) = (Tape::new(precision), StepVars::learning(&bench.state));
        let mut draws = Stream::new(5, "images", 0, 0);
        let images = Init::Normal { std: 1.0 }.tensor(&[6, 3, 16, 16], &mut draws).unwrap();
        let stream = Rc::new(RefCell::new(draws));
        let forward = Forward { tape: &tape, vars: &vars, training: true, stream };
        let images = named("images", &Var::constant(images));
        let out = bench.module.call(&forward, &[images], &[output]).unwrap().remove(0);
        let every: Vec<usize> = (0..out.dims().len()).collect();
        let loss = mean(&tape, &mul(&tape, &out, &out).unwrap(), &every, false).unwrap();
        let kept = tape.recorded_bytes();
        let gradients = tape.backward(&loss).unwrap();
        let of = |id: &ParamId| {
            let gradient = vars.used(*id).and_then(|leaf| gradients.get(&leaf).cloned());
            gradient.map_or_else(Vec::new, |gradient| storage::to_f32(&gradient).unwrap())
        };
        (bench.module.parameters().iter().map(of).collect(), kept)
    }

    #[test]
    fn checkpoints_keep_less_and_change_no_gradient_by_a_bit() {
        for precision in [Precision::F32, Precision::Bf16] {
            for output in ["cls", "tokens"] {
                let (plain, all) = trained(precision, 0, output);
                assert!(plain.iter().filter(|g| g.iter().any(|x| *x != 0.0)).count() > 40);
                let mut before = all;
                for checkpoints in [1, 3] {
                    let (gradients, kept) = trained(precision, checkpoints, output);
                    assert!(gradients == plain && kept < before, "{kept} of {before} bytes");
                    before = kept;
                }
            }
        }
    }
}
