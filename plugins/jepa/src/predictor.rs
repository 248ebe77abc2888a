//! I-JEPA's predictor: a narrow transformer from the context's features and the places of hidden patches
//! to the features at these places.

use pretext_plugin_api::{
    Builder, Error, Group, Init, Kept, Module, Options, Parameter, Result, Tensor,
};

/// The predictor. Only students have one: nothing of it is averaged, and it is thrown away in the end.
#[derive(Debug)]
pub(crate) struct Predictor {
    /// From the backbone's width D to the predictor's, P.
    input: Module,
    /// Blocks over context and target tokens, with a norm after the last.
    blocks: Module,
    /// From P to D.
    output: Module,
    /// Stands for every hidden patch, `[1, 1, P]`.
    mask_token: Parameter,
    /// Sines and cosines of row and column of each of N patches, `[N, P]`.
    positions: Kept,
    /// P.
    width: usize,
}

/// Which patches of each sample are seen and which are asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocks {
    /// Patches that the student sees, `[B, Kc]`.
    pub(crate) context: Tensor,
    /// Patches of the target blocks, one block of all samples after the other, `[M B, Kt]`.
    pub(crate) targets: Tensor,
    /// Target blocks of a sample, M.
    pub(crate) count: usize,
}

impl Predictor {
    pub(crate) fn declare(options: Options, host: &mut Builder, backbone: Module) -> Result<Self> {
        let places = |fact: &str| {
            backbone.fact(fact).map_err(|_| {
                Error::asked_wrongly(
                    "the backbone makes no grid of tokens, and blocks are cut from one",
                )
                .hint("backbone=vit backbone.class_token=false backbone.pool=mean")
            })
        };
        let (rows, cols) = (places("rows")?, places("cols")?);
        let (dim, width) = (backbone.fact("dim")?, options.size("predictor_width")?);
        if width % 4 != 0 {
            return Err(Error::asked_wrongly(format!(
                "sines and cosines of two places need a `predictor_width` that 4 divides, not {width}"
            ))
            .hint(format!("predictor_width={}", width.next_multiple_of(4))));
        }
        let heads = match options.size("predictor_heads")? {
            0 => backbone.fact("heads")?,
            heads => heads,
        };
        let depth = options.int("predictor_depth")?;
        let linear = |host: &mut Builder, name: &str, from: usize, to: usize| {
            host.module(name, "linear", &[("in", from.into()), ("out", to.into())])
        };
        let input = linear(host, "predictor.in", dim, width)?;
        let settings = [("dim", width.into()), ("depth", depth.into()), ("heads", heads.into())];
        let blocks = host.module("predictor.blocks", "transformer", &settings)?;
        let output = linear(host, "predictor.out", width, dim)?;
        let start = Init::TruncatedNormal(0.02);
        let mask_token =
            host.parameter("predictor.mask_token", &[1, 1, width], start, Group::default())?;
        let positions = Tensor::from_slice(&[rows * cols, width], &sin_cos(rows, cols, width));
        Ok(Self { input, blocks, output, mask_token, positions: positions.keep()?, width })
    }

    /// The features at the targets, `[M B, Kt, D]`, from those of the context `[B, Kc, D]`: the context
    /// is read once for each block.
    pub(crate) fn predict(&self, context: Tensor, blocks: Blocks) -> Result<Tensor> {
        let (seen, asked) = (context.size(1)?, blocks.targets.size(1)?);
        let context = self.input.forward(context) + self.places(blocks.context)?;
        let context = Tensor::cat(0, &vec![context; blocks.count]);
        let hidden = self.places(blocks.targets)? + self.mask_token.tensor();
        let tokens = Tensor::cat(1, &[context, hidden]);
        let [mixed] = self.blocks.call(&[("tokens", tokens)], ["out"]);
        Ok(self.output.forward(mixed.narrow(1, seen, asked)))
    }

    /// The positions of `patches` `[R, K]`: `[R, K, P]`.
    fn places(&self, patches: Tensor) -> Result<Tensor> {
        let shape = patches.shape()?;
        let sizes: Vec<i64> =
            shape.iter().chain([&self.width]).map(|size| size.cast_signed() as i64).collect();
        Ok(self.positions.tensor().index_select(0, patches.reshape(&[-1])).reshape(&sizes))
    }
}

/// For each place a quarter of `width` each of sin and cos of the column, then of the row, at frequencies
/// 10000^(-4 i / width): the positions of the backbone, in the predictor's width.
fn sin_cos(rows: usize, cols: usize, width: usize) -> Vec<f32> {
    let quarter = width / 4;
    let mut values = Vec::with_capacity(rows * cols * width);
    for place in (0..rows).flat_map(|row| (0..cols).flat_map(move |col| [col, row])) {
        let angle = |i: usize| place as f64 / 10_000_f64.powf(i as f64 / quarter as f64);
        values.extend((0..quarter).map(|i| angle(i).sin() as f32));
        values.extend((0..quarter).map(|i| angle(i).cos() as f32));
    }
    values
}
