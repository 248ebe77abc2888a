//! `batch_norm@1`: normalises each channel over the batch to mean 0 and variance 1.

use candle_core::{Tensor, WithDType};

use crate::engine::kernel::Float;
use crate::engine::kernel::batch_norm::{self, After, Backward, Gate, Norm};
use crate::engine::op::{Arg, Args, Gradient, OpDef, Sample, sample_strided, sample_tensor};
use crate::engine::ops::all_reduce::all_reduce;
use crate::engine::tape::{Gradients, Tape, Var};
use crate::engine::{portable, storage};
use crate::random::Stream;
use crate::{Error, Result, for_float};

/// The numbers of each channel besides x, all `[C]` where given.
#[derive(Clone, Copy, Debug, Default)]
pub struct Channels<'a> {
    /// Multiplies what is normalised.
    pub weight: Option<&'a Var>,
    /// Is added to it.
    pub bias: Option<&'a Var>,
    /// Means and variances to normalise by; the batch's own where not given.
    pub statistics: Option<[&'a Var; 2]>,
}

/// What a batch norm gives.
#[derive(Clone, Debug)]
pub struct Normed {
    /// The result, in the shape of x.
    pub y: Var,
    /// Means `[C]`, over the batch of all ranks or as given; cut from the tape.
    pub mean: Var,
    /// Mean squared distances from it `[C]` (not unbiased), likewise.
    pub var: Var,
}

/// `(x - mean) / sqrt(var + eps) weight + bias` for x `[B, C]` or `[B, C, H, W]`, each channel over all else. The
/// batch's statistics are those of all ranks.
///
/// # Errors
/// When the shapes don't fit together.
pub fn batch_norm(tape: &Tape, x: &Var, channels: Channels<'_>, eps: f64) -> Result<Normed> {
    normed(tape, "batch_norm", x, channels, (eps, Behind::Nothing))
}

/// What stands behind a batch norm.
#[derive(Clone, Copy)]
pub(in crate::engine) enum Behind<'a> {
    /// Nothing.
    Nothing,
    /// The addition of a residual in the shape of x, if there is one, and max(x, 0).
    Relu(Option<&'a Var>),
}

impl<'a> Behind<'a> {
    pub(in crate::engine) fn residual(self) -> Option<&'a Var> {
        match self {
            Self::Nothing => None,
            Self::Relu(residual) => residual,
        }
    }

    pub(in crate::engine) fn relu(self) -> bool {
        matches!(self, Self::Relu(_))
    }
}

