//! Rows scaled to length 1: `l2_normalize` and `weight_norm`.

use candle_core::Tensor;

use crate::Result;
use crate::engine::cuda;
use crate::engine::tape::{Tape, Var};

/// See [`crate::engine::ops::l2_normalize::l2_normalize`].
pub fn l2_normalize(tape: &Tape, x: &Var, dim: usize, eps: f64) -> Result<Var> {
    let last = x.dims().len() - 1;
    let rows = x.value().transpose(dim, last)?;
    if cuda::fits(&rows) {
        let [y, norms] = tape.timed("l2_normalize", || cuda::row::forward(&rows, None, eps))?;
        let value = y.transpose(dim, last)?;
        return Ok(tape.record("l2_normalize", &[x], value, move |gradient, inputs| {
            let dy = gradient.tensor().transpose(dim, last)?;
            let [dx, _] = cuda::row::backward(&rows, None, &norms, &dy, eps)?;
            inputs.add(0, dx.transpose(dim, last)?)
        }));
    }
    let made = tape.timed("l2_normalize", || Rows::new(&rows, eps))?;
    let value = made.unit.transpose(dim, last)?;
    Ok(tape.record("l2_normalize", &[x], value, move |gradient, inputs| {
        let dy = gradient.tensor().transpose(dim, last)?;
        inputs.add(0, made.gradient(&dy)?.transpose(dim, last)?)
    }))
}

/// See [`crate::engine::ops::weight_norm::weight_norm`].
pub fn weight_norm(tape: &Tape, v: &Var, g: Option<&Var>) -> Result<Var> {
    let rows = v.dims()[0];
    let flat = v.value().reshape((rows, v.value().elem_count() / rows.max(1)))?;
    let (v_dims, g_dims) = (v.dims().to_vec(), g.map(|g| g.dims().to_vec()));
    let inputs: Vec<&Var> = [Some(v), g].into_iter().flatten().collect();
    if cuda::fits(&flat) {
        let gain = g.map(|g| g.value().flatten_all()?.contiguous()).transpose()?;
        let [y, norms] =
            tape.timed("weight_norm", || cuda::row::forward(&flat, gain.as_ref(), 0.0))?;
        let value = y.reshape(v_dims.as_slice())?;
        return Ok(tape.record("weight_norm", &inputs, value, move |gradient, inputs| {
            let dy = gradient.tensor().reshape(flat.dims())?;
            let [dv, dg] = cuda::row::backward(&flat, gain.as_ref(), &norms, &dy, 0.0)?;
            inputs.add(0, dv.reshape(v_dims)?)?;
            g_dims.map_or(Ok(()), |dims| inputs.add(1, dg.reshape(dims)?))
        }));
    }
    let gain = g.map(|g| g.value().reshape((rows, 1))).transpose()?;
    let made = tape.timed("weight_norm", || Rows::new(&flat, 0.0))?;
    let value = match &gain {
        Some(gain) => made.unit.broadcast_mul(gain)?,
        None => made.unit.clone(),
    };
    let value = value.reshape(v_dims.as_slice())?;
    Ok(tape.record("weight_norm", &inputs, value, move |gradient, inputs| {
        let dy = gradient.tensor().reshape(flat.dims())?;
        if let Some(dims) = g_dims {
            inputs.add(1, (&dy * &made.unit)?.sum_keepdim(1)?.reshape(dims)?)?;
        }
        let scaled = match &gain {
            Some(gain) => dy.broadcast_mul(gain)?,
            None => dy,
        };
        inputs.add(0, made.gradient(&scaled)?.reshape(v_dims.as_slice())?)
    }))
}

/// Rows `x / max(norm, eps)` of the last dimension, and what their gradient needs.
struct Rows {
    unit: Tensor,
    /// max(norm, eps), with a last dimension of 1.
    length: Tensor,
    /// 1 where the length depends on the row, 0 where it is eps; none where eps is 0.
    moving: Option<Tensor>,
}

impl Rows {
    fn new(x: &Tensor, eps: f64) -> Result<Self> {
        let last = x.rank() - 1;
        let norm = x.sqr()?.sum_keepdim(last)?.sqrt()?;
        let (length, moving) = if eps > 0.0 {
            let moving = norm.ge(eps)?;
            let floor = norm.zeros_like()?.affine(1.0, eps)?;
            (moving.where_cond(&norm, &floor)?, Some(moving.to_dtype(x.dtype())?))
        } else {
            (norm, None)
        };
        Ok(Self { unit: x.broadcast_div(&length)?, length, moving })
    }

    /// `(dy - n (n . dy)) / norm`, or `dy / eps` where the row is shorter than eps.
    fn gradient(&self, dy: &Tensor) -> Result<Tensor> {
        let along = (dy * &self.unit)?.sum_keepdim(dy.rank() - 1)?;
        let along = match &self.moving {
            Some(moving) => (along * moving)?,
            None => along,
        };
        Ok((dy - self.unit.broadcast_mul(&along)?)?.broadcast_div(&self.length)?)
    }
}
