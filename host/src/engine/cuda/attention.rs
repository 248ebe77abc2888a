//! Launches of `attention.cu` and `attention_bf16.cu`: attention without the N x N tensor.

use candle_core::{DType, Tensor};

use super::launch::{Arg, File, Launch, file, fresh, warps};
use crate::engine::kernel::attention::Sizes;
use crate::engine::tape::Precision;
use crate::{Error, Result};

const F32: File = file!("attention");
const BF16: File = file!("attention_bf16");

/// Whether some kernel has room for heads of that size where `x` lies.
pub fn fits(sizes: Sizes, precision: Precision, x: &Tensor) -> bool {
    Version::of(sizes, precision, most_shared(x)).is_some()
}

/// Bytes of shared memory that a block may ask for where `x` lies; under emulation as many as it likes.
fn most_shared(x: &Tensor) -> usize {
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(device) = x.device() {
        use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute_enum as Attribute;
        let most = Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let most = device.cuda_stream().context().attribute(most);
        return most.map_or(0, |bytes| bytes.unsigned_abs() as usize);
    }
    let _ = x;
    usize::MAX
}

/// What a backward pass needs besides qkv.
#[derive(Debug)]
pub struct Attended {
    /// The result, `[B, N, D]`.
    pub out: Tensor,
    /// The log sum exp of every row of scores, `[B heads, N]`.
    lse: Tensor,
    /// See [`forward`].
    lengths: Option<Tensor>,
    call: Call,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    sizes: Sizes,
    scale: f64,
    version: Version,
}

/// The kernels for heads of one size, in one precision.
#[derive(Clone, Copy, Debug)]
struct Version {
    file: File,
    /// Forward and backward.
    kernels: [&'static str; 2],
    /// Rows that a block works on.
    rows: usize,
    threads: usize,
    /// Bytes of shared memory, forward and backward.
    shared: [usize; 2],
}

impl Version {
    /// The version for `most` bytes of shared memory: in f32 where the one in bf16 has no room, none where no kernel has.
    fn of(sizes: Sizes, precision: Precision, most: usize) -> Option<Self> {
        let padded = match sizes.head_dim {
            1..=32 => 32,
            33..=64 => 64,
            65..=128 => 128,
            _ => return None,
        };
        let fits = |version: &Self| version.shared.iter().all(|bytes| *bytes <= most);
        let bf16 = (precision == Precision::Bf16).then(|| Self::bf16(padded)).filter(fits);
        bf16.or_else(|| Some(Self::f32(padded)).filter(fits))
    }

    /// Rows of `padded` + 1 numbers, and scores against 32 others at a time.
    fn f32(padded: usize) -> Self {
        let kernels = match padded {
            32 => ["attention_forward_32", "attention_backward_32"],
            64 => ["attention_forward_64", "attention_backward_64"],
            _ => ["attention_forward_128", "attention_backward_128"],
        };
        let (rows, columns) = (if padded == 128 { 32 } else { 64 }, 32);
        let scores = rows * (columns + 1);
        let forward = (rows + 2 * columns) * (padded + 1) + scores;
        let backward = 2 * (rows + columns) * (padded + 1) + 2 * scores + 2 * columns;
        let shared = [4 * forward, 4 * backward];
        Self { file: F32, kernels, rows, threads: 4 * rows, shared }
    }

    /// Tiles of 64 rows of `padded` + 8 numbers in bf16, shares with 72 and scores with 68 to a row.
    fn bf16(padded: usize) -> Self {
        let kernels = match padded {
            32 => ["attention_forward_bf16_32", "attention_backward_bf16_32"],
            64 => ["attention_forward_bf16_64", "attention_backward_bf16_64"],
            _ => ["attention_forward_bf16_128", "attention_backward_bf16_128"],
        };
        let (rows, tile, shares, scores) = (64, 64 * (padded + 8), 64 * 72, 64 * 68);
        let forward = 2 * (3 * tile + shares) + 4 * (scores + 64 * (padded + 4));
        let backward = 2 * (4 * tile + 2 * shares) + 4 * (2 * scores + 2 * rows);
        Self { file: BF16, kernels, rows, threads: 128, shared: [forward, backward] }
    }

