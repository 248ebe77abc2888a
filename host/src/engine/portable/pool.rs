//! Max pooling of pictures.

use candle_core::{DType, Tensor};

use super::place::places;
use super::window::{Grid, everywhere};
use crate::Result;
use crate::engine::cuda;
use crate::engine::kernel::pool::Pool;
use crate::engine::tape::{Tape, Var};

/// See [`crate::engine::ops::max_pool2d::max_pool2d`].
pub fn max_pool2d(tape: &Tape, x: &Var, pool: &Pool) -> Result<Var> {
    let Pool { source, result, kernel, stride, padding } = *pool;
    let sizes = [source.height, source.width, source.channels];
    let to = [result.height, result.width];
    let grid = Grid::new(sizes, to, [kernel; 2], (stride, [padding; 2]), 1)?;
    let last = x.value().permute((0, 2, 3, 1))?.contiguous()?;
    if cuda::fits(&last) {
        let [y, places] =
            tape.timed("max_pool2d", || cuda::window::largest(&last, grid.windows()))?;
        return Ok(tape.record(
            "max_pool2d",
            &[x],
            y.permute((0, 3, 1, 2))?,
            move |gradient, inputs| {
                let dy = gradient.tensor().permute((0, 2, 3, 1))?;
                let dx = cuda::window::largest_backward(&dy, &places, grid.windows())?;
                inputs.add(0, dx.permute((0, 3, 1, 2))?)
            },
        ));
    }
    let (y, pixels) = tape.timed("max_pool2d", || largest(&last, &grid))?;
    let value = y.reshape((source.batch, to[0], to[1], source.channels))?.permute((0, 3, 1, 2))?;
    Ok(tape.record("max_pool2d", &[x], value, move |gradient, inputs| {
        let dy = gradient.tensor().permute((0, 2, 3, 1))?.contiguous()?;
        let (all, channels) = (source.batch * source.height * source.width, source.channels);
        let zeros = Tensor::zeros((all, channels), dy.dtype(), dy.device())?;
        let dx = zeros.scatter_add(&pixels, &dy.reshape(((), channels))?, 0)?;
        let dx = dx.reshape((source.batch, source.height, source.width, channels))?;
        inputs.add(0, dx.permute((0, 3, 1, 2))?)
    }))
}

/// The largest of each window of x `[B, H, W, C]`, `[B H' W', C]`, and its place among all pixels.
fn largest(x: &Tensor, grid: &Grid) -> Result<(Tensor, Tensor)> {
    let (batch, height, width, channels) = x.dims4()?;
    let (taps, rows) = (grid.taps(), batch * grid.count());
    // What lies outside is the window's first pixel once more, which it can't win against.
    let table = grid.table();
    let table = table.chunks(taps).flat_map(|window| {
        let first = window.iter().flatten().next().copied().unwrap_or(0);
        window.iter().map(move |pixel| pixel.unwrap_or(first))
    });
    let pixels = everywhere(table.collect(), batch, height * width, x)?;
    let cut = x.reshape((batch * height * width, channels))?.index_select(&pixels, 0)?;
    let cut = cut.reshape((rows, taps, channels))?;
    let taken = places("max_pool2d", &cut, 1)?;
    let y = cut.gather(&taken.unsqueeze(1)?.contiguous()?, 1)?.squeeze(1)?;
    // The number of a tap among all of them finds its pixel.
    let first = Tensor::arange(0, rows as u32, x.device())?.reshape((rows, 1))?;
    let first = first.broadcast_mul(&Tensor::new(&[taps as u32], x.device())?)?;
    let slots = taken.broadcast_add(&first)?.flatten_all()?;
    let pixels = pixels.index_select(&slots, 0)?.reshape((rows, channels))?;
    Ok((y, pixels.to_dtype(DType::U32)?))
}
