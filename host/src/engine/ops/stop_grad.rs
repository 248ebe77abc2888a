//! `stop_grad@1`: the identity, cut from the tape.

use crate::engine::op::{Gradient, OpDef, Sample, sample_tensor};

inventory::submit! {
    OpDef {
        name: "stop_grad",
        revision: 1,
        formula: "stop_grad(x) = x, with no gradient",
        call: |_, args| Ok(vec![args.tensor(0)?.detach()]),
        gradient: Gradient::None("cutting the tape is its purpose"),
        samples: |stream| vec![Sample::new(vec![sample_tensor(stream, &[2, 3])])],
    }
}
