//! Updates of parameters that live on a device: norms, steps of optimisers, averages. All in f32, in place,
//! and without a word back to the host: where a number is not finite, a gate on the device keeps everything
//! as it was.

use candle_core::{DType, Tensor};

use crate::Result;
use crate::engine::cuda::{self, update::Item};
use crate::engine::kernel::optimizer::{AdamW, Sgd};
use crate::engine::storage;

/// The sum of squares of each of `tensors`, `[n]`.
///
/// # Errors
/// None but the device's own.
pub fn squares(tensors: &[&Tensor]) -> Result<Tensor> {
    if tensors.iter().all(|tensor| cuda::fits(tensor)) {
        return cuda::update::squares(tensors);
    }
    let sums = tensors.iter().map(|x| x.flatten_all()?.sqr()?.sum_all());
    Ok(Tensor::stack(&sums.collect::<candle_core::Result<Vec<_>>>()?, 0)?)
}

/// 1 where `number` (one element) is finite, else 0, u8 `[1]`.
///
/// # Errors
/// None but the device's own.
pub fn gate(number: &Tensor) -> Result<Tensor> {
    // Only an infinity and NaN are not 0 when multiplied by 0.
    Ok(number.flatten_all()?.affine(0.0, 0.0)?.eq(0.0)?)
}

/// What clipping multiplies each gradient by, `[n]`, and whether anything is changed at all.
#[derive(Clone, Copy, Debug)]
pub struct Allowed<'a> {
    /// One factor for each gradient, `[n]`.
    pub factors: &'a Tensor,
    /// u8 `[1]`: 0 keeps everything as it was.
    pub gate: &'a Tensor,
}

impl Allowed<'_> {
    /// Gradient number `i`, clipped.
    fn clipped(&self, i: usize, gradient: &Tensor) -> Result<Tensor> {
        Ok(gradient.broadcast_mul(&self.factors.narrow(0, i, 1)?)?)
    }
}

/// A parameter, its gradient and two moments, of one shape, and the numbers of its step.
#[derive(Clone, Copy, Debug)]
pub struct Adam<'a> {
    /// The parameter.
    pub value: &'a Tensor,
    /// Its gradient.
    pub gradient: &'a Tensor,
    /// Its moments.
    pub moments: [&'a Tensor; 2],
    /// The numbers.
    pub constants: AdamW,
}

/// See [`crate::engine::kernel::optimizer::adamw`]; every step has the same betas and eps.
///
/// # Errors
/// When shapes differ.
pub fn adamw<'a>(steps: &[Adam<'a>], allowed: Allowed<'_>) -> Result<()> {
    let Some(one) = steps.first() else { return Ok(()) };
    if cuda::fits(one.value) {
        let item = |step: &Adam<'a>| Item {
            value: step.value,
            gradient: step.gradient,
            moments: step.moments.map(Some),
            constants: [step.constants.keep, step.constants.step, step.constants.second_scale],
        };
        let items: Vec<Item<'a>> = steps.iter().map(item).collect();
        let AdamW { betas: [beta1, beta2], eps, .. } = one.constants;
        return cuda::update::adamw(&items, allowed.factors, allowed.gate, [beta1, beta2, eps]);
    }
    for (i, step) in steps.iter().enumerate() {
        let AdamW { betas, keep, step: size, second_scale, eps } = step.constants;
        let [beta1, beta2] = betas.map(f64::from);
        let (value, [first, second]) = (step.value, step.moments);
        let g = allowed.clipped(i, step.gradient)?;
        let m = (first + (&g - first)?.affine(1.0 - beta1, 0.0)?)?;
        let v = (second.affine(beta2, 0.0)? + g.sqr()?.affine(1.0 - beta2, 0.0)?)?;
        let root = v.sqrt()?.affine(f64::from(second_scale), f64::from(eps))?;
        let moved = (&m / root)?.affine(f64::from(size), 0.0)?;
        let p = (value.affine(f64::from(keep), 0.0)? - moved)?;
        for (old, new) in [(first, m), (second, v), (value, p)] {
            write(allowed.gate, old, &new)?;
        }
    }
    Ok(())
}

