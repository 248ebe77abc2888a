//! Activation checkpoints: what is computed on the way is forgotten, and computed once more on the way back.

use super::tape::{Tape, Var};
use crate::Result;

/// The value that `now` computes from `inputs`, without what its ops would keep for their backward: `again` computes
/// the same from the same inputs, in their order, on a tape of its own, when the gradient arrives (Chen et al. 2016,
/// *Training deep nets with sublinear memory cost*, <https://arxiv.org/abs/1604.06174>).
///
/// Both must draw the same random numbers. Gradients are those of `now` recorded: bit for bit, unless an input is used
/// elsewhere too, whose sum then has another order.
///
/// # Errors
/// Those of `now`, and in the backward pass those of `again`.
pub fn checkpoint(
    tape: &Tape,
    inputs: &[&Var],
    now: impl FnOnce() -> Result<Var>,
    again: impl FnOnce(&Tape, &[Var]) -> Result<Var> + 'static,
) -> Result<Var> {
    if !tape.records(inputs) {
        return now();
    }
    let value = tape.to_be_repeated(now)?.value().clone();
    let another = tape.another();
    let kept: Vec<_> =
        inputs.iter().map(|input| (input.value().clone(), input.tracked())).collect();
    Ok(tape.record("checkpoint", inputs, value, move |incoming, gradients| {
        let tape = another();
        let leaf = |(value, tracked)| if tracked { tape.leaf(value) } else { Var::constant(value) };
        let inputs: Vec<Var> = kept.into_iter().map(leaf).collect();
        let output = again(&tape, &inputs)?;
        let mut arrived = tape.walk(&output, incoming.into_tensor(), gradients.owned())?;
        for (index, input) in inputs.iter().enumerate() {
            if let Some((gradient, owned)) = arrived.take_with_owner(input) {
                gradients.put(index, gradient, owned)?;
            }
        }
        Ok(())
    }))
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::super::ops::add::add;
    use super::super::ops::mul::mul;
    use super::super::storage;
    use super::*;

    fn leaf(tape: &Tape, values: &[f64]) -> Var {
        tape.leaf(Tensor::new(values, &Device::Cpu).unwrap())
    }

    /// x^2 y + x.
    fn body(tape: &Tape, x: &Var, y: &Var) -> Result<Var> {
        add(tape, &mul(tape, &mul(tape, x, x)?, y)?, x)
    }

    #[test]
    fn gradients_are_those_of_the_body_recorded() {
        let gradients = |checkpointed: bool| {
            let tape = Tape::default();
            let (x, y) = (leaf(&tape, &[3.0, -1.0]), leaf(&tape, &[5.0, 2.0]));
            let inner = if checkpointed {
                checkpoint(&tape, &[&x, &y], || body(&tape, &x, &y), |t, v| body(t, &v[0], &v[1]))
            } else {
                body(&tape, &x, &y)
            };
            let out = add(&tape, &inner.unwrap(), &x).unwrap();
            let seed = Tensor::new(&[1.0, 10.0], &Device::Cpu).unwrap();
            let arrived = tape.backward_from(&out, seed).unwrap();
            [x, y].map(|leaf| storage::to_f64(arrived.get(&leaf).unwrap()).unwrap())
        };
        // d/dx = 2 x y + 2, d/dy = x^2.
        assert_eq!(gradients(true), [vec![32.0, -20.0], vec![9.0, 10.0]]);
        assert_eq!(gradients(true), gradients(false));
    }

    #[test]
    fn it_keeps_its_own_value_and_nothing_of_what_lies_between() {
        let tape = Tape::default();
        let (x, y) = (leaf(&tape, &[3.0]), leaf(&tape, &[5.0]));
        checkpoint(&tape, &[&x, &y], || body(&tape, &x, &y), |t, v| body(t, &v[0], &v[1])).unwrap();
        assert_eq!((tape.recorded_bytes(), tape.peak_bytes()), (8, 8 + 3 * 8));
        body(&tape, &x, &y).unwrap();
        assert_eq!(tape.recorded_bytes(), 8 + 3 * 8);
    }

    #[test]
    fn where_no_gradient_is_wanted_it_is_the_body() {
        let tape = Tape::default();
        let x = Var::constant(Tensor::new(&[3.0], &Device::Cpu).unwrap());
        let out = checkpoint(&tape, &[&x, &x], || body(&tape, &x, &x), |_, _| unreachable!());
        assert!(!out.unwrap().tracked());
    }
}
