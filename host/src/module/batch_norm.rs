//! Batch norm inside of modules: weight, bias, and the running statistics that it is asked with.

use super::Forward;
use super::declare::{Declare, ONES, ZEROS, join};
use crate::Result;
use crate::engine::Var;
use crate::engine::ops::all_reduce::WORLD;
use crate::engine::ops::batch_norm::{Channels, Normed, batch_norm};
use crate::engine::ops::batch_norm_relu::batch_norm_relu;
use crate::engine::ops::lerp::lerp;
use crate::state::{BufferId, Init, ParamId};

/// Added to the variance, as PyTorch does.
const EPS: f64 = 1e-5;
/// The share of a batch's statistics in the running ones, PyTorch's `momentum`.
const SHARE: f64 = 0.1;

/// Parameters `weight` and `bias`, buffers `running_mean` and `running_var`, all `[C]`, named as in PyTorch.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    weight: ParamId,
    bias: ParamId,
    mean: BufferId,
    var: BufferId,
}

impl BatchNorm {
    /// Declares it under `name`; weights start as `weight` says, biases at 0, running statistics at 0 and 1.
    pub fn declare(d: &mut Declare<'_>, name: &str, channels: usize, weight: Init) -> Result<Self> {
        let shape = [channels];
        Ok(Self {
            weight: d.parameter(&join(name, "weight"), &shape, weight)?,
            bias: d.parameter(&join(name, "bias"), &shape, ZEROS)?,
            mean: d.buffer(&join(name, "running_mean"), &shape, ZEROS)?,
            var: d.buffer(&join(name, "running_var"), &shape, ONES)?,
        })
    }

    /// Of `[B, C]` or `[B, C, H, W]`.
    pub fn apply(&self, f: &Forward<'_>, x: &Var) -> Result<Var> {
        self.normed(f, x, |channels| batch_norm(f.tape, x, channels, EPS))
    }

    /// The same, then the addition of `residual`, then max(x, 0), in one.
    pub fn apply_relu(&self, f: &Forward<'_>, x: &Var, residual: Option<&Var>) -> Result<Var> {
        self.normed(f, x, |channels| batch_norm_relu(f.tape, x, channels, residual, EPS))
    }

    fn normed(
        &self,
        f: &Forward<'_>,
        x: &Var,
        norm: impl FnOnce(Channels<'_>) -> Result<Normed>,
    ) -> Result<Var> {
        let (weight, bias) = (f.param(self.weight), f.param(self.bias));
        let running = [self.mean, self.var].map(|id| Var::constant(f.vars.buffer(id)));
        let [mean, var] = &running;
        let own = f.batch_statistics();
        let statistics = (!own).then_some([mean, var]);
        let made = norm(Channels { weight: Some(&weight), bias: Some(&bias), statistics })?;
        if own {
            let n = (WORLD * x.value().elem_count() / weight.dims()[0].max(1)) as f64;
            // PyTorch keeps the unbiased variance and normalises by the biased one.
            let unbiased = Var::constant(made.var.value().affine(n / (n - 1.0).max(1.0), 0.0)?);
            for (id, running, seen) in [(self.mean, mean, &made.mean), (self.var, var, &unbiased)] {
                let next = lerp(f.tape, running, seen, SHARE)?;
                f.vars.set_buffer(id, next.value().clone());
            }
        }
        Ok(made.y)
    }
}
