//! Fused kernels for NVIDIA's GPUs: what is hot in a step, in one launch where tensor operations take many.
//!
//! A `.cu` file holds the kernels, the Rust file of the same name launches them: it makes the results,
//! chooses the grid and lists the arguments in the kernel's order. The portable forms
//! (`engine/portable`) ask [`fits`] and come here where it holds. A build with the feature `cuda`
//! launches on the GPU; the engine's tests launch the same kernels, by the same Rust, through `emulator.h` on
//! the processor, so that formulas, grids and arguments are checked without a GPU.

pub mod activation;
pub mod attention;
pub mod batch_norm;
#[cfg(test)]
mod bf16_tests;
#[cfg(test)]
pub(crate) mod emulated;
#[cfg_attr(
    not(feature = "cuda"),
    expect(dead_code, reason = "a build without CUDA has no GPU to launch on")
)]
mod launch;
pub mod loss;
pub mod norm;
#[cfg(feature = "cuda")]
mod product;
pub mod row;
pub mod update;
pub mod upload;
pub mod window;

use candle_core::{DType, Tensor};

use crate::Result;
use crate::engine::tape::Precision;

/// Notes that this thread opened `device`. Candle enqueues on the stream of the thread that calls, so work on a device is
/// in order as long as one thread does all of it; launches and copies of any other thread are refused.
#[cfg(feature = "cuda")]
pub fn owned_here(device: &candle_core::Device) {
    launch::own(device);
}

/// Whether the kernels can take `x`: f32 on a GPU of a build with the feature `cuda`.
pub fn fits(x: &Tensor) -> bool {
    #[cfg(test)]
    if emulated::on() {
        return x.dtype() == DType::F32;
    }
    cfg!(feature = "cuda") && x.device().is_cuda() && x.dtype() == DType::F32
}

/// Whether products of `x` take operands in bf16 as they are, which the kernels before them can make.
pub fn takes_operands(x: &Tensor) -> bool {
    cfg!(feature = "cuda") && x.device().is_cuda() && x.dtype() == DType::F32
}

/// `a b` of matrices or stacks of them by cuBLASLt: operands in bf16 and sums in f32; none where that is not at hand,
/// or f32 is asked for, which candle's own product does.
///
/// # Errors
/// When cuBLASLt refuses.
pub fn product(a: &Tensor, b: &Tensor, precision: Precision) -> Result<Option<Tensor>> {
    #[cfg(feature = "cuda")]
    if precision == Precision::Bf16 && a.device().is_cuda() {
        return product::bf16(a, b).map(Some);
    }
    let _ = (a, b, precision);
    Ok(None)
}
