//! `argmax@1`: the place of the largest along a dimension.

use crate::engine::op::{Arg, Gradient, OpDef, Sample, sample_tensor};
use crate::engine::ops::max::places;
use crate::engine::tape::Var;

inventory::submit! {
    OpDef {
        name: "argmax",
        revision: 1,
        formula: "argmax(x, dim): u32 place of the first largest; NaN is the largest",
        call: |tape, args| {
            let x = args.tensor(0)?;
            let dim = args.dim(1, x.dims().len())?;
            Ok(vec![Var::constant(places("argmax", tape, x, dim)?)])
        },
        gradient: Gradient::None("a place is not a smooth function of values"),
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3]), Arg::Int(1)]),
        ],
    }
}
