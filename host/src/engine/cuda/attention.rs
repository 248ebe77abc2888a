//! Launches of `attention.cu` and `attention_bf16.cu`: attention without the N x N tensor.

use candle_core::{DType, Tensor};

use super::launch::{Arg, File, Launch, file, fresh, warps};
use crate::Result;
use crate::engine::kernel::attention::Sizes;
use crate::engine::tape::Precision;

const F32: File = file!("attention");
const BF16: File = file!("attention_bf16");

/// Whether the kernels have room for heads of that size.
pub fn fits(sizes: Sizes) -> bool {
    (1..=128).contains(&sizes.head_dim)
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
    fn of(sizes: Sizes, precision: Precision) -> Self {
        let padded = match sizes.head_dim {
            0..=32 => 32,
            33..=64 => 64,
            _ => 128,
        };
        match precision {
            Precision::F32 => Self::f32(padded),
            Precision::Bf16 => Self::bf16(padded),
        }
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
    let call = Call { sizes, scale, version: Version::of(sizes, precision) };
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