    fn launch(self, pass: usize, sizes: Sizes) -> Launch {
        Launch {
            file: self.file,
            kernel: self.kernels[pass],
            grid: [sizes.batch * sizes.heads, sizes.tokens.div_ceil(self.rows)],
            threads: self.threads,
            shared: self.shared[pass],
        }
    }
}

/// softmax(scale q k^T) v of every head, with operands of products in `precision`; of the first `lengths[b]` (u32) tokens
/// of sample b, if lengths are given, and 0 for the others. A length above N makes NaN.
///
/// # Errors
/// When the device has no room, or the launch is refused.
pub fn forward(
    (qkv, lengths): (&Tensor, Option<&Tensor>),
    sizes: Sizes,
    scale: f64,
    precision: Precision,
) -> Result<Attended> {
    let Sizes { batch, tokens, heads, head_dim } = sizes;
    let lengths = lengths.map(Tensor::contiguous).transpose()?;
    let version = Version::of(sizes, precision, most_shared(qkv))
        .ok_or_else(|| Error::failed(format!("no kernel has room for heads of {head_dim}")))?;
    let call = Call { sizes, scale, version };
    let qkv = qkv.contiguous()?;
    let out = fresh((batch, tokens, heads * head_dim), DType::F32, &qkv)?;
    let lse = fresh((batch * heads, tokens), DType::F32, &qkv)?;
    let args = [
        Arg::F32(&qkv, 3 * sizes.out_len()),
        counted(lengths.as_ref(), sizes),
        Arg::F32(&out, sizes.out_len()),
        Arg::F32(&lse, batch * heads * tokens),
        Arg::Int(tokens),
        Arg::Int(heads),
        Arg::Int(head_dim),
        Arg::Float(scale),
    ];
    call.version.launch(0, sizes).run(&qkv, &args)?;
    Ok(Attended { out, lse, lengths, call })
}

/// Lengths as the kernels take them, or a null address.
fn counted(lengths: Option<&Tensor>, sizes: Sizes) -> Arg<'_> {
    lengths.map_or(Arg::Null, |lengths| Arg::U32(lengths, sizes.batch))
}

impl Attended {
    /// The gradient of qkv from that of the result.
    ///
    /// # Errors
    /// As [`forward`].
    pub fn gradient(&self, qkv: &Tensor, dout: &Tensor) -> Result<Tensor> {
        let Call { sizes, scale, version } = self.call;
        let Sizes { batch, tokens, heads, head_dim } = sizes;
        let (qkv, dout) = (qkv.contiguous()?, dout.contiguous()?);
        let delta = self.delta(&dout)?;
        let (rows, all) = (batch * heads * tokens, sizes.out_len());
        let dqkv = fresh((batch, tokens, 3 * heads * head_dim), DType::F32, &qkv)?;
        // The gradient of queries, then that of keys and values.
        for queries in [1, 0] {
            let args = [
                Arg::F32(&qkv, 3 * all),
                counted(self.lengths.as_ref(), sizes),
                Arg::F32(&dout, all),
                Arg::F32(&self.lse, rows),
                Arg::F32(&delta, rows),
                Arg::F32(&dqkv, 3 * all),
                Arg::Int(tokens),
                Arg::Int(heads),
                Arg::Int(head_dim),
                Arg::Float(scale),
                Arg::Int(queries),
            ];
            version.launch(1, sizes).run(&qkv, &args)?;
        }
        Ok(dqkv)
    }

    /// The sum of out dout over each head, `[B heads, N]`.
    fn delta(&self, dout: &Tensor) -> Result<Tensor> {
        let Sizes { batch, tokens, heads, head_dim } = self.call.sizes;
        let delta = fresh((batch * heads, tokens), DType::F32, dout)?;
        let rows = batch * tokens * heads;
        let args = [
            Arg::F32(&self.out, rows * head_dim),
            Arg::F32(dout, rows * head_dim),
            Arg::F32(&delta, rows),
            Arg::Int(rows),
            Arg::Int(tokens),
            Arg::Int(heads),
            Arg::Int(head_dim),
        ];
        let (grid, threads) = (warps(rows), 256);
        Launch { file: F32, kernel: "attention_delta", grid, threads, shared: 0 }
            .run(dout, &args)?;
        Ok(delta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_without_room_in_shared_memory_makes_way_for_one_in_f32() {
        let version = |head_dim, precision, most| {
            let sizes = Sizes { batch: 1, tokens: 8, heads: 1, head_dim };
            Version::of(sizes, precision, most).map(|version| version.kernels[0])
        };
        // What a block may ask for at most: 163 KiB by capability 8.0, 99 KiB by 8.6, 8.9 and 12.0.
        let (large, small) = (163 << 10, 99 << 10);
        let (bf16, f32) = (Precision::Bf16, Precision::F32);
        assert_eq!(version(128, bf16, large), Some("attention_forward_bf16_128"));
        assert_eq!(version(65, bf16, small), Some("attention_forward_128"));
        assert_eq!(version(64, bf16, small), Some("attention_forward_bf16_64"));
        assert_eq!(version(128, f32, small), Some("attention_forward_128"));
        assert_eq!(version(128, f32, 48 << 10), None);
        assert_eq!(version(129, f32, large), None);
    }
}
