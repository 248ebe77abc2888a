//! `equal@1`: 1 where equal, else 0.

use crate::engine::op::{Gradient, OpDef, Sample, sample_tensor};
use crate::engine::tape::Var;

inventory::submit! {
    OpDef {
        name: "equal",
        revision: 1,
        formula: "equal(a, b): u8, 1 where equal, else 0, broadcast",
        call: |_, args| {
            let value = args.tensor(0)?.value().broadcast_eq(args.tensor(1)?.value())?;
            Ok(vec![Var::constant(value)])
        },
        gradient: Gradient::None("a comparison has none"),
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3]), sample_tensor(stream, &[2, 1])]),
        ],
    }
}
