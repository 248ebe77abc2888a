//! Optimisers: one pass over each parameter, in place, with the state that a checkpoint keeps.

use std::cell::RefCell;

use candle_core::Tensor;
use rayon::prelude::*;

use super::on_device::{Measured, Moments};
use crate::engine::storage;
use crate::state::{Group, ParamId, State};
use crate::{Error, Result};

/// Elements that one thread handles at a time; fixed, so that results don't depend on threads.
const CHUNK: usize = 16 * 1024;

/// The rule that turns gradients into updates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// AdamW (Loshchilov and Hutter 2019): weight decay apart from the gradient.
    AdamW {
        /// Decay rates of the first and second moment.
        betas: (f64, f64),
        /// Added to the root of the second moment.
        eps: f64,
    },
    /// SGD with momentum; weight decay is added to the gradient, as in PyTorch.
    Sgd {
        /// The share of the last update that is kept.
        momentum: f64,
    },
    /// SGD whose gradients are scaled by layer (You et al. 2017; NVIDIA's LARC): weight decay is added to the
    /// gradient, which is then multiplied by `trust |p| / (|g| + decay |p| + 1e-8)`.
    Larc {
        /// The share of the last update that is kept.
        momentum: f64,
        /// The largest change of a tensor, as a share of its norm, at a learning rate of 1.
        trust: f64,
        /// Whether the factor is also divided by the learning rate and cut at 1, so that it only lowers rates.
        clip: bool,
        /// Whether tensors of one dimension are scaled too; else plain SGD moves them.
        vectors: bool,
    },
}

/// Added to what LARC divides by.
pub(super) const LARC_EPS: f64 = 1e-8;

/// The numbers of one update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Learning rate.
    pub lr: f64,
    /// Weight decay, for parameters whose group takes it.
    pub weight_decay: f64,
}

impl Rates {
    /// What they are for the parameters of `group`.
    pub(super) fn of(self, group: Group) -> Self {
        Self {
            lr: self.lr * group.lr_multiplier,
            weight_decay: if group.weight_decay { self.weight_decay } else { 0.0 },
        }
    }
}

/// An optimiser and its moments.
#[derive(Debug)]
pub struct Optimizer {
    rule: Rule,
    /// First and second moment of each parameter of the state; empty where it never got an update.
    moments: Vec<[Vec<f32>; 2]>,
    /// How many updates each parameter got: Adam corrects its bias by them.
    counts: Vec<u64>,
    /// Where parameters live on a device: the moments, there.
    on_device: Moments,
}

impl Optimizer {
    /// An optimiser for the parameters of `state`.
    pub fn new(rule: Rule, state: &State) -> Self {
        let n = state.parameters().len();
        Self {
            rule,
            moments: (0..n).map(|_| [Vec::new(), Vec::new()]).collect(),
            counts: vec![0; n],
            on_device: Moments::default(),
        }
    }

    /// Enqueues the updates of parameters that live on a device, by their `gradients` as `measured`.
    pub(super) fn step_on_device(
        &mut self,
        state: &State,
        gradients: &[(ParamId, Tensor)],
        measured: &Measured,
        rates: Rates,
    ) -> Result<()> {
        for (id, _) in gradients {
            self.counts[id.0] += 1;
        }
        self.on_device.step(state, gradients, measured, (self.rule, rates, &self.counts))
    }

    /// Takes back that the parameters of `gradients` were updated: a gate on their device kept them.
    pub(super) fn forget(&mut self, gradients: &[(ParamId, Tensor)]) {
        for (id, _) in gradients {
            self.counts[id.0] -= 1;
        }
    }

    /// Updates the parameters in place by their `gradients`.
    pub fn step(
        &mut self,
        state: &State,
        gradients: &[(ParamId, Tensor)],
        rates: Rates,
    ) -> Result<()> {
        for (id, gradient) in gradients {
            self.update(state, *id, gradient, rates)?;
        }
        Ok(())
    }

    fn update(
        &mut self,
        state: &State,
        id: ParamId,
        gradient: &Tensor,
        rates: Rates,
    ) -> Result<()> {
        let parameter = state.get(id);
        let rates = rates.of(parameter.group);
        let scale = self.scale(&parameter.value, gradient, rates)?;
        self.counts[id.0] += 1;
        let n = parameter.value.elem_count();
        let [first, second] = &mut self.moments[id.0];
        first.resize(n, 0.0);
        if matches!(self.rule, Rule::AdamW { .. }) {
            second.resize(n, 0.0);
        }
        let moments = RefCell::new((first.as_mut_slice(), second.as_mut_slice()));
        let (rule, count) = (self.rule, self.counts[id.0]);
        storage::update::<f32>(&parameter.value, gradient, |values, gradient| {
            let (first, second) = &mut *moments.borrow_mut();
            match rule {
                Rule::AdamW { betas, eps } => {
                    adamw(values, gradient, first, second, &Adam::new(betas, eps, count, rates));
                }
                Rule::Sgd { momentum } | Rule::Larc { momentum, .. } => {
                    sgd((values, first), gradient, (momentum, scale), count, rates);
                }
            }
        })
    }