/// A parameter, its gradient and velocity, of one shape, and the numbers of its step.
#[derive(Clone, Copy, Debug)]
pub struct Momentum<'a> {
    /// The parameter.
    pub value: &'a Tensor,
    /// Its gradient.
    pub gradient: &'a Tensor,
    /// Its velocity.
    pub velocity: &'a Tensor,
    /// The numbers; the scale of the gradient is 1.
    pub constants: Sgd,
}

/// See [`crate::engine::kernel::optimizer::sgd`]; each slope with its decay is multiplied by its number of `scales` `[n]`,
/// if these are given.
///
/// # Errors
/// When shapes differ.
pub fn sgd<'a>(
    steps: &[Momentum<'a>],
    scales: Option<&Tensor>,
    allowed: Allowed<'_>,
) -> Result<()> {
    if steps.first().is_some_and(|one| cuda::fits(one.value)) {
        let item = |step: &Momentum<'a>| Item {
            value: step.value,
            gradient: step.gradient,
            moments: [Some(step.velocity), None],
            constants: [step.constants.decay, step.constants.lr, step.constants.momentum],
        };
        let items: Vec<Item<'a>> = steps.iter().map(item).collect();
        return cuda::update::sgd(&items, allowed.factors, scales, allowed.gate);
    }
    for (i, step) in steps.iter().enumerate() {
        let Sgd { lr, decay, momentum, .. } = step.constants;
        let (value, velocity) = (step.value, step.velocity);
        let g = allowed.clipped(i, step.gradient)?;
        let slope = (g + value.affine(f64::from(decay), 0.0)?)?;
        let slope = match scales {
            Some(scales) => slope.broadcast_mul(&scales.narrow(0, i, 1)?)?,
            None => slope,
        };
        let m = (velocity.affine(f64::from(momentum), 0.0)? + slope)?;
        let p = (value - m.affine(f64::from(lr), 0.0)?)?;
        write(allowed.gate, velocity, &m)?;
        write(allowed.gate, value, &p)?;
    }
    Ok(())
}

/// `teacher = decay teacher + (1 - decay) student` for each pair of a teacher and a student, where the gate
/// (u8 `[1]`) is open.
///
/// # Errors
/// When shapes differ.
pub fn average<'a>(
    pairs: &[(&'a Tensor, &'a Tensor)],
    decay: f64,
    gate: Option<&Tensor>,
) -> Result<()> {
    let Some((one, _)) = pairs.first() else { return Ok(()) };
    let open = Tensor::ones(1, DType::U8, one.device())?;
    let gate = gate.unwrap_or(&open);
    let (keep, take) = (decay as f32, (1.0 - decay) as f32);
    if cuda::fits(one) {
        let item = |&(value, gradient): &(&'a Tensor, &'a Tensor)| Item {
            value,
            gradient,
            moments: [None; 2],
            constants: [0.0; 3],
        };
        let items: Vec<Item<'a>> = pairs.iter().map(item).collect();
        return cuda::update::average(&items, gate, [keep, take]);
    }
    for (teacher, student) in pairs {
        let kept = teacher.affine(f64::from(keep), 0.0)?;
        write(gate, teacher, &(kept + student.affine(f64::from(take), 0.0)?)?)?;
    }
    Ok(())
}

/// Writes `new` over `old` where the gate is open.
fn write(gate: &Tensor, old: &Tensor, new: &Tensor) -> Result<()> {
    let gate = gate.reshape(vec![1; old.rank()])?.broadcast_as(old.shape())?;
    storage::assign(old, &gate.contiguous()?.where_cond(new, old)?)
}

/// The elements of all `numbers`, as f64, in one reading.
///
/// # Errors
/// None but the device's own.
pub fn read(numbers: &[Tensor]) -> Result<Vec<f64>> {
    if numbers.iter().all(|x| x.device().is_cpu()) {
        let read = numbers.iter().map(storage::to_f64).collect::<Result<Vec<_>>>()?;
        return Ok(read.concat());
    }
    let flat = numbers.iter().map(|x| x.flatten_all()?.to_dtype(DType::F32));
    let flat = flat.collect::<candle_core::Result<Vec<_>>>()?;
    storage::to_f64(&Tensor::cat(&flat, 0)?)
}
