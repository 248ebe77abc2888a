//! Tests of the tape: what it keeps, who owns a gradient, and what flows back.

use super::super::ops::add::add;
use super::*;

fn leaf(tape: &Tape, values: &[f64]) -> Var {
    tape.leaf(Tensor::new(values, &Device::Cpu).unwrap())
}

#[test]
fn a_value_used_twice_gets_the_sum_of_its_gradients() {
    let tape = Tape::default();
    let x = leaf(&tape, &[3.0]);
    let two = add(&tape, &x, &x).unwrap();
    let four = add(&tape, &two, &two).unwrap();
    let five = add(&tape, &four, &x).unwrap();
    let gradients = tape.backward(&five).unwrap();
    assert_eq!(storage::scalar(gradients.get(&x).unwrap()).unwrap(), 5.0);
}

#[test]
fn a_gradient_that_two_inputs_share_is_not_changed_under_the_other() {
    let tape = Tape::default();
    let (x, y) = (leaf(&tape, &[1.0, 2.0]), leaf(&tape, &[3.0, 4.0]));
    let sum = add(&tape, &x, &y).unwrap();
    let again = add(&tape, &sum, &x).unwrap();
    let seed = Tensor::new(&[1.0, 10.0], &Device::Cpu).unwrap();
    let gradients = tape.backward_from(&again, seed).unwrap();
    assert_eq!(storage::to_f64(gradients.get(&x).unwrap()).unwrap(), [2.0, 20.0]);
    assert_eq!(storage::to_f64(gradients.get(&y).unwrap()).unwrap(), [1.0, 10.0]);
}

#[test]
fn nothing_is_recorded_without_gradients() {
    let tape = Tape::default();
    let x = leaf(&tape, &[3.0]);
    let y = tape.no_grad(|| add(&tape, &x, &x)).unwrap();
    assert!(!y.tracked() && add(&tape, &x, &y).unwrap().tracked());
}

#[test]
fn a_loss_that_depends_on_no_parameter_is_an_error_with_a_hint() {
    let constant = Var::constant(Tensor::new(&[1.0], &Device::Cpu).unwrap());
    let error = Tape::default().backward(&constant).unwrap_err();
    assert!(error.to_string().contains("does not depend on any parameter"));
    assert!(error.hint_text().is_some());
}