    /// What LARC multiplies the gradient of `value` by; 1 for other rules, and where value or gradient is 0.
    fn scale(&self, value: &Tensor, gradient: &Tensor, rates: Rates) -> Result<f64> {
        let Rule::Larc { trust, clip, vectors, .. } = self.rule else { return Ok(1.0) };
        if !vectors && value.rank() <= 1 {
            return Ok(1.0);
        }
        let norm = |tensor: &Tensor| storage::read::<f32, _>(tensor, squared_norm).map(f64::sqrt);
        let (size, slope) = (norm(value)?, norm(gradient)?);
        if size == 0.0 || slope == 0.0 {
            return Ok(1.0);
        }
        let rate = trust * size / (slope + rates.weight_decay * size + LARC_EPS);
        Ok(if clip { (rate / rates.lr).min(1.0) } else { rate })
    }

    /// The state that a checkpoint keeps: `(name, tensor)` of every moment in use, and counts.
    pub fn export(&self, state: &State) -> Result<Vec<(String, Tensor)>> {
        let mut tensors = Vec::new();
        for (i, parameter) in state.parameters().iter().enumerate() {
            let there = self.on_device.get(i);
            let moments = ["first", "second"].iter().zip(&self.moments[i]).zip(there);
            for ((moment, values), there) in moments {
                let tensor = match there {
                    Some(there) => there.clone(),
                    None if values.is_empty() => continue,
                    None => storage::tensor(values.clone(), parameter.value.dims())?,
                };
                tensors.push((format!("{}.{moment}", parameter.name), tensor));
            }
        }
        let counts: Vec<i64> = self.counts.iter().map(|count| *count as i64).collect();
        tensors.push(("updates".to_owned(), storage::tensor(counts, self.counts.len())?));
        Ok(tensors)
    }

    /// Takes back what [`Optimizer::export`] gave, for the same parameters.
    pub fn import(&mut self, state: &State, tensors: &[(String, Tensor)]) -> Result<()> {
        for (name, tensor) in tensors {
            if name == "updates" {
                let counts = tensor.to_vec1::<i64>()?;
                if counts.len() != self.counts.len() {
                    return Err(Error::failed("the checkpoint has other parameters than the run"));
                }
                self.counts = counts.iter().map(|count| *count as u64).collect();
                continue;
            }
            let (parameter, moment) = name.rsplit_once('.').unwrap_or((name, ""));
            let place = match moment {
                "first" => 0,
                "second" => 1,
                _ => return Err(Error::failed(format!("unknown moment `{name}` in a checkpoint"))),
            };
            let Some(id) = state.find(parameter) else {
                return Err(Error::failed(format!("the run has no parameter `{parameter}`")));
            };
            if state.device().is_cpu() {
                self.moments[id.0][place] = storage::to_f32(tensor)?;
            } else {
                self.on_device.set(state, id, place, tensor)?;
            }
        }
        Ok(())
    }
}

/// The constants of one `AdamW` update, computed once per parameter in f64.
struct Adam {
    betas: (f32, f32),
    keep: f32,
    step_size: f32,
    second_scale: f32,
    eps: f32,
}

impl Adam {
    fn new(betas: (f64, f64), eps: f64, count: u64, rates: Rates) -> Self {
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        Self {
            betas: (betas.0 as f32, betas.1 as f32),
            keep: (1.0 - rates.lr * rates.weight_decay) as f32,
            step_size: (rates.lr / (1.0 - betas.0.powi(count))) as f32,
            second_scale: (1.0 / (1.0 - betas.1.powi(count)).sqrt()) as f32,
            eps: eps as f32,
        }
    }
}

