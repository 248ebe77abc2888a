//! `vit`: the vision transformer (Dosovitskiy et al. 2021), with timm's parameter names.

use std::rc::Rc;

use super::declare::{Declare, WEIGHT, ZEROS};
use super::position::{Kind as Place, Positions};
use super::registry::{Kind, ModuleDef, OptionDef, Options, Role};
use super::transformer::{CHECKPOINTS, CHECKPOINTS_HELP, EPS, Norm, Shape, Stack, layer_of};
use super::{Forward, Input, Module, image_shape, input, optional_input, select};
use crate::engine::Var;
use crate::engine::ops::add::add;
use crate::engine::ops::broadcast_to::broadcast_to;
use crate::engine::ops::cat::cat;
use crate::engine::ops::gather_tokens::gather_tokens;
use crate::engine::ops::linear::linear;
use crate::engine::ops::mask_tokens::mask_tokens;
use crate::engine::ops::mean::mean;
use crate::engine::ops::narrow::narrow;
use crate::engine::ops::patchify::patchify;
use crate::engine::ops::reshape::reshape;
use crate::state::{Init, ParamId};
use crate::{Error, Result};

/// The backbone `vit`.
///
/// Inputs: `images` `[B, C, H, W]` of any size that is a multiple of the patch; `keep` u32 `[B, K]`,
/// the patches that it sees (all, where not given); `mask` u8 `[B, N]`, the patches that the mask token
/// stands for (needs `mask_token = true`).
///
/// Outputs: `tokens` `[B, N, D]` (patches, after the norm), `cls` `[B, D]`, `pooled` `[B, D]`,
/// `layer.K` `[B, N, D]` (patches after block K, before the norm).
#[derive(Debug)]
struct Vit {
    weight: ParamId,
    bias: ParamId,
    class: Option<ParamId>,
    registers: Option<ParamId>,
    mask_token: Option<ParamId>,
    positions: Positions,
    stack: Stack,
    norm: Norm,
    width: usize,
    patch: usize,
    channels: usize,
    register_count: usize,
    pool_mean: bool,
    facts: Vec<(&'static str, i64)>,
    parameters: Vec<ParamId>,
}

/// Width, depth and heads of the named sizes.
fn size_of(name: &str) -> (usize, usize, usize) {
    match name {
        "small" => (384, 12, 6),
        "base" => (768, 12, 12),
        _ => (192, 12, 3),
    }
}

/// Width of one head where the recipe gives a width and no heads.
const HEAD_DIM: usize = 64;

fn shape_of(options: &Options) -> Shape {
    let (width, depth, heads) = size_of(options.word("size"));
    let heads = match (options.size("heads"), options.size("width")) {
        (Some(heads), _) => heads,
        (None, Some(width)) => (width / HEAD_DIM).max(1),
        (None, None) => heads,
    };
    Shape {
        width: options.size("width").unwrap_or(width),
        depth: options.size("depth").unwrap_or(depth),
        heads,
        mlp_ratio: options.float("mlp_ratio"),
        qkv_bias: options.flag("qkv_bias"),
        drop_path: options.float("drop_path"),
        layer_scale: options.float("layer_scale"),
        norm_eps: options.float("norm_eps"),
        checkpoint_blocks: options.size("checkpoint_blocks").unwrap_or(0),
    }
}

fn check(options: &Options, image: &[usize], shape: &Shape) -> Result<[usize; 3]> {
    let [channels, height, width] = image_shape("vit", image)?;
    let patch = options.required("patch")?;
    if height % patch != 0 || width % patch != 0 || height * width == 0 {
        return Err(Error::asked_wrongly(format!(
            "{height} x {width} images can't be cut into patches of {patch}"
        ))
        .hint(format!("set `backbone.patch` to a divisor of {height}")));
    }
    if options.word("positions") == "sin-cos" && !shape.width.is_multiple_of(4) {
        return Err(Error::asked_wrongly(format!(
            "sin-cos positions need a width that 4 divides, not {}",
            shape.width
        ))
        .hint("set `backbone.positions=learned` or another `backbone.width`"));
    }
    if !options.flag("class_token") && options.word("pool") == "cls" {
        return Err(Error::asked_wrongly("without a class token there is none to pool")
            .hint("set `backbone.pool=mean`"));
    }
    Ok([channels, height, width])
}

/// Rows and columns of patches.
fn grid(options: &Options, image: &[usize]) -> Result<Vec<usize>> {
    let [_, height, width] = check(options, image, &shape_of(options))?;
    let patch = options.required("patch")?;
    Ok(vec![height / patch, width / patch])
}

impl Vit {
    fn build(options: &Options, image: &[usize], mut d: Declare<'_>) -> Result<Self> {
        let shape = shape_of(options);
        let [channels, height, width] = check(options, image, &shape)?;
        let patch = options.required("patch")?;
        let (dim, grid) = (shape.width, [height / patch, width / patch]);
        let register_count = options.size("registers").unwrap_or(0);
        let token = |d: &mut Declare<'_>, name: &str, count: usize, init: Init| {
            (count > 0).then(|| d.parameter(name, &[1, count, dim], init)).transpose()
        };
        let class_count = usize::from(options.flag("class_token"));
        let class = token(&mut d, "cls_token", class_count, WEIGHT)?;
        let registers = token(&mut d, "reg_token", register_count, WEIGHT)?;
        let place =
            if options.word("positions") == "sin-cos" { Place::SinCos } else { Place::Learned };
        let offset = options.float("position_offset");
        let positions = Positions::declare(&mut d, place, (grid, dim), class.is_some(), offset)?;
        // A convolution's usual start: uniform within 1 / sqrt(fan in).
        let bound = 1.0 / ((channels * patch * patch) as f64).sqrt();
        let conv = Init::Uniform { low: -bound, high: bound };
        let weight =
            d.parameter("patch_embed.proj.weight", &[dim, channels, patch, patch], conv)?;
        let bias = d.parameter("patch_embed.proj.bias", &[dim], conv)?;
        let mask_count = usize::from(options.flag("mask_token"));
        let mask_token = token(&mut d, "mask_token", mask_count, ZEROS)?;
        let stack = Stack::declare(&mut d, &shape)?;
        let norm = Norm::with_eps(&mut d, "norm", dim, shape.norm_eps)?;
        let facts = vec![
            ("dim", dim as i64),
            ("depth", shape.depth as i64),
            ("heads", shape.heads as i64),
            ("patch", patch as i64),
            ("tokens", (grid[0] * grid[1]) as i64),
            ("rows", grid[0] as i64),
            ("cols", grid[1] as i64),
        ];
        Ok(Self {
            weight,
            bias,
            class,
            registers,
            mask_token,
            positions,
            stack,
            norm,
            width: dim,
            patch,
            channels,
            register_count,
            pool_mean: options.word("pool") == "mean",
            facts,
            parameters: d.finish(),
        })
    }

