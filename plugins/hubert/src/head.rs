//! The head: a projection, and one codeword per class that it is compared with by cosine.

use pretext_plugin_api::{Builder, Group, Init, Module, Options, Parameter, Result, Tensor};

/// The smallest norm that embeddings are divided by.
const EPS: f64 = 1e-8;

/// Projection and codewords.
#[derive(Debug)]
pub(crate) struct Head {
    projection: Module,
    /// `[K, W]`. The authors have four classes more than there are units, which never are a target: the
    /// symbols of their dictionary. They come last here.
    codewords: Parameter,
    width: i64,
}

impl Head {
    pub(crate) fn declare(
        options: Options,
        host: &mut Builder,
        dim: usize,
        classes: usize,
    ) -> Result<Self> {
        let width = options.size("projection")?;
        let sizes = [("in", dim.into()), ("out", width.into())];
        let projection = host.module("projection", "linear", &sizes)?;
        let start = Init::Uniform(0.0, 1.0);
        let codewords = host.parameter("codewords", &[classes, width], start, Group::default())?;
        Ok(Self { projection, codewords, width: width as i64 })
    }

    /// Cosines `[B F, K]` of tokens `[B, F, D]` and codewords.
    pub(crate) fn logits(&self, tokens: Tensor) -> Tensor {
        let projected = self.projection.forward(tokens).reshape(&[-1, self.width]);
        let codewords = self.codewords.tensor().l2_normalize(-1, EPS);
        projected.l2_normalize(-1, EPS).linear(codewords, None)
    }
}
