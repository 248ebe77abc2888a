//! Affine maps, alone and with the layer norm or GELU before or after them.

use candle_core::Tensor;

use super::activation;
use super::matmul::product;
use super::norm::{Centre, NormGradients, Normed};
use crate::Result;
use crate::engine::cuda;
use crate::engine::kernel::activation::Activation;
use crate::engine::ops::norm_linear::Norm;
use crate::engine::tape::{Gradients, Precision, Tape, Var};

/// See [`crate::engine::ops::linear::linear`].
pub fn linear(tape: &Tape, x: &Var, w: &Var, b: Option<&Var>) -> Result<Var> {
    let map = Map::new(tape, w, b);
    let value = tape.timed("linear", || map.forward(x.value()))?;
    let saved = x.value().clone();
    let inputs: Vec<&Var> = [Some(x), Some(w), b].into_iter().flatten().collect();
    map.count(tape, "linear", x, &inputs);
    Ok(tape.record("linear", &inputs, value, move |gradient, inputs| {
        map.add_gradients(gradient.tensor(), &saved, 1, inputs)?;
        if inputs.wants(0) {
            inputs.add(0, map.grad_input(gradient.tensor())?)?;
        }
        Ok(())
    }))
}

/// See [`crate::engine::ops::linear_gelu::linear_gelu`].
pub fn linear_gelu(tape: &Tape, x: &Var, w: &Var, b: Option<&Var>) -> Result<Var> {
    let map = Map::new(tape, w, b);
    let (before, value) = tape.timed("linear_gelu", || {
        let before = map.forward(x.value())?;
        let value = activation::forward(Activation::Gelu, &before)?;
        Ok::<_, crate::Error>((before, value))
    })?;
    let saved = x.value().clone();
    let inputs: Vec<&Var> = [Some(x), Some(w), b].into_iter().flatten().collect();
    map.count(tape, "linear_gelu", x, &inputs);
    Ok(tape.record("linear_gelu", &inputs, value, move |gradient, inputs| {
        let dy = activation::backward(Activation::Gelu, &before, gradient.tensor())?;
        map.add_gradients(&dy, &saved, 1, inputs)?;
        if inputs.wants(0) {
            inputs.add(0, map.grad_input(&dy)?)?;
        }
        Ok(())
    }))
}

/// See [`crate::engine::ops::gelu_linear::gelu_linear`].
pub fn gelu_linear(tape: &Tape, h: &Var, w: &Var, b: Option<&Var>) -> Result<Var> {
    let map = Map::new(tape, w, b);
    let value =
        tape.timed("gelu_linear", || map.forward(&activation::operand(h.value(), map.precision)?))?;
    let saved = h.value().clone();
    let inputs: Vec<&Var> = [Some(h), Some(w), b].into_iter().flatten().collect();
    map.count(tape, "gelu_linear", h, &inputs);
    Ok(tape.record("gelu_linear", &inputs, value, move |gradient, inputs| {
        let dy = gradient.tensor();
        let made = activation::operand(&saved, map.precision)?;
        map.add_gradients(dy, &made, 1, inputs)?;
        drop(made);
        if inputs.wants(0) {
            let dmade = map.grad_input(dy)?;
            inputs.add(0, activation::backward(Activation::Gelu, &saved, &dmade)?)?;
        }
        Ok(())
    }))
}

/// See [`crate::engine::ops::norm_linear::norm_linear`].
pub fn norm_linear(tape: &Tape, x: &Var, norm: Norm<'_>, w: &Var, b: Option<&Var>) -> Result<Var> {
    let map = Map::new(tape, w, b);
    let affine = [Some(norm.weight.value()), Some(norm.bias.value())];
    let (value, normed) = tape.timed("norm_linear", || {
        let how = (norm.eps, map.precision);
        let (made, normed) = Normed::operand(x.value(), Centre::Mean, affine, how)?;
        Ok::<_, crate::Error>((map.forward(&made)?, normed))
    })?;
    let (weight, bias) = (norm.weight.value().clone(), norm.bias.value().clone());
    let (saved, how) = (x.value().clone(), (norm.eps, map.precision));
    let inputs: Vec<&Var> =
        [Some(x), Some(norm.weight), Some(norm.bias), Some(w), b].into_iter().flatten().collect();
    map.count(tape, "norm_linear", x, &inputs);
    Ok(tape.record("norm_linear", &inputs, value, move |gradient, inputs| {
        let dy = gradient.tensor();
        let affine = [Some(&weight), Some(&bias)];
        let (made, _) = Normed::operand(&saved, Centre::Mean, affine, how)?;
        map.add_gradients(dy, &made, 3, inputs)?;
        drop(made);
        let NormGradients { x, weight, bias } = normed.gradients(&map.grad_input(dy)?)?;
        inputs.add(0, x)?;
        inputs.add(1, weight)?;
        inputs.add(2, bias)
    }))
}

/// The map `x w^T + b` of the last dimension.
struct Map {
    precision: Precision,
    /// `[O, I]`.
    w: Tensor,
    b: Option<Tensor>,
}

impl Map {
    fn new(tape: &Tape, w: &Var, b: Option<&Var>) -> Self {
        let b = b.map(|b| b.value().clone());
        Self { precision: tape.precision(), w: w.value().clone(), b }
    }

    fn count(&self, tape: &Tape, name: &'static str, x: &Var, inputs: &[&Var]) {
        let products = if tape.records(inputs) { 3 } else { 1 };
        tape.count_flops(name, products * 2 * x.value().elem_count() * self.w.dims()[0]);
    }

    /// The rows of `x` `[..., W]` as a matrix.
    fn rows(x: &Tensor) -> Result<Tensor> {
        let width = x.dims()[x.rank() - 1];
        Ok(x.reshape((x.elem_count() / width.max(1), width))?)
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        shape[x.rank() - 1] = self.w.dims()[0];
        let y = product(&Self::rows(x)?, &self.w.t()?, self.precision)?;
        let y = match &self.b {
            Some(b) if cuda::fits(&y) => {
                cuda::activation::add_bias(&y, b)?;
                y
            }
            Some(b) => y.broadcast_add(b)?,
            None => y,
        };
        Ok(y.reshape(shape)?)
    }

    fn grad_input(&self, dy: &Tensor) -> Result<Tensor> {
        let mut shape = dy.dims().to_vec();
        shape[dy.rank() - 1] = self.w.dims()[1];
        Ok(product(&Self::rows(dy)?, &self.w, self.precision)?.reshape(shape)?)
    }

    /// Adds the gradient of w, which is input `place`, and of b, which is the next.
    fn add_gradients(
        &self,
        dy: &Tensor,
        x: &Tensor,
        place: usize,
        inputs: &mut Gradients<'_>,
    ) -> Result<()> {
        let dy = Self::rows(dy)?;
        if inputs.wants(place) {
            inputs.add(place, product(&dy.t()?, &Self::rows(x)?, self.precision)?)?;
        }
        if self.b.is_some() && inputs.wants(place + 1) {
            let sums = if cuda::fits(&dy) { cuda::norm::column_sums(&dy)? } else { dy.sum(0)? };
            inputs.add(place + 1, sums)?;
        }
        Ok(())
    }
}
