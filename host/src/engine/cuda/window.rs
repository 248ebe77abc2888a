//! Launches of `window.cu`: windows of pictures side by side, put back, and the largest of each.

use candle_core::{DType, Tensor};

use super::launch::{Arg, File, Launch, file, fours, fresh};
use crate::Result;

const FILE: File = file!("window");

/// `Windows` of `window.cu`, field by field, each below 2^31: pictures `[B, H, W, C]` and the windows that are cut
/// from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Windows {
    /// H.
    pub height: u32,
    /// W.
    pub width: u32,
    /// C.
    pub channels: u32,
    /// Parts that channels are cut into.
    pub groups: u32,
    /// Windows from top to bottom.
    pub to_height: u32,
    /// Windows from left to right.
    pub to_width: u32,
    /// Rows of a window.
    pub kernel_height: u32,
    /// Columns of a window.
    pub kernel_width: u32,
    /// Pixels from one window to the next.
    pub stride: u32,
    /// Rows that the first window reaches beyond the picture.
    pub padding_height: u32,
    /// Columns of the same.
    pub padding_width: u32,
}

const _: () = assert!(size_of::<Windows>() == 44);

impl Windows {
    /// Numbers of one picture.
    fn numbers(&self) -> usize {
        [self.height, self.width, self.channels].iter().map(|size| *size as usize).product()
    }

    /// Windows of one picture.
    fn count(&self) -> usize {
        self.to_height as usize * self.to_width as usize
    }

    /// Numbers of the windows of one picture.
    fn taps(&self) -> usize {
        let taps = self.kernel_height as usize * self.kernel_width as usize;
        self.count() * taps * self.channels as usize
    }
}

// SAFETY: the sizes are plain numbers in C's layout, and the kernels take them by value.
#[cfg(feature = "cuda")]
unsafe impl candle_core::cuda_backend::cudarc::driver::DeviceRepr for Windows {}

/// The pixels under each window of x `[B, H, W, C]`: `[groups, B H' W', kh kw C / groups]`, zeros outside, in `dtype`
/// (f32 or bf16).
///
/// # Errors
/// When the device has no room, or the launch is refused.
pub fn unfold(x: &Tensor, windows: &Windows, dtype: DType) -> Result<Tensor> {
    let x = x.contiguous()?;
    let batch = x.dims()[0];
    let rows = batch * (windows.to_height * windows.to_width) as usize;
    let (groups, channels) = (windows.groups as usize, windows.channels as usize);
    let taps = (windows.kernel_height * windows.kernel_width) as usize;
    let columns = fresh((groups, rows, taps * (channels / groups)), dtype, &x)?;
    let n = columns.elem_count();
    let kernel = if dtype == DType::BF16 { "unfold_bf16" } else { "unfold_f32" };
    let args = [
        Arg::F32(&x, batch * windows.numbers()),
        Arg::in_type(dtype, &columns, n),
        Arg::Windows(windows),
        Arg::Int(batch),
        Arg::Long(n),
    ];
    launch(kernel, n).run(&x, &args)?;
    Ok(columns)
}

/// The way back: sums of what `columns` hold of each pixel, `[B, H, W, C]`.
///
/// # Errors
/// As [`unfold`].
pub fn fold(columns: &Tensor, windows: &Windows, batch: usize) -> Result<Tensor> {
    let columns = columns.contiguous()?;
    let x = pictures(windows, batch, &columns)?;
    let n = x.elem_count();
    let args = [
        Arg::F32(&columns, batch * windows.taps()),
        Arg::F32(&x, n),
        Arg::Windows(windows),
        Arg::Int(batch),
        Arg::Long(n),
    ];
    launch("fold", n).run(&columns, &args)?;
    Ok(x)
}

/// The largest under each window of x `[B, H, W, C]`, `[B, H', W', C]`, and where in its picture it stands, u32.
///
/// # Errors
/// As [`unfold`].
pub fn largest(x: &Tensor, windows: &Windows) -> Result<[Tensor; 2]> {
    let x = x.contiguous()?;
    let [height, width] = [windows.to_height as usize, windows.to_width as usize];
    let shape = (x.dims()[0], height, width, windows.channels as usize);
    let (y, places) = (fresh(shape, DType::F32, &x)?, fresh(shape, DType::U32, &x)?);
    let n = y.elem_count();
    let args = [
        Arg::F32(&x, x.dims()[0] * windows.numbers()),
        Arg::F32(&y, n),
        Arg::U32(&places, n),
        Arg::Windows(windows),
        Arg::Long(n),
    ];
    launch("pool_forward", n).run(&x, &args)?;
    Ok([y, places])
}

/// The gradient of [`largest`]: of x, from that of y.
///
/// # Errors
/// As [`unfold`].
pub fn largest_backward(dy: &Tensor, places: &Tensor, windows: &Windows) -> Result<Tensor> {
    let dy = dy.contiguous()?;
    let batch = dy.dims()[0];
    let dx = pictures(windows, batch, &dy)?;
    let (n, taken) = (dx.elem_count(), batch * windows.count() * windows.channels as usize);
    let args = [
        Arg::F32(&dy, taken),
        Arg::U32(places, taken),
        Arg::F32(&dx, n),
        Arg::Windows(windows),
        Arg::Long(n),
    ];
    launch("pool_backward", n).run(&dy, &args)?;
    Ok(dx)
}

fn pictures(windows: &Windows, batch: usize, like: &Tensor) -> Result<Tensor> {
    let [height, width, channels] =
        [windows.height, windows.width, windows.channels].map(|size| size as usize);
    fresh((batch, height, width, channels), DType::F32, like)
}

fn launch(kernel: &'static str, n: usize) -> Launch {
    Launch { file: FILE, kernel, grid: fours(n), threads: 256, shared: 0 }
}