fn adamw(values: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32], c: &Adam) {
    values
        .par_chunks_mut(CHUNK)
        .zip(gradient.par_chunks(CHUNK))
        .zip(first.par_chunks_mut(CHUNK))
        .zip(second.par_chunks_mut(CHUNK))
        .for_each(|(((values, gradient), first), second)| {
            for (((p, g), m), v) in values.iter_mut().zip(gradient).zip(first).zip(second) {
                *m += (1.0 - c.betas.0) * (g - *m);
                *v = c.betas.1 * *v + (1.0 - c.betas.1) * g * g;
                *p = *p * c.keep - c.step_size * *m / (v.sqrt() * c.second_scale + c.eps);
            }
        });
}

fn sgd(
    (values, velocity): (&mut [f32], &mut [f32]),
    gradient: &[f32],
    (momentum, scale): (f64, f64),
    count: u64,
    rates: Rates,
) {
    // PyTorch starts the velocity as the first gradient, not as (1 - momentum) of it.
    let momentum = if count == 1 { 0.0 } else { momentum as f32 };
    let (lr, decay, scale) = (rates.lr as f32, rates.weight_decay as f32, scale as f32);
    values
        .par_chunks_mut(CHUNK)
        .zip(gradient.par_chunks(CHUNK))
        .zip(velocity.par_chunks_mut(CHUNK))
        .for_each(|((values, gradient), velocity)| {
            for ((p, g), m) in values.iter_mut().zip(gradient).zip(velocity) {
                *m = momentum * *m + scale * (g + decay * *p);
                *p -= lr * *m;
            }
        });
}

/// How gradients are clipped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clip {
    /// Not at all.
    Off,
    /// Each tensor to its own norm, as DINO's authors do.
    Tensor(f64),
    /// All tensors together, as PyTorch's `clip_grad_norm_`.
    Global(f64),
}

/// Clips `gradients` in place and returns their norm before that.
///
/// # Errors
/// When a gradient holds a NaN or an infinity; the error names the first such parameter.
pub fn clip(state: &State, gradients: &mut [(ParamId, Tensor)], mode: Clip) -> Result<f64> {
    let mut norms = Vec::with_capacity(gradients.len());
    for (id, gradient) in gradients.iter() {
        let norm = storage::read::<f32, _>(gradient, squared_norm)?.sqrt();
        if !norm.is_finite() {
            let name = &state.get(*id).name;
            return Err(Error::diverged(format!("the gradient of `{name}` is not finite")));
        }
        norms.push(norm);
    }
    let total = norms.iter().map(|norm| norm * norm).sum::<f64>().sqrt();
    for ((_, gradient), norm) in gradients.iter_mut().zip(&norms) {
        // The 1e-6 is the authors': it keeps a zero gradient from dividing by zero.
        let factor = match mode {
            Clip::Off => 1.0,
            Clip::Tensor(limit) => limit / (norm + 1e-6),
            Clip::Global(limit) => limit / (total + 1e-6),
        };
        if factor < 1.0 {
            *gradient = gradient.affine(factor, 0.0)?;
        }
    }
    Ok(total)
}

