//! Layer norm and RMS norm.

use candle_core::{DType, Tensor};

use crate::Result;
use crate::engine::cuda;
use crate::engine::ops::layer_norm::Places;
use crate::engine::tape::{Gradients, Precision, Tape, Var};

/// See [`crate::engine::ops::layer_norm::layer_norm`].
pub fn layer_norm(tape: &Tape, x: &Var, w: Option<&Var>, b: Option<&Var>, eps: f64) -> Result<Var> {
    let affine = [w, b].map(|part| part.map(Var::value));
    let (value, normed) =
        tape.timed("layer_norm", || Normed::new(x.value(), Centre::Mean, affine, eps))?;
    // A bias without a weight stands in the weight's place.
    let places = Places { weight: w.map(|_| 1), bias: b.map(|_| 1 + usize::from(w.is_some())) };
    let inputs: Vec<&Var> = [Some(x), w, b].into_iter().flatten().collect();
    Ok(tape.record("layer_norm", &inputs, value, move |gradient, inputs| {
        normed.add_gradients(gradient.tensor(), places, inputs)
    }))
}

/// See [`crate::engine::ops::rms_norm::rms_norm`].
pub fn rms_norm(tape: &Tape, x: &Var, w: Option<&Var>, eps: f64) -> Result<Var> {
    let affine = [w.map(Var::value), None];
    let (value, normed) =
        tape.timed("rms_norm", || Normed::new(x.value(), Centre::Zero, affine, eps))?;
    let places = Places { weight: w.map(|_| 1), bias: None };
    let inputs: Vec<&Var> = [Some(x), w].into_iter().flatten().collect();
    Ok(tape.record("rms_norm", &inputs, value, move |gradient, inputs| {
        normed.add_gradients(gradient.tensor(), places, inputs)
    }))
}

/// What a norm measures distances from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Centre {
    /// The mean: layer norm.
    Mean,
    /// Zero: RMS norm.
    Zero,
}

/// What the backward pass of a norm needs.
#[derive(Debug)]
pub struct Normed {
    x: Tensor,
    weight: Option<Tensor>,
    centre: Centre,
    /// `[..., 1]`; none or zeros where the centre is zero.
    mean: Option<Tensor>,
    /// 1 / sqrt(var + eps), `[..., 1]`.
    rstd: Tensor,
}

/// Gradients of a norm: of x, of its weight, of its bias.
#[derive(Debug)]
pub struct NormGradients {
    /// In the shape of x.
    pub x: Tensor,
    /// `[D]`.
    pub weight: Tensor,
    /// `[D]`.
    pub bias: Tensor,
}

impl Normed {
    /// The norm of the last dimension of x, times the weight, plus the bias.
    pub fn new(
        x: &Tensor,
        centre: Centre,
        [weight, bias]: [Option<&Tensor>; 2],
        eps: f64,
    ) -> Result<(Tensor, Self)> {
        Self::in_type(x, centre, [weight, bias], eps, x.dtype())
    }

    /// The same with a result in bf16, where the device's kernel makes it; else in the type of x.
    pub fn operand(
        x: &Tensor,
        centre: Centre,
        affine: [Option<&Tensor>; 2],
        (eps, precision): (f64, Precision),
    ) -> Result<(Tensor, Self)> {
        let operand = precision == Precision::Bf16 && cuda::takes_operands(x);
        Self::in_type(x, centre, affine, eps, if operand { DType::BF16 } else { x.dtype() })
    }

    fn in_type(
        x: &Tensor,
        centre: Centre,
        [weight, bias]: [Option<&Tensor>; 2],
        eps: f64,
        dtype: DType,
    ) -> Result<(Tensor, Self)> {
        if cuda::fits(x) {
            let how = (centre == Centre::Mean, eps);
            let made = cuda::norm::forward(x, [weight, bias], how, dtype)?;
            let (x, weight, mean) = (x.clone(), weight.cloned(), Some(made.mean));
            return Ok((made.y, Self { x, weight, centre, mean, rstd: made.rstd }));
        }
        let last = x.rank() - 1;
        let (centred, mean) = match centre {
            Centre::Mean => {
                let mean = x.mean_keepdim(last)?;
                (x.broadcast_sub(&mean)?, Some(mean))
            }
            Centre::Zero => (x.clone(), None),
        };
        let rstd = centred.sqr()?.mean_keepdim(last)?.affine(1.0, eps)?.sqrt()?.recip()?;
        let mut y = centred.broadcast_mul(&rstd)?;
        if let Some(weight) = weight {
            y = y.broadcast_mul(weight)?;
        }
        if let Some(bias) = bias {
            y = y.broadcast_add(bias)?;
        }
        Ok((y, Self { x: x.clone(), weight: weight.cloned(), centre, mean, rstd }))
    }

    /// (x - mean) rstd.
    ///
    /// # Errors
    /// None but the device's own.
    pub fn unit(&self) -> Result<Tensor> {
        let centred = match &self.mean {
            Some(mean) => self.x.broadcast_sub(mean)?,
            None => self.x.clone(),
        };
        Ok(centred.broadcast_mul(&self.rstd)?)
    }

    /// The gradients, from that of the result.
    ///
    /// With n = (x - mean) rstd and d = dy w: `dx = rstd (d - mean(d) - n mean(d n))`, without the middle
    /// term where the centre is zero.
    pub fn gradients(&self, dy: &Tensor) -> Result<NormGradients> {
        let x = self.grad_input(dy)?;
        if let (true, Some(mean)) = (cuda::fits(dy), &self.mean) {
            let [weight, bias] = cuda::norm::grad_affine(&self.x, [mean, &self.rstd], dy)?;
            return Ok(NormGradients { x, weight, bias });
        }
        let width = self.x.dims()[self.x.rank() - 1];
        let columns = |t: &Tensor| Ok::<_, crate::Error>(t.reshape(((), width))?.sum(0)?);
        let (weight, bias) = (columns(&(dy * self.unit()?)?)?, columns(dy)?);
        Ok(NormGradients { x, weight, bias })
    }

    /// The gradient of x alone.
    ///
    /// # Errors
    /// None but the device's own.
    pub fn grad_input(&self, dy: &Tensor) -> Result<Tensor> {
        if let (true, Some(mean)) = (cuda::fits(dy), &self.mean) {
            let (weight, centred) = (self.weight.as_ref(), self.centre == Centre::Mean);
            let saved = [mean, &self.rstd];
            return cuda::norm::grad_input(&self.x, weight, saved, dy, centred);
        }
        let last = self.x.rank() - 1;
        let normed = self.unit()?;
        let d = match &self.weight {
            Some(weight) => dy.broadcast_mul(weight)?,
            None => dy.clone(),
        };
        let along = (&d * &normed)?.mean_keepdim(last)?;
        let mut x = (&d - normed.broadcast_mul(&along)?)?;
        if self.centre == Centre::Mean {
            x = x.broadcast_sub(&d.mean_keepdim(last)?)?;
        }
        Ok(x.broadcast_mul(&self.rstd)?)
    }

    fn add_gradients(&self, dy: &Tensor, places: Places, inputs: &mut Gradients<'_>) -> Result<()> {
        let NormGradients { x, weight, bias } = self.gradients(dy)?;
        inputs.add(0, x)?;
        for (place, sum) in [(places.weight, weight), (places.bias, bias)] {
            if let Some(place) = place {
                inputs.add(place, sum)?;
            }
        }
        Ok(())
    }
}