    /// Tokens that stand before the patches.
    fn prefix(&self) -> usize {
        usize::from(self.class.is_some()) + self.register_count
    }

    /// Patches of `images` as tokens `[B, N, D]`, masked, placed and subset, behind class token and
    /// registers.
    fn embed(&self, f: &Forward<'_>, inputs: &[Input]) -> Result<Var> {
        let images = input("vit", inputs, "images")?;
        let &[batch, channels, height, width] = images.dims() else {
            return Err(Error::failed(format!(
                "`vit` expects images [B, C, H, W], got {:?}",
                images.dims()
            )));
        };
        if channels != self.channels {
            return Err(Error::failed(format!(
                "`vit` was built for {} channels, not {channels}",
                self.channels
            )));
        }
        let tape = f.tape;
        let fan_in = self.channels * self.patch * self.patch;
        let weight = reshape(tape, &f.param(self.weight), &[self.width, fan_in])?;
        let bias = f.param(self.bias);
        let mut tokens = linear(tape, &patchify(tape, images, self.patch)?, &weight, Some(&bias))?;
        if let Some(mask) = optional_input(inputs, "mask") {
            let token = self.mask_token.ok_or_else(|| {
                Error::failed("this `vit` has no mask token").hint("set `backbone.mask_token=true`")
            })?;
            let token = reshape(tape, &f.param(token), &[self.width])?;
            tokens = mask_tokens(tape, &tokens, mask, &token)?;
        }
        let grid = [height / self.patch, width / self.patch];
        let (class_place, places) = self.positions.of(f, grid)?;
        tokens = add(tape, &tokens, &places)?;
        if let Some(keep) = optional_input(inputs, "keep") {
            tokens = gather_tokens(tape, &tokens, keep)?;
        }
        let mut parts = Vec::new();
        if let (Some(class), Some(place)) = (self.class, &class_place) {
            parts.push(add(tape, &f.param(class), place)?);
        }
        parts.extend(self.registers.map(|id| f.param(id)));
        if parts.is_empty() {
            return Ok(tokens);
        }
        for part in &mut parts {
            *part = broadcast_to(tape, part, &[batch, part.dims()[1], self.width])?;
        }
        let all: Vec<&Var> = parts.iter().chain([&tokens]).collect();
        cat(tape, 1, &all)
    }

    /// What `[B, P + N, D]` holds of the patches, `[B, N, D]`.
    fn patches(&self, f: &Forward<'_>, x: &Var) -> Result<Var> {
        match self.prefix() {
            0 => Ok(x.clone()),
            prefix => narrow(f.tape, x, 1, prefix, x.dims()[1] - prefix),
        }
    }
}

