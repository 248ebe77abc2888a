//! `queue_push@1`: the newest rows of a queue first.

use candle_core::Tensor;

use crate::engine::op::{Gradient, OpDef, Sample, sample_tensor};
use crate::engine::tape::Var;
use crate::{Error, Result};

/// `rows` `[B, D]`, then the first L - B rows of `queue` `[L, D]`.
///
/// # Errors
/// When the widths differ.
pub fn queue_push(queue: &Var, rows: &Var) -> Result<Tensor> {
    let (&[length, width], &[new, other]) = (queue.dims(), rows.dims()) else {
        return Err(refuse(queue, rows));
    };
    if width != other {
        return Err(refuse(queue, rows));
    }
    let new = new.min(length);
    let rows = rows.value().narrow(0, 0, new)?;
    Ok(Tensor::cat(&[&rows, &queue.value().narrow(0, 0, length - new)?], 0)?)
}

fn refuse(queue: &Var, rows: &Var) -> Error {
    let (queue, rows) = (queue.dims(), rows.dims());
    Error::failed(format!("`queue_push` needs [L, D] and [B, D], got {queue:?} and {rows:?}"))
}

inventory::submit! {
    OpDef {
        name: "queue_push",
        revision: 1,
        formula: "queue_push(queue [L, D], rows [B, D]) = rows, then the first L - B of queue",
        call: |_, args| {
            let queue = queue_push(args.tensor(0)?, args.tensor(1)?)?;
            Ok(vec![Var::constant(queue)])
        },
        gradient: Gradient::None("a queue holds past values"),
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[4, 3]), sample_tensor(stream, &[2, 3])]),
        ],
    }
}
