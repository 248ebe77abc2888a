//! The end of a step whose parameters live on a device: norms, clipping, update and averages are
//! enqueued, and its numbers come back to the host together.

use candle_core::{Device, Tensor};

use super::optimizer::{Clip, LARC_EPS, Rates, Rule};
use crate::engine::cuda::upload::upload;
use crate::engine::kernel::optimizer::{AdamW, Sgd};
use crate::engine::portable::update::{self, Adam, Allowed, Momentum};
use crate::state::{ParamId, State};
use crate::{Error, Result};

/// Gradients measured on their device.
#[derive(Debug)]
pub(super) struct Measured {
    /// The norm of each gradient, `[n]`.
    norms: Tensor,
    /// That of all together, `[1]`.
    total: Tensor,
    /// What clipping multiplies each by, `[n]`.
    factors: Tensor,
    /// u8 `[1]`: 1 where losses and gradients are finite, so that parameters may be updated.
    pub(super) gate: Tensor,
}

impl Measured {
    /// What [`checked`] wants read back.
    pub(super) fn numbers(&self) -> [Tensor; 3] {
        [self.norms.clone(), self.total.clone(), self.gate.clone()]
    }
}

/// The norm of all gradients, of what [`Measured::numbers`] came to on the host.
///
/// # Errors
/// When the gate was shut, so that nothing was updated; where a gradient holds a NaN or an infinity, the error names
/// the first such parameter.
pub(super) fn checked(state: &State, gradients: &[(ParamId, Tensor)], read: &[f64]) -> Result<f64> {
    let [norms @ .., total, gate] = read else { return Err(Error::failed("nothing was read")) };
    if let Some(((id, _), _)) = gradients.iter().zip(norms).find(|(_, norm)| !norm.is_finite()) {
        let name = &state.get(*id).name;
        return Err(Error::diverged(format!("the gradient of `{name}` is not finite")));
    }
    if *gate != 1.0 {
        let why = "losses and gradients are finite one by one and too large for f32 together";
        return Err(Error::diverged(format!("nothing was updated: {why}")));
    }
    Ok(*total)
}

/// The norms of `gradients`, the factors by which `mode` clips them, and whether they and `losses` are
/// finite; nothing is read back.
pub(super) fn measure(
    gradients: &[(ParamId, Tensor)],
    losses: &[Tensor],
    mode: Clip,
) -> Result<Measured> {
    let tensors: Vec<&Tensor> = gradients.iter().map(|(_, gradient)| gradient).collect();
    if tensors.is_empty() {
        return Err(Error::failed("no parameter of the student got a gradient")
            .hint("unfreeze some, or check that the loss depends on the student's output"));
    }
    let squares = update::squares(&tensors)?;
    let (norms, total) = (squares.sqrt()?, squares.sum_all()?.sqrt()?.reshape(1)?);
    // The 1e-6 is the authors': it keeps a zero gradient from dividing by zero.
    let factors = |norms: &Tensor, limit: f64| -> Result<Tensor> {
        Ok(norms.affine(1.0, 1e-6)?.recip()?.affine(limit, 0.0)?.minimum(1.0)?)
    };
    let factors = match mode {
        Clip::Off => norms.ones_like()?,
        Clip::Tensor(limit) => factors(&norms, limit)?,
        Clip::Global(limit) => factors(&total, limit)?.broadcast_as(norms.shape())?.contiguous()?,
    };
    let mut sum = total.clone();
    for loss in losses {
        sum = (sum + loss.flatten_all()?.to_dtype(total.dtype())?)?;
    }
    Ok(Measured { norms, gate: update::gate(&sum)?, total, factors })
}

/// What LARC multiplies the slope of each parameter by, `[n]`: see `Optimizer::scale`; none for other rules.
fn larc_scales(
    state: &State,
    gradients: &[(ParamId, Tensor)],
    measured: &Measured,
    (rule, rates): (Rule, Rates),
) -> Result<Option<Tensor>> {
    let Rule::Larc { trust, clip, vectors, .. } = rule else { return Ok(None) };
    let (values, n) = (gradients.iter().map(|(id, _)| &state.get(*id).value), gradients.len());
    let rates = gradients.iter().map(|(id, _)| rates.of(state.get(*id).group));
    let (lrs, decays): (Vec<f32>, Vec<f32>) =
        rates.map(|rates| (rates.lr as f32, rates.weight_decay as f32)).unzip();
    let scaled = values.clone().map(|value| if vectors || value.rank() > 1 { 1.0 } else { 0.0 });
    let sent = Tensor::from_vec([lrs, decays, scaled.collect()].concat(), (3, n), &Device::Cpu)?;
    let sent = upload(&sent, state.device())?;
    let [lrs, decays, scaled] = [sent.get(0)?, sent.get(1)?, sent.get(2)?];
    let size = update::squares(&values.collect::<Vec<_>>())?.sqrt()?;
    let slope = (&measured.norms * &measured.factors)?;
    let least = (&slope + (&size * decays)?)?.affine(1.0, LARC_EPS)?;
    let rate = (size.affine(trust, 0.0)? / least)?;
    let rate = if clip { (rate / lrs)?.minimum(1.0)? } else { rate };
    let moves = ((size.gt(0.0)? * slope.gt(0.0)?)? * scaled.gt(0.0)?)?;
    Ok(Some(moves.where_cond(&rate, &rate.ones_like()?)?))
}

