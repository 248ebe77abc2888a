//! Batch norm, with the addition and max(x, 0) that may stand behind it.

use candle_core::Tensor;

use crate::Result;
use crate::engine::cuda;
use crate::engine::cuda::batch_norm::Rows;
use crate::engine::ops::batch_norm::{Behind, Channels, Normed, Places, over_ranks};
use crate::engine::tape::{Gradients, Tape, Var};

/// See [`crate::engine::ops::batch_norm::batch_norm`] and
/// [`crate::engine::ops::batch_norm_relu::batch_norm_relu`].
pub(in crate::engine) fn normed(
    tape: &Tape,
    name: &'static str,
    x: &Var,
    channels: Channels<'_>,
    (eps, behind): (f64, Behind<'_>),
) -> Result<Normed> {
    let Channels { weight, bias, statistics: given } = channels;
    let residual = behind.residual();
    let last = rows(x.value())?;
    let added = residual.map(|residual| rows(residual.value())).transpose()?;
    let (y, [mean, var], rstd) = tape.timed(name, || {
        let [mean, var] = match given {
            Some(given) => given.map(|part| part.value().clone()),
            None => statistics(&last)?,
        };
        let rstd = var.affine(1.0, eps)?.sqrt()?.recip()?;
        let weight = weight.map(Var::value);
        let rows = Rows { x: &last, mean: &mean, rstd: &rstd, weight };
        let y = forward(rows, bias.map(Var::value), added.as_ref(), behind.relu())?;
        Ok::<_, crate::Error>((y, [mean, var], rstd))
    })?;
    let kept = Kept {
        x: last,
        y: behind.relu().then(|| y.clone()),
        weight: weight.map(|weight| weight.value().clone()),
        mean: mean.clone(),
        rstd,
        places: Places::new([weight, bias, residual]),
        own: given.is_none(),
    };
    let inputs: Vec<&Var> = [Some(x), weight, bias, residual].into_iter().flatten().collect();
    let y = tape.record(name, &inputs, unrowed(&y, x.dims())?, move |gradient, inputs| {
        kept.gradients(gradient.tensor(), inputs)
    });
    Ok(Normed { y, mean: Var::constant(mean), var: Var::constant(var) })
}

/// `[B, C]`, or pictures with their channels last as rows of channels.
fn rows(x: &Tensor) -> Result<Tensor> {
    let last = if x.rank() == 4 { x.permute((0, 2, 3, 1))? } else { x.clone() };
    Ok(last.contiguous()?.reshape(((), x.dims()[1]))?)
}

/// The way back, to the sizes `dims`.
fn unrowed(rows: &Tensor, dims: &[usize]) -> Result<Tensor> {
    match *dims {
        [b, c, height, width] => Ok(rows.reshape((b, height, width, c))?.permute((0, 3, 1, 2))?),
        _ => Ok(rows.reshape(dims)?),
    }
}

/// Means and variances of the batch of all ranks.
fn statistics(x: &Tensor) -> Result<[Tensor; 2]> {
    let [own, var] = if cuda::fits(x) {
        cuda::batch_norm::moments(x)?
    } else {
        let mean = x.mean(0)?;
        let var = x.broadcast_sub(&mean)?.sqr()?.mean(0)?;
        [mean, var]
    };
    let mean = over_ranks(own.clone())?;
    let away = (&own - &mean)?;
    Ok([mean, over_ranks((var + away.sqr()?)?)?])
}

fn forward(
    rows: Rows<'_>,
    bias: Option<&Tensor>,
    added: Option<&Tensor>,
    relu: bool,
) -> Result<Tensor> {
    if cuda::fits(rows.x) {
        return cuda::batch_norm::forward(rows, bias, added, relu);
    }
    let mut y = unit(rows)?;
    if let Some(weight) = rows.weight {
        y = y.broadcast_mul(weight)?;
    }
    if let Some(bias) = bias {
        y = y.broadcast_add(bias)?;
    }
    if let Some(added) = added {
        y = (y + added)?;
    }
    if relu { super::activation::relu(&y) } else { Ok(y) }
}

/// (x - mean) rstd.
fn unit(rows: Rows<'_>) -> Result<Tensor> {
    Ok(rows.x.broadcast_sub(rows.mean)?.broadcast_mul(rows.rstd)?)
}

/// What the backward pass needs.
struct Kept {
    /// `[R, C]`.
    x: Tensor,
    /// The result, where max(x, 0) stands at the end.
    y: Option<Tensor>,
    weight: Option<Tensor>,
    mean: Tensor,
    rstd: Tensor,
    places: Places,
    /// Whether the statistics were the batch's own, so that the gradient flows through them.
    own: bool,
}

impl Kept {
    fn rows(&self) -> Rows<'_> {
        let weight = self.weight.as_ref();
        Rows { x: &self.x, mean: &self.mean, rstd: &self.rstd, weight }
    }

    fn gradients(&self, dy: &Tensor, inputs: &mut Gradients<'_>) -> Result<()> {
        let Places([weight, bias, residual]) = self.places;
        let dims = dy.dims().to_vec();
        let dy = rows(dy)?;
        let d = if cuda::fits(&dy) { dy } else { self.passed(dy)? };
        let [db, dw] = self.sums(&d)?;
        let wanted = residual.filter(|place| inputs.wants(*place));
        if inputs.wants(0) || wanted.is_some() {
            let (dx, passed) = self.grad_input(&d, [&db, &dw], wanted.is_some())?;
            inputs.add(0, unrowed(&dx, &dims)?)?;
            if let (Some(place), Some(passed)) = (wanted, passed) {
                inputs.add(place, unrowed(&passed, &dims)?)?;
            }
        }
        for (place, sum) in [(weight, dw), (bias, db)] {
            if let Some(place) = place {
                inputs.add(place, sum)?;
            }
        }
        Ok(())
    }

    /// dy, but 0 where the result is not above 0.
    fn passed(&self, dy: Tensor) -> Result<Tensor> {
        match &self.y {
            Some(y) => Ok(y.gt(0.0)?.where_cond(&dy, &dy.zeros_like()?)?),
            None => Ok(dy),
        }
    }

    /// Sums of d and of d (x - mean) rstd.
    fn sums(&self, d: &Tensor) -> Result<[Tensor; 2]> {
        if cuda::fits(d) {
            return cuda::batch_norm::sums(self.rows(), self.y.as_ref(), d);
        }
        Ok([d.sum(0)?, (d * unit(self.rows())?)?.sum(0)?])
    }

    /// `w rstd (d - mean(d) - n mean(d n))` with means over the batch of all ranks, and none where the statistics were
    /// given; and d where it is wanted.
    fn grad_input(
        &self,
        d: &Tensor,
        sums: [&Tensor; 2],
        wanted: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let share = if self.own { 1.0 / self.x.dims()[0].max(1) as f64 } else { 0.0 };
        let sums = [over_ranks(sums[0].clone())?, over_ranks(sums[1].clone())?];
        if cuda::fits(d) {
            let given = (self.y.as_ref(), d);
            return cuda::batch_norm::backward(self.rows(), given, &sums, share, wanted);
        }
        let [bias, weight] = [sums[0].affine(share, 0.0)?, sums[1].affine(share, 0.0)?];
        let along = unit(self.rows())?.broadcast_mul(&weight)?;
        let dx = (d.broadcast_sub(&bias)? - along)?.broadcast_mul(&self.rstd)?;
        let dx = match &self.weight {
            Some(weight) => dx.broadcast_mul(weight)?,
            None => dx,
        };
        Ok((dx, wanted.then(|| d.clone())))
    }
}
