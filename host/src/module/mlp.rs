//! `mlp`: linear layers with an activation between them, the body of most heads.

use std::rc::Rc;

use super::declare::Declare;
use super::linear::Linear;
use super::registry::{Kind, ModuleDef, OptionDef, Options, Role};
use super::{Forward, Input, Module, input, select};
use crate::Result;
use crate::engine::Var;
use crate::engine::ops::relu::relu;
use crate::state::ParamId;

/// What stands between two layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activation {
    Gelu,
    Relu,
}

/// The block `mlp`: input `x` `[..., in]`, output `out` `[..., out]`; parameters `layers.0.weight`,
/// `layers.0.bias`, `layers.1.weight`, ...
#[derive(Debug)]
struct Mlp {
    layers: Vec<Linear>,
    activation: Activation,
    sizes: (usize, usize),
    parameters: Vec<ParamId>,
}

impl Mlp {
    fn build(options: &Options, mut declare: Declare<'_>) -> Result<Self> {
        let sizes = (options.required("in")?, options.required("out")?);
        let count = options.required("layers")?;
        let hidden = options.required("hidden")?;
        let layers = (0..count)
            .map(|i| {
                let from = if i == 0 { sizes.0 } else { hidden };
                let to = if i + 1 == count { sizes.1 } else { hidden };
                let name = format!("layers.{i}");
                Linear::declare(&mut declare, &name, (from, to), options.flag("bias"))
            })
            .collect::<Result<_>>()?;
        let activation =
            if options.word("activation") == "relu" { Activation::Relu } else { Activation::Gelu };
        Ok(Self { layers, activation, sizes, parameters: declare.finish() })
    }

    fn hidden(&self, forward: &Forward<'_>, layer: &Linear, x: &Var) -> Result<Var> {
        match self.activation {
            Activation::Gelu => layer.apply_gelu(forward, x),
            Activation::Relu => relu(forward.tape, &layer.apply(forward, x)?),
        }
    }
}

impl Module for Mlp {
    fn call(&self, forward: &Forward<'_>, inputs: &[Input], outputs: &[&str]) -> Result<Vec<Var>> {
        let mut x = input("mlp", inputs, "x")?.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            x = if i + 1 == self.layers.len() {
                layer.apply(forward, &x)?
            } else {
                self.hidden(forward, layer, &x)?
            };
        }
        select("mlp", outputs, |name| Ok((name == "out").then(|| x.clone())))
    }

    fn fact(&self, name: &str) -> Option<i64> {
        match name {
            "in" => Some(self.sizes.0 as i64),
            "dim" => Some(self.sizes.1 as i64),
            "layers" => Some(self.layers.len() as i64),
            _ => None,
        }
    }

    fn parameters(&self) -> &[ParamId] {
        &self.parameters
    }
}

inventory::submit! {
    ModuleDef {
        name: "mlp",
        help: "linear layers with an activation between them",
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
                name: "layers",
                kind: Kind::Int { default: Some(3), low: 1, high: 64 },
                help: "how many linear layers",
            },
            OptionDef {
                name: "hidden",
                kind: Kind::Int { default: Some(2048), low: 1, high: 1 << 24 },
                help: "width between the layers",
            },
            OptionDef {
                name: "activation",
                kind: Kind::Choice { default: "gelu", of: &["gelu", "relu"] },
                help: "what stands between two layers",
            },
            OptionDef {
                name: "bias",
                kind: Kind::Bool { default: true },
                help: "whether the layers add biases",
            },
        ],
        grid: None,
        build: |options, _, declare| Ok(Rc::new(Mlp::build(options, declare)?)),
    }
}
