//! Products with operands in bf16 and sums in f32, by cuBLAS.

use candle_core::cuda_backend::cudarc::cublas::{result, sys};
use candle_core::{DType, Device, Tensor};

use super::activation::round;
use super::launch::{address, fresh, owned};
use crate::{Error, Result};

/// A stack of matrices in bf16, in memory row by row, perhaps of the transposed matrix.
struct Operand {
    tensor: Tensor,
    transposed: bool,
}

impl Operand {
    /// Of `x` `[..., rows, cols]`, whose memory is not moved where it only has to be read the other way round.
    fn new(x: &Tensor) -> Result<Self> {
        let rank = x.rank();
        let turned = x.transpose(rank - 2, rank - 1)?;
        let transposed = !x.is_contiguous() && turned.is_contiguous();
        let tensor = if transposed { turned } else { x.contiguous()? };
        let tensor = if tensor.dtype() == DType::BF16 { tensor } else { round(&tensor)? };
        Ok(Self { tensor, transposed })
    }

    fn operation(&self) -> sys::cublasOperation_t {
        if self.transposed {
            sys::cublasOperation_t::CUBLAS_OP_T
        } else {
            sys::cublasOperation_t::CUBLAS_OP_N
        }
    }

    /// Numbers from one row in memory to the next.
    fn leading(&self) -> usize {
        self.tensor.dims()[self.tensor.rank() - 1]
    }
}

/// `a b` in f32: `[M, K]` and `[K, N]`, or stacks of as many of both.
///
/// # Errors
/// When the shapes don't fit, or cuBLAS refuses.
pub(super) fn bf16(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (&[ref lead @ .., m, k], &[ref others @ .., inner, n]) = (a.dims(), b.dims()) else {
        return Err(Error::failed("a product needs matrices"));
    };
    if k != inner || lead != others {
        return Err(Error::failed(format!("no product of {:?} and {:?}", a.dims(), b.dims())));
    }
    let batch: usize = lead.iter().product();
    let shape = [lead, &[m, n]].concat();
    if batch * m * n * k == 0 {
        return Ok(Tensor::zeros(shape, DType::F32, a.device())?);
    }
    let (a, b) = (Operand::new(a)?, Operand::new(b)?);
    let c = fresh(shape, DType::F32, &a.tensor)?;
    let Device::Cuda(device) = c.device() else {
        return Err(Error::failed("cuBLAS multiplies on a GPU"));
    };
    owned(device)?;
    let int = |n: usize| {
        i32::try_from(n).map_err(|_| Error::failed(format!("{n} is too large for cuBLAS")))
    };
    let (alpha, beta) = (1.0_f32, 0.0_f32);
    let (one, zero) = (std::ptr::from_ref(&alpha).cast(), std::ptr::from_ref(&beta).cast());
    let left = address(&b.tensor, DType::BF16, batch * k * n)?;
    let right = address(&a.tensor, DType::BF16, batch * m * k)?;
    let made = address(&c, DType::F32, batch * m * n)?;
    let blas = device.cublas_handle();
    let half = sys::cudaDataType_t::CUDA_R_16BF;
    // cuBLAS counts by columns, so memory by rows is the transposed matrix to it: c^T = b^T a^T.
    // SAFETY: sizes and leading dimensions are those of the three tensors, which live until the call has
    // enqueued the product; alpha and beta lie on the host, as the handle's mode says.
    unsafe {
        result::gemm_strided_batched_ex(
            *blas.handle(),
            b.operation(),
            a.operation(),
            int(n)?,
            int(m)?,
            int(k)?,
            one,
            left as *const _,
            half,
            int(b.leading())?,
            (k * n) as i64,
            right as *const _,
            half,
            int(a.leading())?,
            (m * k) as i64,
            zero,
            made as *mut _,
            sys::cudaDataType_t::CUDA_R_32F,
            int(n)?,
            (m * n) as i64,
            int(batch)?,
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .map_err(|error| Error::failed("cuBLAS refused a product").because(format!("{error:?}")))?;
    Ok(c)
}
