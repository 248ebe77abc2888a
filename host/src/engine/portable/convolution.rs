//! Convolutions of pictures, and of frames as pictures of one row: products of windows laid side by side.

use candle_core::Tensor;

use super::activation;
use super::matmul::product;
use super::window::Grid;
use crate::Result;
use crate::engine::cuda;
use crate::engine::kernel::activation::Activation;
use crate::engine::kernel::{conv, conv1d};
use crate::engine::tape::{Gradients, Precision, Tape, Var};

/// Numbers of windows that are held at a time: a batch goes by in parts. 512 MiB of f32.
const ROOM: usize = 1 << 27;

/// See [`crate::engine::ops::conv2d::conv2d`], without its bias.
pub fn conv2d(tape: &Tape, x: &Var, w: &Var, conv: &conv::Conv) -> Result<Var> {
    let conv::Conv { source, result, kernel, stride, padding } = *conv;
    let sizes = [source.height, source.width, source.channels];
    let to = [result.height, result.width];
    let grid = Grid::new(sizes, to, kernel, (stride, [padding; 2]), 1)?;
    let kept = Kept {
        grid,
        x: x.value().permute((0, 2, 3, 1))?.contiguous()?,
        w: filters(w.value(), &grid)?,
        gelu: false,
        bias: false,
        precision: tape.precision(),
    };
    let y = tape.timed("conv2d", || kept.forward(None))?.permute((0, 3, 1, 2))?;
    let gradients = [x, w].iter().filter(|input| tape.records(&[input])).count();
    tape.count_flops("conv2d", conv.flops() * (1 + gradients));
    let w_dims = w.dims().to_vec();
    Ok(tape.record("conv2d", &[x, w], y, move |gradient, inputs| {
        let dy = gradient.tensor().permute((0, 2, 3, 1))?;
        kept.gradients(&dy, inputs, |dx| Ok(dx.permute((0, 3, 1, 2))?), &w_dims)
    }))
}

/// See [`crate::engine::ops::conv1d::conv1d`] and [`crate::engine::ops::gelu_conv1d::gelu_conv1d`].
pub fn conv1d(
    tape: &Tape,
    op: &'static str,
    (x, w, b): (&Var, &Var, Option<&Var>),
    conv: &conv1d::Conv,
) -> Result<Var> {
    let conv1d::Conv { batch, frames, channels, kernel, stride, padding, groups, .. } = *conv;
    let to = [1, conv.out_frames()];
    let steps = (stride, [0, padding]);
    let grid = Grid::new([1, frames, channels], to, [1, kernel], steps, groups)?;
    let kept = Kept {
        grid,
        x: x.value().transpose(1, 2)?.contiguous()?.reshape((batch, 1, frames, channels))?,
        w: filters(&w.value().unsqueeze(2)?, &grid)?,
        gelu: op == "gelu_conv1d",
        bias: b.is_some(),
        precision: tape.precision(),
    };
    let y = tape.timed(op, || kept.forward(b.map(Var::value)))?;
    let y = y.squeeze(1)?.transpose(1, 2)?;
    let inputs: Vec<&Var> = [Some(x), Some(w), b].into_iter().flatten().collect();
    let gradients = [x, w].iter().filter(|input| tape.records(&[input])).count();
    tape.count_flops(op, (1 + gradients) * conv.flops());
    let w_dims = w.dims().to_vec();
    Ok(tape.record(op, &inputs, y, move |gradient, inputs| {
        let dy = gradient.tensor().transpose(1, 2)?.unsqueeze(1)?;
        kept.gradients(&dy, inputs, |dx| Ok(dx.squeeze(1)?.transpose(1, 2)?), &w_dims)
    }))
}

/// `[O, C / groups, kh, kw]` as `[groups, O / groups, kh kw C / groups]`.
fn filters(w: &Tensor, grid: &Grid) -> Result<Tensor> {
    let (outputs, part, kh, kw) = w.dims4()?;
    let shape = (grid.groups(), outputs / grid.groups(), kh * kw * part);
    Ok(w.permute((0, 2, 3, 1))?.reshape(shape)?)
}

/// What a convolution and its backward pass read.
struct Kept {
    grid: Grid,
    /// `[B, H, W, C]`.
    x: Tensor,
    /// See [`filters`].
    w: Tensor,
    /// Whether GELU of x is convolved.
    gelu: bool,
    bias: bool,
    precision: Precision,
}

