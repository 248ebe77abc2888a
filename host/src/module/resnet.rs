//! `resnet`: the residual network (He et al. 2015, strides as in PyTorch's version 1.5), with timm's names.

use std::rc::Rc;

use super::batch_norm::BatchNorm;
use super::declare::{Declare, ONES, ZEROS, join};
use super::registry::{Kind, ModuleDef, OptionDef, Options, Role};
use super::transformer::layer_of;
use super::{Forward, Input, Module, image_shape, input, select};
use crate::engine::Var;
use crate::engine::ops::conv2d::conv2d;
use crate::engine::ops::max_pool2d::max_pool2d;
use crate::engine::ops::mean::mean;
use crate::engine::ops::permute::permute;
use crate::engine::ops::reshape::reshape;
use crate::state::{Init, ParamId};
use crate::{Error, Result};

/// Stages; each but the first halves the sides and doubles the width.
const STAGES: usize = 4;

/// A convolution without bias and the batch norm behind it.
#[derive(Debug)]
struct Layer {
    weight: ParamId,
    stride: usize,
    padding: usize,
    norm: BatchNorm,
}

/// The sizes of a convolution.
#[derive(Clone, Copy)]
struct Sizes {
    from: usize,
    to: usize,
    kernel: usize,
    stride: usize,
}

impl Layer {
    /// Declares it as the convolution and the norm of these `names`; weights start normal by their fan out,
    /// as PyTorch's networks do.
    fn declare(
        d: &mut Declare<'_>,
        [conv, norm]: [&str; 2],
        sizes: Sizes,
        norm_weight: Init,
    ) -> Result<Self> {
        let Sizes { from, to, kernel, stride } = sizes;
        let std = (2.0 / (to * kernel * kernel) as f64).sqrt();
        let shape = [to, from, kernel, kernel];
        let weight = d.parameter(&join(conv, "weight"), &shape, Init::Normal { std })?;
        let norm = BatchNorm::declare(d, norm, to, norm_weight)?;
        Ok(Self { weight, stride, padding: kernel / 2, norm })
    }

    fn convolve(&self, f: &Forward<'_>, x: &Var) -> Result<Var> {
        conv2d(f.tape, x, &f.param(self.weight), None, (self.stride, self.padding))
    }

    fn apply_relu(&self, f: &Forward<'_>, x: &Var, residual: Option<&Var>) -> Result<Var> {
        self.norm.apply_relu(f, &self.convolve(f, x)?, residual)
    }
}

/// A residual block: layers, and the shortcut around them.
#[derive(Debug)]
struct Block {
    layers: Vec<Layer>,
    /// Where width or sides change; else the input itself.
    shortcut: Option<Layer>,
}

/// What all blocks have in common.
#[derive(Clone, Copy)]
struct Kinds {
    /// Three layers with a narrow middle, or two.
    bottleneck: bool,
    /// How the weights of a block's last norm start.
    last: Init,
}

impl Kinds {
    /// Width of a block's output, as a multiple of its own.
    fn expansion(self) -> usize {
        if self.bottleneck { 4 } else { 1 }
    }
}

impl Block {
    fn declare(
        d: &mut Declare<'_>,
        name: &str,
        kinds: Kinds,
        (from, width, stride): (usize, usize, usize),
    ) -> Result<Self> {
        let to = width * kinds.expansion();
        let sizes = |from, to, kernel, stride| Sizes { from, to, kernel, stride };
        let layers = if kinds.bottleneck {
            vec![sizes(from, width, 1, 1), sizes(width, width, 3, stride), sizes(width, to, 1, 1)]
        } else {
            vec![sizes(from, to, 3, stride), sizes(to, to, 3, 1)]
        };
        let last = layers.len() - 1;
        let layers = layers.into_iter().enumerate().map(|(i, sizes)| {
            let [conv, norm] = ["conv", "bn"].map(|kind| format!("{name}.{kind}{}", i + 1));
            let start = if i == last { kinds.last } else { ONES };
            Layer::declare(d, [&conv, &norm], sizes, start)
        });
        let layers = layers.collect::<Result<_>>()?;
        let changes = from != to || stride > 1;
        let names = [format!("{name}.downsample.0"), format!("{name}.downsample.1")];
        let shortcut = changes
            .then(|| {
                Layer::declare(
                    d,
                    names.each_ref().map(String::as_str),
                    sizes(from, to, 1, stride),
                    ONES,
                )
            })
            .transpose()?;
        Ok(Self { layers, shortcut })
    }

    fn apply(&self, f: &Forward<'_>, x: &Var) -> Result<Var> {
        let residual = match &self.shortcut {
            Some(layer) => layer.norm.apply(f, &layer.convolve(f, x)?)?,
            None => x.clone(),
        };
        let last = self.layers.len() - 1;
        let mut y = x.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            y = layer.apply_relu(f, &y, (i == last).then_some(&residual))?;
        }
        Ok(y)
    }
}

