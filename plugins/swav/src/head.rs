//! SwAV's head: an MLP with batch norm to a small embedding of length 1, and the prototypes that it is compared
//! with.

use pretext_plugin_api::{Builder, Group, Init, Module, Options, Parameter, Result, Tensor};

/// The smallest norm that an embedding is divided by.
const EPS: f64 = 1e-12;

/// The head.
#[derive(Debug)]
pub(crate) struct Head {
    /// Linear layers with batch norm and max(x, 0) between.
    layers: Module,
    pub(crate) prototypes: Prototypes,
}

/// Directions that embeddings are compared with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prototypes {
    /// `[K, D]`, its rows of length 1: the host sees to that before each step, as the authors do.
    rows: Parameter,
    /// D.
    pub(crate) dim: usize,
}

impl Head {
    pub(crate) fn declare(options: Options, host: &mut Builder, from: usize) -> Result<Self> {
        let (dim, norm) = (options.size("head_dim")?, options.choice("head_norm")?);
        let layers = host.module(
            "head",
            "mlp",
            &[
                ("in", from.into()),
                ("hidden", options.int("head_hidden")?.into()),
                ("out", dim.into()),
                ("layers", options.int("head_layers")?.into()),
                ("activation", "relu".into()),
                ("norm", norm.as_str().into()),
            ],
        )?;
        // The authors' guard against early collapse: prototypes don't move at first.
        let group = Group {
            frozen_steps: options.int("freeze_prototypes_steps")?.cast_unsigned(),
            unit_rows: true,
            ..Group::default()
        };
        // PyTorch's start of a linear layer.
        let bound = 1.0 / (dim as f64).sqrt();
        let shape = [options.size("prototypes")?, dim];
        let rows = host.parameter("prototypes", &shape, Init::Uniform(-bound, bound), group)?;
        Ok(Self { layers, prototypes: Prototypes { rows, dim } })
    }

    /// Embeddings `[R, D]` of length 1, of features `[R, F]`.
    pub(crate) fn embed(&self, features: Tensor) -> Tensor {
        self.layers.forward(features).l2_normalize(-1, EPS)
    }
}

impl Prototypes {
    /// Scores `[R, K]` of embeddings `[R, D]`: cosines, as both have length 1.
    pub(crate) fn scores(self, embedded: Tensor) -> Tensor {
        embedded.linear(self.rows.tensor(), None)
    }
}
