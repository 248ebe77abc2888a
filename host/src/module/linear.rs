//! `linear`: one affine map of the last dimension, alone or inside of another module.

use std::rc::Rc;

use super::declare::{Declare, WEIGHT, ZEROS, join};
use super::registry::{Kind, ModuleDef, OptionDef, Role};
use super::transformer::Norm;
use super::{Forward, Input, Module, input, select};
use crate::Result;
use crate::engine::Var;
use crate::engine::ops::feed_forward::feed_forward;
use crate::engine::ops::linear::linear;
use crate::engine::ops::linear_gelu::linear_gelu;
use crate::engine::ops::norm_linear;
use crate::state::ParamId;

/// `x w^T + b` over the last dimension, with the parameters `weight` `[out, in]` and `bias` `[out]`.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: ParamId,
    bias: Option<ParamId>,
}

impl Linear {
    /// Declares it under `name`: weights start normal of 0.02, biases at 0.
    pub fn declare(
        declare: &mut Declare<'_>,
        name: &str,
        (from, to): (usize, usize),
        bias: bool,
    ) -> Result<Self> {
        let weight = declare.parameter(&join(name, "weight"), &[to, from], WEIGHT)?;
        let bias =
            bias.then(|| declare.parameter(&join(name, "bias"), &[to], ZEROS)).transpose()?;
        Ok(Self { weight, bias })
    }

    /// `[..., in]` to `[..., out]`.
    pub fn apply(&self, forward: &Forward<'_>, x: &Var) -> Result<Var> {
        let bias = self.bias.map(|id| forward.param(id));
        linear(forward.tape, x, &forward.param(self.weight), bias.as_ref())
    }

    /// The layer norm of `[..., in]` to `[..., out]`, in one.
    pub fn apply_normed(&self, forward: &Forward<'_>, x: &Var, norm: &Norm) -> Result<Var> {
        let (weight, bias) = (forward.param(norm.weight), forward.param(norm.bias));
        let norm = norm_linear::Norm { weight: &weight, bias: &bias, eps: norm.eps };
        let bias = self.bias.map(|id| forward.param(id));
        norm_linear::norm_linear(forward.tape, x, norm, &forward.param(self.weight), bias.as_ref())
    }

    /// `[..., in]`, or its layer norm, by this map, GELU and `next`, in one.
    pub fn apply_gelu_and(
        &self,
        forward: &Forward<'_>,
        x: &Var,
        norm: Option<&Norm>,
        next: &Self,
    ) -> Result<Var> {
        let affine =
            norm.map(|norm| (forward.param(norm.weight), forward.param(norm.bias), norm.eps));
        let norm = affine.as_ref().map(|(weight, bias, eps)| norm_linear::Norm {
            weight,
            bias,
            eps: *eps,
        });
        let [first, second] = [self, next]
            .map(|map| (forward.param(map.weight), map.bias.map(|id| forward.param(id))));
        let [first, second] = [&first, &second].map(|(weight, bias)| (weight, bias.as_ref()));
        feed_forward(forward.tape, x, norm, first, second)
    }

    /// `[..., in]` to `[..., out]`, then GELU.
    pub fn apply_gelu(&self, forward: &Forward<'_>, x: &Var) -> Result<Var> {
        let bias = self.bias.map(|id| forward.param(id));
        linear_gelu(forward.tape, x, &forward.param(self.weight), bias.as_ref())
    }
}

/// The block `linear`: input `x` `[..., in]`, output `out` `[..., out]`.
#[derive(Debug)]
struct LinearBlock {
    linear: Linear,
    sizes: (usize, usize),
    parameters: Vec<ParamId>,
}

impl Module for LinearBlock {
    fn call(&self, forward: &Forward<'_>, inputs: &[Input], outputs: &[&str]) -> Result<Vec<Var>> {
        let out = self.linear.apply(forward, input("linear", inputs, "x")?)?;
        select("linear", outputs, |name| Ok((name == "out").then(|| out.clone())))
    }

    fn fact(&self, name: &str) -> Option<i64> {
        match name {
            "in" => Some(self.sizes.0 as i64),
            "dim" => Some(self.sizes.1 as i64),
            _ => None,
        }
    }

    fn parameters(&self) -> &[ParamId] {
        &self.parameters
    }
}

inventory::submit! {
    ModuleDef {
        name: "linear",
        help: "one affine map",
        role: Role::Block,
        options: &[
            OptionDef {
                name: "in",
                kind: Kind::Int { default: None, low: 1, high: 1 << 24 },
                help: "width of its input; must be given",
            },
            OptionDef {
                name: "out",
                kind: Kind::Int { default: None, low: 1, high: 1 << 24 },
                help: "width of its output; must be given",
            },
            OptionDef {
                name: "bias",
                kind: Kind::Bool { default: true },
                help: "whether it adds a bias",
            },
        ],
        grid: None,
        build: |options, _, mut declare| {
            let sizes = (options.required("in")?, options.required("out")?);
            let linear = Linear::declare(&mut declare, "", sizes, options.flag("bias"))?;
            Ok(Rc::new(LinearBlock { linear, sizes, parameters: declare.finish() }))
        },
    }
}
