//! `mlp`: linear layers with an activation between them, the body of most heads.

use std::rc::Rc;

use super::batch_norm::BatchNorm;
use super::declare::{Declare, ONES};
use super::linear::Linear;
use super::registry::{Kind, ModuleDef, OptionDef, Options, Role};
use super::{Forward, Input, Module, input, select};
use crate::Result;
use crate::engine::Var;
use crate::engine::ops::gelu::gelu;
use crate::engine::ops::relu::relu;
use crate::engine::ops::reshape::reshape;
use crate::state::ParamId;

/// What stands between two layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activation {
    Gelu,
    Relu,
}

/// The block `mlp`: input `x` `[..., in]`, output `out` `[..., out]`; parameters `layers.0.weight`,
/// `layers.0.bias`, `layers.1.weight`, ..., and with batch norm `norms.0.weight`, `norms.0.bias`, ...
#[derive(Debug)]
struct Mlp {
    layers: Vec<Linear>,
    /// Behind each layer but the last; none without norm.
    norms: Vec<BatchNorm>,
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
        let norms = if options.word("norm") == "batch" { count - 1 } else { 0 };
        let norms = (0..norms)
            .map(|i| BatchNorm::declare(&mut declare, &format!("norms.{i}"), hidden, ONES))
            .collect::<Result<_>>()?;
        let activation =
            if options.word("activation") == "relu" { Activation::Relu } else { Activation::Gelu };
        Ok(Self { layers, norms, activation, sizes, parameters: declare.finish() })
    }

    /// Layer `i` with what stands between it and the next one.
    fn hidden(&self, forward: &Forward<'_>, i: usize, x: &Var) -> Result<Var> {
        let layer = &self.layers[i];
        match (self.norms.get(i), self.activation) {
            (None, Activation::Gelu) => layer.apply_gelu(forward, x),
            (None, Activation::Relu) => relu(forward.tape, &layer.apply(forward, x)?),
            (Some(norm), Activation::Gelu) => {
                gelu(forward.tape, &norm.apply(forward, &layer.apply(forward, x)?)?)
            }
            (Some(norm), Activation::Relu) => {
                norm.apply_relu(forward, &layer.apply(forward, x)?, None)
            }
        }
    }

    /// `[..., in]` as `[R, in]` where a batch norm counts rows.
    fn rows(&self, forward: &Forward<'_>, x: &Var) -> Result<Var> {
        if self.norms.is_empty() || x.dims().len() == 2 {
            return Ok(x.clone());
        }
        let width = x.dims().last().copied().unwrap_or(1);
        reshape(forward.tape, x, &[x.value().elem_count() / width.max(1), width])
    }
}

impl Module for Mlp {
    fn call(&self, forward: &Forward<'_>, inputs: &[Input], outputs: &[&str]) -> Result<Vec<Var>> {
        let given = input("mlp", inputs, "x")?;
        let mut x = self.rows(forward, given)?;
        let last = self.layers.len() - 1;
        for i in 0..last {
            x = self.hidden(forward, i, &x)?;
        }
        x = self.layers[last].apply(forward, &x)?;
        if x.dims().len() != given.dims().len() {
            let mut shape = given.dims().to_vec();
            shape[given.dims().len() - 1] = self.sizes.1;
            x = reshape(forward.tape, &x, &shape)?;
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
        help: "linear layers with an activation, and maybe a batch norm, between them",
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
                name: "norm",
                kind: Kind::Choice { default: "none", of: &["none", "batch"] },
                help: "what stands between a layer and its activation",
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::engine::{Tape, storage};
    use crate::module::registry::build_block;
    use crate::module::testing::named;
    use crate::random::Stream;
    use crate::state::{Init, State, StepVars};
    use std::cell::RefCell;

    #[test]
    fn with_batch_norm_every_hidden_unit_has_mean_0_and_variance_1_over_the_rows() {
        let mut state = State::new(1);
        let text =
            "in = 3\nout = 2\nhidden = 4\nlayers = 2\nnorm = \"batch\"\nactivation = \"relu\"";
        let options: BTreeMap<_, _> = toml::from_str(text).unwrap();
        let mlp = build_block("mlp", &options, "head", &mut state, true).unwrap();
        let names: Vec<&str> = state.parameters().iter().map(|p| p.name.as_str()).collect();
        assert!(names.contains(&"head.norms.0.weight") && !names.contains(&"head.norms.1.weight"));
        let mut stream = Stream::new(0, "x", 0, 0);
        let x = Init::Normal { std: 1.0 }.tensor(&[2, 5, 3], &mut stream).unwrap();
        let (tape, vars) = (Tape::default(), StepVars::learning(&state));
        let stream = Rc::new(RefCell::new(stream));
        let forward = Forward { tape: &tape, vars: &vars, training: true, stream };
        let made = mlp.call(&forward, &[named("x", &Var::constant(x))], &["out"]).unwrap();
        assert_eq!(made[0].dims(), [2, 5, 2]);
        let running = state.find_buffer("head.norms.0.running_var").unwrap();
        let set = vars.take_buffers();
        let (_, var) = set.iter().find(|(id, _)| *id == running).unwrap();
        assert!(storage::to_f64(var).unwrap().iter().all(|var| (0.9..1.0).contains(var)));
    }
}
