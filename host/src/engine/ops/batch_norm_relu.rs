//! `batch_norm_relu@1`: a batch norm, the addition of a residual, and max(x, 0), in one pass.

use crate::Result;
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_tensor};
use crate::engine::ops::batch_norm::{self, Behind, Channels, Normed, normed};
use crate::engine::tape::{Tape, Var};

/// `max(batch_norm(x) + residual, 0)`: as [`batch_norm`](batch_norm::batch_norm), with a `residual` in the
/// shape of x; the gradient of max at 0 is 0.
///
/// # Errors
/// When the shapes don't fit together.
pub fn batch_norm_relu(
    tape: &Tape,
    x: &Var,
    channels: Channels<'_>,
    residual: Option<&Var>,
    eps: f64,
) -> Result<Normed> {
    normed(tape, "batch_norm_relu", x, channels, (eps, Behind::Relu(residual)))
}

inventory::submit! {
    OpDef {
        name: "batch_norm_relu",
        revision: 1,
        formula: "batch_norm_relu(x, w? [C], b? [C], mean? [C], var? [C], residual?, eps) = \
                  max(batch_norm(x) + residual, 0), mean, var",
        call: |tape, args: &Args<'_>| {
            let (x, residual) = (args.tensor(0)?, args.optional_tensor(5)?);
            let channels = batch_norm::channels(args)?;
            let made = batch_norm_relu(tape, x, channels, residual, args.float(6)?)?;
            Ok(vec![made.y, made.mean, made.var])
        },
        gradient: Gradient::Checked,
        samples: |stream| batch_norm::samples(stream)
            .into_iter()
            .enumerate()
            .map(|(i, mut args)| {
                let shape = match &args[0] {
                    Arg::Tensor(x) if i % 2 == 0 => Some(x.dims().to_vec()),
                    _ => None,
                };
                args.push(shape.map_or(Arg::None, |shape| sample_tensor(stream, &shape)));
                args.push(Arg::Float(1e-2));
                Sample::new(args).constant(&[3, 4])
            })
            .collect(),
    }
}