/// The backbone `resnet`.
///
/// Input: `images` `[B, C, H, W]` of any size.
///
/// Outputs: `pooled` and `cls` `[B, D]`, the mean over the last stage's pixels; `tokens` `[B, N, D]`, those pixels
/// row by row; `layer.K` `[B, N_K, D_K]`, the pixels of stage K, counted from 1.
#[derive(Debug)]
struct ResNet {
    stem: Layer,
    /// Whether a max pool stands behind the stem.
    pools: bool,
    stages: Vec<Vec<Block>>,
    channels: usize,
    facts: Vec<(&'static str, i64)>,
    parameters: Vec<ParamId>,
}

/// Blocks of each stage of the named sizes.
fn blocks_of(options: &Options) -> [usize; STAGES] {
    match (options.size("blocks"), options.word("size")) {
        (Some(blocks), _) => [blocks; STAGES],
        (None, "50") => [3, 4, 6, 3],
        (None, _) => [2; STAGES],
    }
}

impl ResNet {
    fn build(options: &Options, image: &[usize], mut d: Declare<'_>) -> Result<Self> {
        let [channels, height, width] = image_shape("resnet", image)?;
        let first = options.required("width")?;
        let pools = options.word("stem") == "imagenet";
        let (kernel, stride) = if pools { (7, 2) } else { (3, 1) };
        let sizes = Sizes { from: channels, to: first, kernel, stride };
        let stem = Layer::declare(&mut d, ["conv1", "bn1"], sizes, ONES)?;
        let kinds = Kinds {
            bottleneck: options.word("size") == "50",
            last: if options.flag("zero_init_last") { ZEROS } else { ONES },
        };
        let (mut stages, mut from) = (Vec::new(), first);
        for (stage, count) in blocks_of(options).into_iter().enumerate() {
            let width = first << stage;
            let blocks = (0..count).map(|i| {
                let stride = if i == 0 && stage > 0 { 2 } else { 1 };
                let name = format!("layer{}.{i}", stage + 1);
                let block = Block::declare(&mut d, &name, kinds, (from, width, stride));
                from = width * kinds.expansion();
                block
            });
            stages.push(blocks.collect::<Result<_>>()?);
        }
        // Every halving rounds up, the stem's and the pool's too.
        let halvings = STAGES - 1 + if pools { 2 } else { 0 };
        let halved = |side: usize| (0..halvings).fold(side, |side, _| side.div_ceil(2));
        let [rows, cols] = [height, width].map(halved);
        let facts = vec![
            ("dim", from as i64),
            ("depth", STAGES as i64),
            ("patch", 1 << halvings),
            ("tokens", (rows * cols) as i64),
            ("rows", rows as i64),
            ("cols", cols as i64),
        ];
        Ok(Self { stem, pools, stages, channels, facts, parameters: d.finish() })
    }
}

/// Pixels of `[B, C, H, W]` as tokens `[B, H W, C]`.
fn tokens(f: &Forward<'_>, x: &Var) -> Result<Var> {
    let (batch, channels) = (x.dims()[0], x.dims()[1]);
    let pixels = x.dims()[2] * x.dims()[3];
    reshape(f.tape, &permute(f.tape, x, &[0, 2, 3, 1])?, &[batch, pixels, channels])
}

impl Module for ResNet {
    fn call(&self, f: &Forward<'_>, inputs: &[Input], outputs: &[&str]) -> Result<Vec<Var>> {
        let images = input("resnet", inputs, "images")?;
        match images.dims() {
            [_, channels, _, _] if *channels == self.channels => {}
            dims => {
                let channels = self.channels;
                return Err(Error::failed(format!(
                    "`resnet` expects images [B, {channels}, H, W], got {dims:?}"
                )));
            }
        }
        let mut x = self.stem.apply_relu(f, images, None)?;
        if self.pools {
            x = max_pool2d(f.tape, &x, 3, (2, 1))?;
        }
        let mut stages = Vec::with_capacity(STAGES);
        for blocks in &self.stages {
            for block in blocks {
                x = block.apply(f, &x)?;
            }
            stages.push(x.clone());
        }
        select("resnet", outputs, |name| match name {
            "tokens" => tokens(f, &x).map(Some),
            "pooled" | "cls" => mean(f.tape, &tokens(f, &x)?, &[1], false).map(Some),
            name => match layer_of(name, STAGES) {
                Some(stage) => tokens(f, &stages[stage - 1]).map(Some),
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

inventory::submit! {
    ModuleDef {
        name: "resnet",
        help: "residual network with batch norm, timm's names",
        role: Role::Backbone,
        options: &[
            OptionDef {
                name: "size",
                kind: Kind::Choice { default: "18", of: &["18", "50"] },
                help: "layers: 18 has blocks of two, 50 bottlenecks of three",
            },
            OptionDef {
                name: "width",
                kind: Kind::Int { default: Some(64), low: 1, high: 1024 },
                help: "channels of the first stage; each later one doubles them",
            },
            OptionDef {
                name: "blocks",
                kind: Kind::Int { default: None, low: 1, high: 64 },
                help: "blocks in each of the four stages; else by `size`",
            },
            OptionDef {
                name: "stem",
                kind: Kind::Choice { default: "imagenet", of: &["imagenet", "cifar"] },
                help: "cifar is 3 x 3 without pooling, for pictures of some 32 pixels",
            },
            OptionDef {
                name: "zero_init_last",
                kind: Kind::Bool { default: false },
                help: "start the last norm of each block at 0, so that a block starts as its shortcut",
            },
        ],
        build: |options, shape, declare| Ok(Rc::new(ResNet::build(options, shape, declare)?)),
        grid: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Tape, storage};
    use crate::module::testing::{Bench, named};
    use crate::random::Stream;
    use crate::state::StepVars;
    use std::cell::RefCell;

    const SMALL: &str = "width = 4\nblocks = 1\nstem = \"cifar\"\n";

    fn images(batch: usize, side: usize) -> Var {
        let mut stream = Stream::new(5, "images", 0, 0);
        let init = Init::Normal { std: 1.0 };
        Var::constant(init.tensor(&[batch, 3, side, side], &mut stream).unwrap())
    }

    fn resnet(options: &str) -> Bench {
        Bench::backbone("resnet", options, &[3, 32, 32]).unwrap()
    }

    #[test]
    fn its_parameters_and_buffers_have_the_names_that_timm_gives_them() {
        let bench = resnet(SMALL);
        assert_eq!(
            bench.names()[..6],
            [
                "conv1.weight",
                "bn1.weight",
                "bn1.bias",
                "layer1.0.conv1.weight",
                "layer1.0.bn1.weight",
                "layer1.0.bn1.bias"
            ]
        );
        assert!(bench.names().contains(&"layer4.0.downsample.1.bias"));
        let buffers: Vec<&str> = bench.state.buffers().iter().map(|b| b.name.as_str()).collect();
        assert_eq!(buffers[..2], ["bn1.running_mean", "bn1.running_var"]);
        assert!(buffers.contains(&"layer2.0.downsample.1.running_var"));
    }

    #[test]
    fn the_named_sizes_have_as_many_parameters_as_pytorchs() {
        let count = |options: &str| -> usize {
            resnet(options).state.parameters().iter().map(|p| p.value.elem_count()).sum()
        };
        // torchvision's networks without their last layer.
        assert_eq!(count("size = \"18\""), 11_176_512);
        assert_eq!(count("size = \"50\""), 23_508_032);
    }

    #[test]
    fn outputs_have_the_shapes_that_the_facts_say() {
        for (options, side, dim) in
            [(SMALL, 4, 32), ("width = 4\nblocks = 1", 1, 32), ("width = 2\nsize = \"50\"", 1, 64)]
        {
            let bench = resnet(options);
            let made = bench
                .call(&[named("images", &images(2, 32))], &["pooled", "tokens", "layer.1"])
                .unwrap();
            assert_eq!(made[0].dims(), [2, dim]);
            assert_eq!(made[1].dims(), [2, side * side, dim]);
            assert_eq!(bench.module.fact("dim"), Some(dim as i64));
            assert_eq!(bench.module.fact("tokens"), Some((side * side) as i64));
            assert_eq!(made[2].dims()[0], 2);
        }
        let error = Bench::backbone("resnet", SMALL, &[7]).unwrap_err();
        assert_eq!(
            error.hint_text(),
            Some("use `backbone=wave` for sounds, `backbone=identity` for vectors")
        );
    }

    #[test]
    fn only_a_step_of_training_sets_running_statistics_and_a_question_uses_them() {
        let bench = resnet(SMALL);
        let x = images(4, 8);
        let ask = |vars: &StepVars<'_>, training: bool| {
            let tape = Tape::default();
            let stream = Rc::new(RefCell::new(Stream::new(0, "test", 0, 0)));
            let forward = Forward { tape: &tape, vars, training, stream };
            let made = bench.module.call(&forward, &[named("images", &x)], &["pooled"]).unwrap();
            storage::to_f64(made[0].value()).unwrap()
        };
        let (asked, learning) = (StepVars::new(&bench.state), StepVars::learning(&bench.state));
        let (question, teacher) = (ask(&asked, false), ask(&learning, false));
        assert!(asked.take_buffers().is_empty() && question != teacher);
        assert_eq!(teacher, ask(&StepVars::learning(&bench.state), true));
        let set = learning.take_buffers();
        assert_eq!(set.len(), bench.state.buffers().len());
    }
}
