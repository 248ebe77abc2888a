//! `grad_scale@1`: the identity with a scaled gradient.

use crate::Result;
use crate::engine::op::{Arg, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::tape::{Tape, Var};

/// `x`; its gradient is multiplied by `factor`.
pub fn grad_scale(tape: &Tape, x: &Var, factor: f64) -> Result<Var> {
    Ok(tape.record("grad_scale", &[x], x.value().clone(), move |gradient, inputs| {
        inputs.add(0, gradient.tensor().affine(factor, 0.0)?)
    }))
}

inventory::submit! {
    OpDef {
        name: "grad_scale",
        revision: 1,
        formula: "grad_scale(x, factor) = x, with its gradient times factor",
        call: |tape, args| Ok(vec![grad_scale(tape, args.tensor(0)?, args.float(1)?)?]),
        gradient: Gradient::Defined("its gradient is defined, not derived; see this file's test"),
        samples: |stream| vec![
            Sample::new(vec![sample_tensor(stream, &[2, 3]), Arg::Float(0.1)]),
            Sample::new(vec![sample_strided(stream, &[2, 3]), Arg::Float(0.0)]),
            Sample::new(vec![sample_tensor(stream, &[1]), Arg::Float(-1.0)]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage;
    use candle_core::{Device, Tensor};

    #[test]
    fn the_value_stays_and_the_gradient_is_scaled() {
        let tape = Tape::default();
        let x = tape.leaf(Tensor::new(&[3.0], &Device::Cpu).unwrap());
        let y = grad_scale(&tape, &x, 0.1).unwrap();
        assert_eq!(storage::scalar(y.value()).unwrap(), 3.0);
        let gradients = tape.backward(&y).unwrap();
        assert_eq!(storage::scalar(gradients.get(&x).unwrap()).unwrap(), 0.1);
    }
}