impl Kept {
    /// `[B, H', W', O]`.
    fn forward(&self, bias: Option<&Tensor>) -> Result<Tensor> {
        let (groups, outputs, _) = self.w.dims3()?;
        let outputs = groups * outputs;
        let turned = self.w.transpose(1, 2)?;
        let mut parts = Vec::new();
        for (_, x) in self.parts()? {
            let y = product(&self.windows(&x)?, &turned, self.precision)?;
            // [groups, rows, O / groups] to rows of O.
            parts.push(y.transpose(0, 1)?.reshape(((), outputs))?);
        }
        let y = joined(parts)?;
        let y = match bias {
            Some(b) if cuda::fits(&y) => {
                let y = y.contiguous()?;
                cuda::activation::add_bias(&y, b)?;
                y
            }
            Some(b) => y.broadcast_add(b)?,
            None => y,
        };
        let windows = self.grid.windows();
        let [height, width] = [windows.to_height as usize, windows.to_width as usize];
        Ok(y.reshape((self.x.dims()[0], height, width, outputs))?)
    }

    /// The batch in parts whose windows have room, and where each begins.
    fn parts(&self) -> Result<Vec<(usize, Tensor)>> {
        let batch = self.x.dims()[0];
        let step = (ROOM / self.grid.columns().max(1)).clamp(1, batch.max(1));
        let starts = (0..batch).step_by(step);
        starts.map(|at| Ok((at, self.x.narrow(0, at, step.min(batch - at))?))).collect()
    }

    /// The windows of what is convolved of x.
    fn windows(&self, x: &Tensor) -> Result<Tensor> {
        let operand = self.precision == Precision::Bf16 && cuda::takes_operands(x);
        if self.gelu {
            let made = activation::forward(Activation::Gelu, &x.contiguous()?)?;
            return self.grid.unfold(&made, operand);
        }
        self.grid.unfold(x, operand)
    }

    /// Adds the gradients of x (input 0, `shaped` from `[B, H, W, C]`), w (1) and the bias (2) from dy
    /// `[B, H', W', O]`.
    fn gradients(
        &self,
        dy: &Tensor,
        inputs: &mut Gradients<'_>,
        shaped: impl Fn(&Tensor) -> Result<Tensor>,
        w_dims: &[usize],
    ) -> Result<()> {
        let (groups, per_group, _) = self.w.dims3()?;
        let count = self.grid.count();
        let rows = dy.contiguous()?.reshape(((), groups * per_group))?;
        let (mut dx, mut dw): (_, Option<Tensor>) = (Vec::new(), None);
        for (at, x) in self.parts()? {
            let batch = x.dims()[0];
            let part = rows.narrow(0, at * count, batch * count)?;
            let part = part.reshape((batch * count, groups, per_group))?.transpose(0, 1)?;
            let part = part.contiguous()?;
            if inputs.wants(1) {
                let made = product(&part.transpose(1, 2)?, &self.windows(&x)?, self.precision)?;
                dw = Some(match dw {
                    Some(sum) => (sum + made)?,
                    None => made,
                });
            }
            if inputs.wants(0) {
                let folded = self.grid.fold(&product(&part, &self.w, self.precision)?, batch)?;
                dx.push(if self.gelu {
                    activation::backward(Activation::Gelu, &x.contiguous()?, &folded)?
                } else {
                    folded
                });
            }
        }
        if inputs.wants(0) {
            inputs.add(0, shaped(&joined(dx)?)?)?;
        }
        if let Some(dw) = dw {
            inputs.add(1, self.filters_back(&dw, w_dims)?)?;
        }
        if self.bias && inputs.wants(2) {
            let fused = cuda::fits(&rows);
            inputs.add(2, if fused { cuda::norm::column_sums(&rows)? } else { rows.sum(0)? })?;
        }
        Ok(())
    }

    /// The way back of [`filters`], in the sizes `dims`.
    fn filters_back(&self, dw: &Tensor, dims: &[usize]) -> Result<Tensor> {
        let windows = self.grid.windows();
        let [kh, kw] = [windows.kernel_height as usize, windows.kernel_width as usize];
        let dw = dw.reshape((dims[0], kh, kw, dims[1]))?.permute((0, 3, 1, 2))?;
        Ok(dw.reshape(dims)?)
    }
}

/// Parts of a batch as one.
fn joined(mut parts: Vec<Tensor>) -> Result<Tensor> {
    match parts.len() {
        1 => Ok(parts.remove(0)),
        _ => Ok(Tensor::cat(&parts, 0)?),
    }
}