/// A batch norm with what stands behind it.
pub(super) fn normed(
    tape: &Tape,
    name: &'static str,
    x: &Var,
    channels: Channels<'_>,
    (eps, behind): (f64, Behind<'_>),
) -> Result<Normed> {
    check(name, x, channels, behind.residual())?;
    if tape.portable(x) {
        return portable::batch_norm::normed(tape, name, x, channels, (eps, behind));
    }
    for_float!(x.dtype(), T => apply::<T>(tape, name, x, channels, (eps, behind)))
}

fn check(name: &str, x: &Var, channels: Channels<'_>, residual: Option<&Var>) -> Result<()> {
    let width = match x.dims() {
        &[_, width] | &[_, width, _, _] => Some(width),
        _ => None,
    };
    let [mean, var] = channels.statistics.map_or([None; 2], |both| both.map(Some));
    let parts = [channels.weight, channels.bias, mean, var];
    let fits = |width: usize| {
        parts.iter().flatten().all(|part| part.dims() == [width])
            && residual.is_none_or(|residual| residual.dims() == x.dims())
    };
    match width {
        Some(width) if fits(width) => Ok(()),
        _ => Err(Error::failed(format!(
            "`{name}` expects x [B, C] or [B, C, H, W] with [C] for each channel's numbers and x's shape \
             for what is added, got {:?} with {:?} and {:?}",
            x.dims(),
            parts.iter().flatten().map(|part| part.dims()).collect::<Vec<_>>(),
            residual.map(Var::dims)
        ))),
    }
}

/// `[B, C]`, or pictures with their channels last.
fn rows(x: &Tensor) -> Result<Tensor> {
    if x.rank() == 4 { storage::channels_last(x) } else { Ok(x.contiguous()?) }
}

/// A tensor in the shape of `like`, from rows.
fn unrowed<T: WithDType>(values: Vec<T>, like: &Tensor) -> Result<Tensor> {
    match like.dims() {
        &[b, c, height, width] => storage::pictures(values, [b, height, width, c]),
        dims => storage::tensor(values, dims),
    }
}

/// The mean over all ranks.
pub(in crate::engine) fn over_ranks(x: Tensor) -> Result<Tensor> {
    Ok(all_reduce(&Tape::default(), &Var::constant(x), true)?.value().clone())
}

/// Means and variances of the batch of all ranks, whose parts are equally large.
fn statistics<T: Float + WithDType>(x: &Tensor, width: usize) -> Result<[Tensor; 2]> {
    let (mean, var) = storage::read::<T, _>(x, |x| batch_norm::moments(x, width))?;
    let (own, var) = (storage::tensor(mean, width)?, storage::tensor(var, width)?);
    let mean = over_ranks(own.clone())?;
    let away = (&own - &mean)?;
    Ok([mean, over_ranks((var + away.sqr()?)?)?])
}

fn apply<T: Float + WithDType>(
    tape: &Tape,
    name: &'static str,
    x: &Var,
    channels: Channels<'_>,
    (eps, behind): (f64, Behind<'_>),
) -> Result<Normed> {
    let Channels { weight, bias, statistics: given } = channels;
    let width = x.dims()[1];
    let last = rows(x.value())?;
    let residual = behind.residual();
    let (value, [mean, var], rstd) = tape.timed(name, || {
        let [mean, var] = match given {
            Some([mean, var]) => [mean.value().clone(), var.value().clone()],
            None => statistics::<T>(&last, width)?,
        };
        let eps: T = Float::from_f64(eps);
        let rstd = storage::read::<T, _>(&var, |var| {
            let rstd = var.iter().map(|var| T::ONE / Float::sqrt(*var + eps));
            rstd.collect::<Vec<T>>()
        })?;
        let rstd = storage::tensor(rstd, width)?;
        let added = residual.map(|residual| rows(residual.value())).transpose()?;
        let or_mean = |part: Option<&Var>| part.map_or(mean.clone(), |part| part.value().clone());
        let tensors = [
            &last,
            added.as_ref().unwrap_or(&last),
            &mean,
            &rstd,
            &or_mean(weight),
            &or_mean(bias),
        ];
        let y = storage::read_all::<T, _, 6>(tensors, |[x, added, mean, rstd, w, b]| {
            let norm = Norm { mean, rstd, weight: weight.map(|_| w), bias: bias.map(|_| b) };
            let residual = residual.map(|_| added);
            batch_norm::forward(x, norm, After { residual, relu: behind.relu() })
        })?;
        Ok::<_, Error>((unrowed(y, x.value())?, [mean, var], rstd))
    })?;
    let kept = Kept {
        x: last,
        gate: match behind {
            Behind::Nothing => Kind::Open,
            Behind::Relu(None) => Kind::Norm,
            Behind::Relu(Some(_)) => Kind::Output(value.clone()),
        },
        weight: weight.map(|weight| weight.value().clone()),
        bias: bias.map(|bias| bias.value().clone()),
        mean: mean.clone(),
        rstd,
        places: Places::new([weight, bias, residual]),
        own: given.is_none(),
    };
    let inputs: Vec<&Var> = [Some(x), weight, bias, residual].into_iter().flatten().collect();
    let y = tape.record(name, &inputs, value, move |gradient, inputs| {
        let dy = gradient.into_tensor();
        for_float!(dy.dtype(), T => kept.gradients::<T>(&dy, inputs))
    });
    Ok(Normed { y, mean: Var::constant(mean), var: Var::constant(var) })
}

/// Which inputs the weight, the bias and the residual are.
pub(in crate::engine) struct Places(pub(in crate::engine) [Option<usize>; 3]);

impl Places {
    pub(in crate::engine) fn new(given: [Option<&Var>; 3]) -> Self {
        let mut next = 1;
        Self(given.map(|part| {
            part.map(|_| {
                next += 1;
                next - 1
            })
        }))
    }
}

/// Where the gradient passes.
enum Kind {
    Open,
    /// Where the norm is above 0, which is known from what made it.
    Norm,
    /// Where this result is above 0.
    Output(Tensor),
}

/// What the backward pass needs.
struct Kept {
    /// Channels last.
    x: Tensor,
    gate: Kind,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    mean: Tensor,
    rstd: Tensor,
    places: Places,
    /// Whether the statistics were the batch's own, so that the gradient flows through them.
    own: bool,
}

impl Kept {
    fn gradients<T: Float + WithDType>(
        &self,
        dy: &Tensor,
        inputs: &mut Gradients<'_>,
    ) -> Result<()> {
        let Places([weight, bias, residual]) = self.places;
        // It is written over.
        let g = if inputs.owned() { rows(dy)? } else { rows(dy)?.copy()? };
        let width = self.mean.elem_count();
        let (db, dw) =
            self.read(|back, _| storage::change::<T, _>(&g, |dy| batch_norm::sums(back, dy)))??;
        let (db, dw) = (storage::tensor(db, width)?, storage::tensor(dw, width)?);
        let wanted = residual.filter(|place| inputs.wants(*place));
        let share = if self.own { width as f64 / self.x.elem_count().max(1) as f64 } else { 0.0 };
        let means = |sums: &Tensor| over_ranks(sums.affine(share, 0.0)?);
        if let Some(place) = wanted {
            let means = [means(&db)?, means(&dw)?];
            let dx = self.read(|back, w| {
                storage::read_all::<T, _, 3>([&g, &means[0], &means[1]], |[g, bias, weight]| {
                    batch_norm::grad_input_apart(back, w, (bias, weight), g)
                })
            })??;
            inputs.add(0, unrowed(dx, dy)?)?;
            inputs.add(place, turned(&g, dy)?)?;
        } else if inputs.wants(0) {
            let means = [means(&db)?, means(&dw)?];
            self.read(|back, w| {
                let change = |[bias, weight]: [&[T]; 2]| {
                    let sums = (bias, weight);
                    storage::change(&g, |dy| batch_norm::grad_input(back, w, sums, dy))
                };
                storage::read_all([&means[0], &means[1]], change)
            })???;
            inputs.add(0, turned(&g, dy)?)?;
        }
        for (place, sum) in [(weight, dw), (bias, db)] {
            if let Some(place) = place {
                inputs.add(place, sum)?;
            }
        }
        Ok(())
    }

    /// Calls `body` with what is kept, and the weight.
    fn read<T: Float + WithDType, R>(
        &self,
        body: impl FnOnce(Backward<'_, T>, Option<&[T]>) -> R,
    ) -> Result<R> {
        let y = match &self.gate {
            Kind::Output(y) => rows(y)?,
            Kind::Open | Kind::Norm => self.x.clone(),
        };
        let or_mean = |part: &Option<Tensor>| part.as_ref().unwrap_or(&self.mean).clone();
        let (w, b) = (or_mean(&self.weight), or_mean(&self.bias));
        let tensors = [&self.x, &y, &self.mean, &self.rstd, &w, &b];
        storage::read_all::<T, _, 6>(tensors, |[x, y, mean, rstd, w, b]| {
            let (w, b) = (self.weight.as_ref().map(|_| w), self.bias.as_ref().map(|_| b));
            let gate = match &self.gate {
                Kind::Open => Gate::Open,
                Kind::Norm => Gate::Norm(w, b),
                Kind::Output(_) => Gate::Output(y),
            };
            body(Backward { x, gate, mean, rstd }, w)
        })
    }
}

/// Rows in the order of dimensions of `like`.
fn turned(rows: &Tensor, like: &Tensor) -> Result<Tensor> {
    Ok(if like.rank() == 4 { rows.permute((0, 3, 1, 2))? } else { rows.clone() })
}

/// The channels' numbers among the arguments, from weight at 1 on.
pub(super) fn channels<'a>(args: &Args<'a>) -> Result<Channels<'a>> {
    let part = |index: usize| args.optional_tensor(index);
    let statistics = match [part(3)?, part(4)?] {
        [Some(mean), Some(var)] => Some([mean, var]),
        [None, None] => None,
        _ => return Err(Error::failed("a mean comes with a variance, or neither is given")),
    };
    Ok(Channels { weight: part(1)?, bias: part(2)?, statistics })
}

/// Arguments up to the variance, in which x has rank 2 or 4.
pub(super) fn samples(stream: &mut Stream) -> Vec<Vec<Arg>> {
    let squares = |arg: Arg| match arg {
        Arg::Tensor(var) => {
            Arg::Tensor(Var::constant(var.value().sqr().unwrap_or_else(|_| var.value().clone())))
        }
        other => other,
    };
    vec![
        vec![
            sample_tensor(stream, &[2, 3, 4, 5]),
            sample_tensor(stream, &[3]),
            sample_tensor(stream, &[3]),
            Arg::None,
            Arg::None,
        ],
        vec![sample_strided(stream, &[7, 4]), Arg::None, Arg::None, Arg::None, Arg::None],
        vec![
            sample_strided(stream, &[2, 2, 3, 2]),
            sample_tensor(stream, &[2]),
            sample_tensor(stream, &[2]),
            sample_tensor(stream, &[2]),
            squares(sample_tensor(stream, &[2])),
        ],
        vec![
            sample_tensor(stream, &[1, 1]),
            sample_tensor(stream, &[1]),
            sample_tensor(stream, &[1]),
            Arg::None,
            Arg::None,
        ],
    ]
}

inventory::submit! {
    OpDef {
        name: "batch_norm",
        revision: 1,
        formula: "batch_norm(x [B, C] or [B, C, H, W], w? [C], b? [C], mean? [C], var? [C], eps) = \
                  (x - mean) / sqrt(var + eps) w + b, mean, var",
        call: |tape, args: &Args<'_>| {
            let made = batch_norm(tape, args.tensor(0)?, channels(args)?, args.float(5)?)?;
            Ok(vec![made.y, made.mean, made.var])
        },
        gradient: Gradient::Checked,
        samples: |stream| samples(stream)
            .into_iter()
            .map(|mut args| {
                args.push(Arg::Float(1e-2));
                Sample::new(args).constant(&[3, 4])
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn a_weight_of_another_length_and_a_mean_alone_are_refused() {
        let zeros = |shape: &[usize]| {
            Var::constant(Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap())
        };
        let (tape, x, w) = (Tape::default(), zeros(&[2, 3]), zeros(&[4]));
        let channels = Channels { weight: Some(&w), ..Channels::default() };
        let error = batch_norm(&tape, &x, channels, 1e-5).unwrap_err();
        assert!(error.to_string().contains("got [2, 3] with [[4]]"), "{error}");
        let args = [Arg::Tensor(x), Arg::None, Arg::None, Arg::Tensor(zeros(&[3])), Arg::None];
        let op = crate::engine::op::find("batch_norm", 1).unwrap();
        assert!(op.run(&tape, &args).unwrap_err().to_string().contains("a mean comes with"));
    }

    #[test]
    fn a_large_mean_costs_no_digits_of_the_variance() {
        let mut stream = Stream::new(0, "batch norm", 0, 0);
        let x: Vec<f32> = (0..4096 * 3).map(|_| 1000.0 + stream.normal() as f32).collect();
        let exact = |c: usize| {
            let column: Vec<f64> = x.iter().skip(c).step_by(3).map(|x| f64::from(*x)).collect();
            let mean = column.iter().sum::<f64>() / 4096.0;
            column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 4096.0
        };
        let var = Var::constant(storage::tensor(x.clone(), (4096, 3)).unwrap());
        let made = batch_norm(&Tape::default(), &var, Channels::default(), 1e-5).unwrap();
        for (c, var) in storage::to_f64(made.var.value()).unwrap().into_iter().enumerate() {
            assert!((var / exact(c) - 1.0).abs() < 1e-4, "{var} {}", exact(c));
        }
    }
}