/// The moments of each parameter, on its device; none where it never got an update.
#[derive(Debug, Default)]
pub(super) struct Moments(Vec<[Option<Tensor>; 2]>);

impl Moments {
    /// Updates the parameters by their `gradients`. `counts` holds how many updates each parameter got,
    /// with this one.
    pub(super) fn step(
        &mut self,
        state: &State,
        gradients: &[(ParamId, Tensor)],
        measured: &Measured,
        (rule, rates, counts): (Rule, Rates, &[u64]),
    ) -> Result<()> {
        self.0.resize(state.parameters().len(), [None, None]);
        for (id, _) in gradients {
            let used = if matches!(rule, Rule::AdamW { .. }) { 2 } else { 1 };
            for moment in self.0[id.0].iter_mut().take(used).filter(|moment| moment.is_none()) {
                *moment = Some(state.get(*id).value.zeros_like()?);
            }
        }
        let allowed = Allowed { factors: &measured.factors, gate: &measured.gate };
        let all = gradients.iter().map(|(id, gradient)| {
            let rates = rates.of(state.get(*id).group);
            (&state.get(*id).value, gradient, self.get(id.0), rates, counts[id.0])
        });
        let scales = larc_scales(state, gradients, measured, (rule, rates))?;
        match rule {
            Rule::AdamW { betas, eps } => {
                let steps = all.filter_map(|(value, gradient, moments, rates, count)| {
                    let moments = [moments[0]?, moments[1]?];
                    let constants = AdamW::new(rates.lr, rates.weight_decay, betas, eps, count);
                    Some(Adam { value, gradient, moments, constants })
                });
                update::adamw(&steps.collect::<Vec<_>>(), allowed)
            }
            Rule::Sgd { momentum } | Rule::Larc { momentum, .. } => {
                let steps = all.filter_map(|(value, gradient, moments, rates, count)| {
                    let constants = Sgd {
                        lr: rates.lr as f32,
                        decay: rates.weight_decay as f32,
                        // PyTorch starts the velocity as the first gradient.
                        momentum: if count == 1 { 0.0 } else { momentum as f32 },
                        gradient_scale: 1.0,
                    };
                    Some(Momentum { value, gradient, velocity: moments[0]?, constants })
                });
                update::sgd(&steps.collect::<Vec<_>>(), scales.as_ref(), allowed)
            }
        }
    }

    /// The moments of parameter `index`.
    pub(super) fn get(&self, index: usize) -> [Option<&Tensor>; 2] {
        self.0.get(index).map_or([None, None], |pair| pair.each_ref().map(Option::as_ref))
    }

    /// Sets moment `place` of parameter `id`.
    pub(super) fn set(
        &mut self,
        state: &State,
        id: ParamId,
        place: usize,
        value: &Tensor,
    ) -> Result<()> {
        self.0.resize(state.parameters().len(), [None, None]);
        self.0[id.0][place] = Some(value.to_device(state.device())?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Group, Init};

    /// What [`checked`] says of a gradient for each of `norms`, and of `losses`.
    fn said(norms: &[f32], losses: &[f32]) -> Result<f64> {
        let mut state = State::new(0);
        let tensor = |x: &f32| Tensor::new(&[*x], &Device::Cpu).unwrap();
        let mut gradients = Vec::new();
        for (i, norm) in norms.iter().enumerate() {
            let name = format!("w{i}");
            let id = state.parameter(&name, &[1], Init::Constant(0.0), Group::default()).unwrap();
            gradients.push((id, tensor(norm)));
        }
        let losses: Vec<Tensor> = losses.iter().map(tensor).collect();
        let measured = measure(&gradients, &losses, Clip::Off).unwrap();
        checked(&state, &gradients, &update::read(&measured.numbers()).unwrap())
    }

    #[test]
    fn a_step_that_the_gate_kept_back_is_an_error() {
        assert_eq!(said(&[3.0, 4.0], &[1.0]).unwrap(), 5.0);
        let error = said(&[3.0, f32::NAN], &[1.0]).unwrap_err().to_string();
        assert!(error.contains("the gradient of `w1` is not finite"), "{error}");
        // Each square is below the largest number of f32, and their sum is not; so with the losses.
        for (norms, losses) in [([1.5e19, 1.5e19], [1.0, 1.0]), ([3.0, 4.0], [3e38, 3e38])] {
            let error = said(&norms, &losses).unwrap_err().to_string();
            assert!(error.contains("nothing was updated"), "{error}");
        }
    }
}
