//! DINO's head: an MLP to a bottleneck, l2-normalised, then one weight-normalised layer of prototypes.

use pretext_plugin_api::{
    Builder, Group, Init, Module, Options, Parameter, Result, Teacher, Tensor,
};

/// The smallest norm that features are divided by.
const EPS: f64 = 1e-12;

/// The head, student's or teacher's.
#[derive(Debug)]
pub(crate) struct Head {
    /// Three linear layers with GELU between, to the bottleneck.
    pub(crate) layers: Module,
    /// Direction of each prototype, `[K, bottleneck]`.
    direction: Parameter,
    /// Length of each prototype `[K, 1]`, a matrix as in PyTorch, so that it decays as the authors' does; fixed at 1
    /// where the last layer is normalised.
    gain: Option<Parameter>,
    /// Number of prototypes, K.
    pub(crate) prototypes: usize,
}

impl Head {
    pub(crate) fn declare(options: Options, host: &mut Builder, dim: usize) -> Result<Self> {
        let (hidden, bottleneck) = (options.int("head_hidden")?, options.int("head_bottleneck")?);
        let layers = host.module(
            "head",
            "mlp",
            &[
                ("in", dim.into()),
                ("hidden", hidden.into()),
                ("out", bottleneck.into()),
                ("layers", options.int("head_layers")?.into()),
            ],
        )?;
        let prototypes = options.size("prototypes")?;
        // "Freezing the last layer for the first epoch" is the authors' guard against early collapse.
        let group =
            Group { frozen_epochs: options.float("freeze_last_layer_epochs")?, ..Group::default() };
        let shape = [prototypes, bottleneck as usize];
        let init = Init::Uniform(-bound(bottleneck), bound(bottleneck));
        let direction = host.parameter("head.last.weight_v", &shape, init, group)?;
        let gain = if options.flag("normalize_last_layer")? {
            None
        } else {
            let ones = Init::Constant(1.0);
            Some(host.parameter("head.last.weight_g", &[prototypes, 1], ones, group)?)
        };
        Ok(Self { layers, direction, gain, prototypes })
    }

    /// The parameters that are not the layers' own.
    pub(crate) fn parameters(&self) -> Vec<Parameter> {
        std::iter::once(self.direction).chain(self.gain).collect()
    }

    /// The teacher's copy.
    pub(crate) fn of(&self, teacher: Teacher) -> Result<Self> {
        Ok(Self {
            layers: teacher.module(self.layers)?,
            direction: teacher.parameter(self.direction)?,
            gain: self.gain.map(|gain| teacher.parameter(gain)).transpose()?,
            prototypes: self.prototypes,
        })
    }

    /// Logits `[R, K]` of features `[R, D]`.
    pub(crate) fn embed(&self, features: Tensor) -> Tensor {
        let bottleneck = self.layers.forward(features).l2_normalize(-1, EPS);
        let weight = self.direction.tensor().weight_norm(self.gain.map(Parameter::tensor));
        bottleneck.linear(weight, None)
    }
}

/// PyTorch's start of a linear layer, which the authors leave as it is for the last one.
fn bound(fan_in: i64) -> f64 {
    1.0 / (fan_in as f64).sqrt()
}