/// The sum of squares, in f64, in fixed chunks; NaN or infinite where an element is.
fn squared_norm(elements: &[f32]) -> f64 {
    let partial: Vec<f64> = elements
        .par_chunks(CHUNK)
        .map(|chunk| chunk.iter().map(|x| f64::from(*x) * f64::from(*x)).sum())
        .collect();
    partial.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;
    use crate::state::{Group, Init};
    use crate::train::on_device::measure;
    use candle_core::{DType, Device};

    fn one_parameter(start: f64) -> (State, ParamId) {
        let mut state = State::new(0);
        let id = state.parameter("w", &[1], Init::Constant(start), Group::default()).unwrap();
        (state, id)
    }

    fn gradient(id: ParamId, value: f32) -> Vec<(ParamId, Tensor)> {
        vec![(id, Tensor::new(&[value], &Device::Cpu).unwrap())]
    }

    fn value(state: &State, id: ParamId) -> f64 {
        storage::scalar(&state.get(id).value).unwrap()
    }

    #[test]
    fn the_first_step_of_adamw_moves_by_the_learning_rate_after_decay() {
        let (state, id) = one_parameter(1.0);
        let mut optimizer = Optimizer::new(Rule::AdamW { betas: (0.9, 0.999), eps: 1e-8 }, &state);
        let rates = Rates { lr: 0.1, weight_decay: 0.5 };
        optimizer.step(&state, &gradient(id, 3.0), rates).unwrap();
        assert!((value(&state, id) - (0.95 - 0.1)).abs() < 1e-6);
    }

    #[test]
    fn sgd_keeps_a_share_of_its_last_update() {
        let (state, id) = one_parameter(0.0);
        let mut optimizer = Optimizer::new(Rule::Sgd { momentum: 0.5 }, &state);
        let rates = Rates { lr: 1.0, weight_decay: 0.0 };
        optimizer.step(&state, &gradient(id, 1.0), rates).unwrap();
        optimizer.step(&state, &gradient(id, 1.0), rates).unwrap();
        assert!((value(&state, id) + 2.5).abs() < 1e-6);
    }

    #[test]
    fn an_optimiser_taken_back_from_its_export_goes_on_equally() {
        let rule = Rule::AdamW { betas: (0.9, 0.999), eps: 1e-8 };
        let rates = Rates { lr: 0.1, weight_decay: 0.0 };
        let (state, id) = one_parameter(1.0);
        let mut first = Optimizer::new(rule, &state);
        first.step(&state, &gradient(id, 1.0), rates).unwrap();
        let mut second = Optimizer::new(rule, &state);
        second.import(&state, &first.export(&state).unwrap()).unwrap();
        let before = state.get(id).value.copy().unwrap();
        first.step(&state, &gradient(id, -2.0), rates).unwrap();
        let expected = value(&state, id);
        state.clone_value_for_test(id, &before);
        second.step(&state, &gradient(id, -2.0), rates).unwrap();
        assert_eq!(value(&state, id), expected);
    }

    #[test]
    fn larc_steps_on_a_device_as_on_the_cpu() {
        let start = |seed| {
            let mut state = State::new(seed);
            let init = Init::Normal { std: 0.5 };
            let zero = Init::Constant(0.0);
            let ids = [
                state.parameter("w", &[3, 2], init, Group::default()).unwrap(),
                state.parameter("b", &[3], init, Group::default()).unwrap(),
                state.parameter("z", &[2, 1], zero, Group::default()).unwrap(),
            ];
            (state, ids)
        };
        let slope = |shape: &[usize]| {
            crate::engine::op::random_tensor(&mut Stream::new(4, "larc", 0, 0), shape).unwrap()
        };
        for (clip, vectors) in [(true, false), (false, true)] {
            let rule = Rule::Larc { momentum: 0.9, trust: 0.02, clip, vectors };
            let ((own, ids), (there, _)) = (start(1), start(1));
            let mut optimizers = [Optimizer::new(rule, &own), Optimizer::new(rule, &there)];
            let rates = Rates { lr: 0.1, weight_decay: 0.01 };
            for _ in 0..2 {
                let of = |id: &ParamId| slope(own.get(*id).value.dims());
                let gradients = ids.iter().map(|id| (*id, of(id).to_dtype(DType::F32).unwrap()));
                let gradients: Vec<(ParamId, Tensor)> = gradients.collect();
                optimizers[0].step(&own, &gradients, rates).unwrap();
                let measured = measure(&gradients, &[], Clip::Off).unwrap();
                optimizers[1].step_on_device(&there, &gradients, &measured, rates).unwrap();
            }
            for id in ids {
                let of = |state: &State| storage::to_f64(&state.get(id).value).unwrap();
                let pairs = of(&own).into_iter().zip(of(&there));
                assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-6), "{clip} {}", id.0);
            }
        }
    }

    impl State {
        fn clone_value_for_test(&self, id: ParamId, value: &Tensor) {
            storage::update::<f32>(&self.get(id).value, value, |to, from| to.copy_from_slice(from))
                .unwrap();
        }
    }

    #[test]
    fn clipping_per_tensor_and_global_differ() {
        let mut state = State::new(0);
        let zero = Init::Constant(0.0);
        let a = state.parameter("a", &[1], zero, Group::default()).unwrap();
        let b = state.parameter("b", &[1], zero, Group::default()).unwrap();
        let both = || [gradient(a, 6.0), gradient(b, 8.0)].concat();
        let values = |gradients: &[(ParamId, Tensor)]| -> Vec<f64> {
            gradients.iter().map(|(_, g)| storage::scalar(g).unwrap()).collect()
        };
        let mut clipped = both();
        assert!((clip(&state, &mut clipped, Clip::Tensor(3.0)).unwrap() - 10.0).abs() < 1e-9);
        assert!(values(&clipped).iter().all(|g| (g - 3.0).abs() < 1e-5));
        let mut clipped = both();
        clip(&state, &mut clipped, Clip::Global(5.0)).unwrap();
        assert!((values(&clipped)[0] - 3.0).abs() < 1e-5);
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_named() {
        let (state, id) = one_parameter(0.0);
        let error = clip(&state, &mut gradient(id, f32::NAN), Clip::Off).unwrap_err();
        assert!(error.to_string().contains("`w`"));
    }
}