impl Module for Vit {
    fn call(&self, f: &Forward<'_>, inputs: &[Input], outputs: &[&str]) -> Result<Vec<Var>> {
        let tokens = self.embed(f, inputs)?;
        let class_only = outputs.iter().all(|output| match *output {
            "cls" => true,
            "pooled" => !self.pool_mean,
            _ => false,
        });
        // Where nothing but the class token is asked for, the last block makes nothing else.
        let keep = (class_only && self.class.is_some()).then_some(1);
        let mut layers = Vec::new();
        let x = self.stack.apply(f, tokens, keep, |_, x| layers.push(x.clone()))?;
        let x = self.norm.apply(f, &x)?;
        let class = || -> Result<Option<Var>> {
            if self.class.is_none() {
                return Ok(None);
            }
            let first = if x.dims()[1] == 1 { x.clone() } else { narrow(f.tape, &x, 1, 0, 1)? };
            Ok(Some(reshape(f.tape, &first, &[x.dims()[0], self.width])?))
        };
        select("vit", outputs, |name| match name {
            "tokens" => self.patches(f, &x).map(Some),
            "pooled" if self.pool_mean => {
                mean(f.tape, &self.patches(f, &x)?, &[1], false).map(Some)
            }
            "pooled" | "cls" => class(),
            name => match layer_of(name, self.stack.depth()) {
                Some(layer) => self.patches(f, &layers[layer - 1]).map(Some),
                None => Ok(None),
            },
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

inventory::submit! {
    ModuleDef {
        name: "vit",
        help: "vision transformer, timm's names",
        role: Role::Backbone,
        options: &[
            OptionDef {
                name: "size",
                kind: Kind::Choice { default: "tiny", of: &["tiny", "small", "base"] },
                help: "width, depth and heads together: 192, 12, 3; 384, 12, 6; 768, 12, 12",
            },
            OptionDef { name: "width", kind: DERIVED, help: "width of a token; else by `size`" },
            OptionDef { name: "depth", kind: DERIVED, help: "number of blocks; else by `size`" },
            OptionDef {
                name: "heads",
                kind: DERIVED,
                help: "attention heads, a divisor of `width`; else by `size`, or one per 64",
            },
            OptionDef {
                name: "patch",
                kind: Kind::Int { default: Some(16), low: 1, high: 1024 },
                help: "side of a patch in pixels; divides every crop's size",
            },
            OptionDef {
                name: "positions",
                kind: Kind::Choice { default: "learned", of: &["learned", "sin-cos"] },
                help: "position embeddings, resized for crops of another size",
            },
            OptionDef {
                name: "position_offset",
                kind: Kind::Float { default: Some(0.0), low: 0.0, high: 1.0 },
                help: "added to the size when positions are resized; some published code has 0.1",
            },
            OptionDef {
                name: "class_token",
                kind: Kind::Bool { default: true },
                help: "whether a class token stands before the patches",
            },
            OptionDef {
                name: "registers",
                kind: Kind::Int { default: Some(0), low: 0, high: 64 },
                help: "tokens without a place that patches can write to; 4 is usual",
            },
            OptionDef {
                name: "mask_token",
                kind: Kind::Bool { default: false },
                help: "whether it can stand a learned token in for masked patches",
            },
            OptionDef {
                name: "pool",
                kind: Kind::Choice { default: "cls", of: &["cls", "mean"] },
                help: "what `pooled` is: the class token, or the mean of the patches",
            },
            OptionDef {
                name: "mlp_ratio",
                kind: Kind::Float { default: Some(4.0), low: 0.01, high: 100.0 },
                help: "width of the hidden layer, as a multiple of `width`",
            },
            OptionDef {
                name: "qkv_bias",
                kind: Kind::Bool { default: true },
                help: "whether queries, keys and values have biases",
            },
            OptionDef {
                name: "drop_path",
                kind: Kind::Float { default: Some(0.0), low: 0.0, high: 0.99 },
                help: "drop path of the last block; grows linearly from 0; students only",
            },
            OptionDef {
                name: "layer_scale",
                kind: Kind::Float { default: Some(0.0), low: 0.0, high: 10.0 },
                help: "where layer scales start; 0 for none",
            },
            OptionDef {
                name: "norm_eps",
                kind: Kind::Float { default: Some(EPS), low: 1e-16, high: 1.0 },
                help: "what keeps a layer norm's variance from 0; some weights were trained with 1e-12",
            },
            OptionDef {
                name: "checkpoint_blocks",
                kind: CHECKPOINTS,
                help: CHECKPOINTS_HELP,
            },
        ],
        grid: Some(grid),
        build: |options, shape, declare| Ok(Rc::new(Vit::build(options, shape, declare)?)),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::engine::storage;
    use crate::module::testing::{Bench, named};
    use crate::random::Stream;

    const SMALL: &str = "width = 8\ndepth = 2\nheads = 2\npatch = 4\n";

    fn images(batch: usize, side: usize) -> Var {
        let mut stream = Stream::new(5, "images", 0, 0);
        let init = Init::Normal { std: 1.0 };
        Var::constant(init.tensor(&[batch, 3, side, side], &mut stream).unwrap())
    }

    fn vit(options: &str) -> Bench {
        Bench::backbone("vit", &format!("{SMALL}{options}"), &[3, 16, 16]).unwrap()
    }

    #[test]
    fn its_parameters_have_the_names_that_timm_gives_them() {
        let vit = vit("");
        let names = vit.names();
        assert_eq!(
            names[..4],
            ["cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"]
        );
        assert!(
            names.contains(&"blocks.1.attn.qkv.weight") && names.contains(&"blocks.0.mlp.fc2.bias")
        );
        assert_eq!(names.last(), Some(&"norm.bias"));
    }

    #[test]
    fn outputs_have_their_shapes_for_crops_of_any_size() {
        let vit = vit("registers = 2\n");
        let asked = ["pooled", "cls", "tokens", "layer.1"];
        for (side, patches) in [(16, 16), (8, 4)] {
            let out = vit.call(&[named("images", &images(3, side))], &asked).unwrap();
            let dims: Vec<&[usize]> = out.iter().map(Var::dims).collect();
            assert_eq!(dims, [&[3, 8][..], &[3, 8], &[3, patches, 8], &[3, patches, 8]]);
        }
    }

    #[test]
    fn the_class_token_is_the_same_alone_and_beside_the_other_outputs() {
        let vit = vit("");
        let images = [named("images", &images(2, 16))];
        let alone = vit.call(&images, &["cls"]).unwrap();
        let beside = vit.call(&images, &["cls", "tokens"]).unwrap();
        let (a, b) = (storage::to_f32(alone[0].value()), storage::to_f32(beside[0].value()));
        for (a, b) in a.unwrap().iter().zip(b.unwrap()) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }

    #[test]
    fn it_sees_only_the_patches_that_are_kept() {
        let vit = vit("class_token = false\npool = \"mean\"\npositions = \"sin-cos\"\n");
        let keep = Var::constant(Tensor::new(&[[1_u32, 5]], &Device::Cpu).unwrap());
        let x = images(1, 16);
        let mut changed = storage::to_f32(x.value()).unwrap();
        changed[0] += 10.0;
        let y = Var::constant(storage::tensor(changed, (1, 3, 16, 16)).unwrap());
        let out = |x: &Var| {
            let inputs = [named("images", x), named("keep", &keep)];
            let out = vit.call(&inputs, &["tokens", "pooled"]).unwrap();
            assert_eq!(out[0].dims(), [1, 2, 8]);
            storage::to_f32(out[1].value()).unwrap()
        };
        assert_eq!(out(&x), out(&y));
    }

    #[test]
    fn masked_patches_are_replaced_and_need_a_mask_token() {
        let mask =
            Var::constant(Tensor::ones((1, 16), candle_core::DType::U8, &Device::Cpu).unwrap());
        let (one, two) = (images(2, 16), images(2, 16));
        let first =
            |x: &Var| Var::constant(x.value().narrow(0, 0, 1).unwrap().contiguous().unwrap());
        let other =
            |x: &Var| Var::constant(x.value().narrow(0, 1, 1).unwrap().contiguous().unwrap());
        let masked = vit("mask_token = true\n");
        let out = |x: Var| {
            let made = masked.call(&[named("images", &x), named("mask", &mask)], &["cls"]).unwrap();
            storage::to_f32(made[0].value()).unwrap()
        };
        assert_eq!(out(first(&one)), out(other(&two)));
        let error = vit("").call(&[named("images", &first(&one)), named("mask", &mask)], &["cls"]);
        assert_eq!(error.unwrap_err().hint_text(), Some("set `backbone.mask_token=true`"));
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused_with_a_hint() {
        let refused = |options: &str, shape: &[usize]| {
            Bench::backbone("vit", options, shape).unwrap_err().to_string()
        };
        assert!(refused("patch = 5", &[3, 16, 16]).contains("patches of 5"));
        assert!(refused("patch = 4\nwidth = 6\nheads = 4", &[3, 16, 16]).contains("heads"));
        assert!(refused("", &[7]).contains("takes images"));
        assert!(refused("patch = 4\nclass_token = false", &[3, 8, 8]).contains("class token"));
    }
}
