//! Windows of pictures laid side by side, so that a convolution is a product, and put back again.

use candle_core::{DType, Tensor};

use super::numbers;
use crate::engine::cuda;
use crate::engine::cuda::upload::upload;
use crate::engine::cuda::window::Windows;
use crate::{Error, Result};

/// Windows over pictures whose channels lie last. Where no kernel fits, tables of places do the same.
#[derive(Clone, Copy, Debug)]
pub struct Grid(Windows);

impl Grid {
    /// Windows of `[kernel, stride, padding]` over `[H, W, C]` that make `[H', W']`: kernel and padding by height and by
    /// width, channels in `groups`.
    ///
    /// # Errors
    /// When a size is too large for a kernel.
    pub fn new(
        [height, width, channels]: [usize; 3],
        to: [usize; 2],
        kernel: [usize; 2],
        (stride, padding): (usize, [usize; 2]),
        groups: usize,
    ) -> Result<Self> {
        let int = |size: usize| {
            let large = || Error::failed(format!("{size} is too large for windows on a device"));
            i32::try_from(size).map(i32::cast_unsigned).map_err(|_| large())
        };
        Ok(Self(Windows {
            height: int(height)?,
            width: int(width)?,
            channels: int(channels)?,
            groups: int(groups)?,
            to_height: int(to[0])?,
            to_width: int(to[1])?,
            kernel_height: int(kernel[0])?,
            kernel_width: int(kernel[1])?,
            stride: int(stride)?,
            padding_height: int(padding[0])?,
            padding_width: int(padding[1])?,
        }))
    }

    /// As the kernels take it.
    pub fn windows(&self) -> &Windows {
        &self.0
    }

    /// Parts that channels are cut into.
    pub fn groups(&self) -> usize {
        self.0.groups as usize
    }

    /// Windows of one picture.
    pub fn count(&self) -> usize {
        (self.0.to_height * self.0.to_width) as usize
    }

    /// Pixels of a window.
    pub fn taps(&self) -> usize {
        (self.0.kernel_height * self.0.kernel_width) as usize
    }

    fn channels(&self) -> usize {
        self.0.channels as usize
    }

    fn pixels(&self) -> usize {
        (self.0.height * self.0.width) as usize
    }

    /// Numbers of the windows of one picture.
    pub fn columns(&self) -> usize {
        self.count() * self.taps() * self.channels()
    }

    /// Whether the windows are the pixels themselves.
    fn trivial(&self) -> bool {
        let Windows { stride, padding_height, padding_width, .. } = self.0;
        self.taps() == 1 && [stride, padding_height, padding_width] == [1, 0, 0]
    }

    /// The windows of x `[B, H, W, C]`: `[groups, B H' W', taps C / groups]`; in bf16 where `operand`, which
    /// [`cuda::takes_operands`] must allow, else in the type of x.
    ///
    /// # Errors
    /// When the device has no room for them.
    pub fn unfold(&self, x: &Tensor, operand: bool) -> Result<Tensor> {
        let batch = x.dims()[0];
        let (rows, groups, taps) = (batch * self.count(), self.groups(), self.taps());
        let part = self.channels() / groups;
        if self.trivial() && groups == 1 {
            return Ok(x.reshape((1, rows, part))?);
        }
        if cuda::fits(x) {
            let dtype = if operand { DType::BF16 } else { DType::F32 };
            return cuda::window::unfold(x, &self.0, dtype);
        }
        let outside = self.pixels() as u32;
        let table = self.table().into_iter().map(|pixel| pixel.unwrap_or(outside)).collect();
        let cut = self.chosen(x, table, [self.pixels(), rows * taps])?;
        let cut = cut.reshape((rows, taps, groups, part))?.permute((2, 0, 1, 3))?;
        Ok(cut.reshape((groups, rows, taps * part))?)
    }

    /// The way back, for `batch` pictures: of each pixel the sum of what `columns` hold of it, `[B, H, W, C]`.
    ///
    /// # Errors
    /// As [`Grid::unfold`].
    pub fn fold(&self, columns: &Tensor, batch: usize) -> Result<Tensor> {
        let (rows, groups, taps) = (batch * self.count(), self.groups(), self.taps());
        let shape = (batch, self.0.height as usize, self.0.width as usize, self.channels());
        if self.trivial() && groups == 1 {
            return Ok(columns.reshape(shape)?);
        }
        if cuda::fits(columns) {
            return cuda::window::fold(columns, &self.0, batch);
        }
        let part = self.channels() / groups;
        let held = columns.reshape((groups, rows, taps, part))?.permute((1, 2, 0, 3))?;
        let held = held.reshape((batch, self.count() * taps, self.channels()))?;
        // For each pixel, the places that hold it.
        let (slots, pixels) = (self.count() * taps, self.pixels());
        let mut holders = vec![Vec::new(); pixels];
        for (slot, pixel) in self.table().into_iter().enumerate() {
            if let Some(pixel) = pixel {
                holders[pixel as usize].push(slot as u32);
            }
        }
        let most = holders.iter().map(Vec::len).max().unwrap_or(0).max(1);
        for holders in &mut holders {
            holders.resize(most, slots as u32);
        }
        let found = self.chosen(&held, holders.concat(), [slots, batch * pixels * most])?;
        Ok(found.reshape((batch * pixels, most, self.channels()))?.sum(1)?.reshape(shape)?)
    }

    /// Rows of x, `rows` to a picture: those of `table` for every picture, where the number `rows` is a row of zeros.
    fn chosen(&self, x: &Tensor, table: Vec<u32>, [rows, all]: [usize; 2]) -> Result<Tensor> {
        let batch = x.dims()[0];
        let width = self.channels();
        let zeros = Tensor::zeros((batch, 1, width), x.dtype(), x.device())?;
        let padded = Tensor::cat(&[&x.reshape((batch, rows, width))?, &zeros], 1)?;
        let places = everywhere(table, batch, rows + 1, x)?;
        let padded = padded.reshape((batch * (rows + 1), width))?;
        Ok(padded.index_select(&places, 0)?.reshape((all, width))?)
    }

    /// The pixel that each tap of each window covers; none outside.
    pub fn table(&self) -> Vec<Option<u32>> {
        let s = &self.0;
        let mut table = Vec::with_capacity(self.count() * self.taps());
        for to in 0..s.to_height * s.to_width {
            for tap in 0..s.kernel_height * s.kernel_width {
                let y = to / s.to_width * s.stride + tap / s.kernel_width;
                let x = to % s.to_width * s.stride + tap % s.kernel_width;
                let y = y.checked_sub(s.padding_height).filter(|y| *y < s.height);
                let x = x.checked_sub(s.padding_width).filter(|x| *x < s.width);
                table.push(y.zip(x).map(|(y, x)| y * s.width + x));
            }
        }
        table
    }
}

/// The numbers of `table` for each of `batch` pictures, of which each has `step` rows: `[B n]`, where `like` lies.
pub(super) fn everywhere(
    table: Vec<u32>,
    batch: usize,
    step: usize,
    like: &Tensor,
) -> Result<Tensor> {
    let table = Tensor::from_vec(table, (1, ()), &candle_core::Device::Cpu)?;
    let table = upload(&table, like.device())?;
    let first = numbers(&Tensor::zeros(batch, DType::U8, like.device())?, 0)?;
    let first = first.reshape((batch, 1))?;
    let step = Tensor::new(&[step as u32], like.device())?;
    Ok(table.broadcast_add(&first.broadcast_mul(&step)?)?.flatten_all()?)
}
