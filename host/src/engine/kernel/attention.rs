//! Fused multi-head attention, forward and backward, without a tensor of all pairs of tokens.
//!
//! Each (sample, head) is one piece of work. It takes its queries in blocks and holds the scores of
//! one block only; what stays for the backward pass is the log sum exp of each row of scores.

use super::block::{Left, Product, Transposed};
use super::dispatch::{Kernel, dispatch};
use super::threads::{self, Shared};
use super::{Float, lanes};

/// The most queries in a block, whose scores are held at once.
pub(super) const BLOCK: usize = 96;

/// Rows of scores are padded to a multiple of it: a register of f32.
const PAD: usize = 16;

/// The sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Samples, B.
    pub batch: usize,
    /// Tokens per sample, N.
    pub tokens: usize,
    /// Heads, H.
    pub heads: usize,
    /// Numbers per token and head, d.
    pub head_dim: usize,
}

impl Sizes {
    /// The elements of qkv: B N 3 H d.
    pub fn qkv_len(&self) -> usize {
        3 * self.out_len()
    }

    /// The elements of the result: B N H d.
    pub fn out_len(&self) -> usize {
        self.batch * self.tokens * self.heads * self.head_dim
    }

    /// The rows of scores: B H N.
    pub fn lse_len(&self) -> usize {
        self.batch * self.heads * self.tokens
    }

    /// From one token of the result to the next.
    pub(super) fn stride(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Where the result of (sample, head) number `index` begins.
    pub(super) fn out_start(&self, index: usize) -> usize {
        let (sample, head) = (index / self.heads, index % self.heads);
        sample * self.tokens * self.stride() + head * self.head_dim
    }

    /// Where its queries, keys and values begin.
    pub(super) fn qkv_starts(&self, index: usize) -> [usize; 3] {
        let (sample, head) = (index / self.heads, index % self.heads);
        let start = sample * self.tokens * 3 * self.stride() + head * self.head_dim;
        [start, start + self.stride(), start + 2 * self.stride()]
    }

    /// Tokens, rounded up to whole registers.
    pub(super) fn padded(&self) -> usize {
        self.tokens.next_multiple_of(PAD)
    }

    /// The same with fewer tokens: those of a padded sample that count.
    pub(super) fn shortened(self, tokens: usize) -> Self {
        Self { tokens, ..self }
    }

    /// Queries per block: blocks of nearly equal size, whole tiles of 6 rows.
    pub(super) fn block(&self) -> usize {
        let blocks = self.tokens.div_ceil(BLOCK).max(1);
        self.tokens.div_ceil(blocks).next_multiple_of(6).min(self.tokens)
    }
}

/// How scores are made, and of which tokens.
#[derive(Clone, Copy, Debug)]
pub struct Scores<'a, T> {
    /// What `q k^T` is multiplied by, above 0.
    pub scale: T,
    /// Tokens of each sample that count, `[B]`, at most N each; all where not given. The others are neither
    /// asked nor attended to.
    pub lengths: Option<&'a [u32]>,
}

impl<T> Scores<'_, T> {
    /// The tokens that count in (sample, head) number `index`.
    fn tokens(&self, sizes: Sizes, index: usize) -> usize {
        self.lengths
            .map_or(sizes.tokens, |lengths| sizes.tokens.min(lengths[index / sizes.heads] as usize))
    }
}

/// `out = softmax(scale q k^T) v` per sample and head.
///
/// qkv is `[B, N, 3, H, d]`, the result `[B, N, H d]`, 0 where a token doesn't count; `lse` `[B, H, N]` keeps the log
/// sum exp of each row of `scale q k^T`.
///
/// # Panics
/// When the lengths don't fit the sizes.
pub fn attention<T: Float>(
    qkv: &[T],
    sizes: Sizes,
    scores: Scores<'_, T>,
    lse: &mut [T],
) -> Vec<T> {
    forward_by::<T, ForwardSpace<T>>(qkv, sizes, scores, lse)
}

/// Scratch space of one thread that works out the result of one (sample, head) after another.
pub(super) trait ForwardByHead<T> {
    /// Room for heads of `sizes`.
    fn new(sizes: Sizes) -> Self;

    /// Works out the (sample, head) number `index`, of which as many tokens count as `lse` has places.
    fn run(&mut self, qkv: &[T], sizes: (Sizes, T), index: usize, made: (&Shared<'_, T>, &mut [T]));
}

/// [`attention`], by the products of `S`.
pub(super) fn forward_by<T: Float, S: ForwardByHead<T>>(
    qkv: &[T],
    sizes: Sizes,
    scores: Scores<'_, T>,
    lse: &mut [T],
) -> Vec<T> {
    assert_eq!(qkv.len(), sizes.qkv_len(), "qkv is [B, N, 3, H, d]");
    assert_eq!(lse.len(), sizes.lse_len(), "lse is [B, H, N]");
    let lse = Shared::new(lse);
    put_heads(sizes.out_len(), scores, |out| {
        threads::for_each(
            sizes.batch * sizes.heads,
            || S::new(sizes),
            |space, index| {
                let tokens = scores.tokens(sizes, index);
                // SAFETY: each index has rows of its own.
                let lse = unsafe { lse.part(index * sizes.tokens, tokens) };
                if tokens > 0 {
                    space.run(qkv, (sizes, scores.scale), index, (out, lse));
                }
            },
        );
    })
}

/// A vector of `n` elements, of which `body` puts those of every token that counts; the others are 0.
fn put_heads<T: Float>(
    n: usize,
    scores: Scores<'_, T>,
    body: impl FnOnce(&Shared<'_, T>),
) -> Vec<T> {
    if n == 0 {
        return Vec::new();
    }
    if scores.lengths.is_none() {
        // SAFETY: every token counts, and `body` puts all heads of each.
        return unsafe { threads::put(n, body) };
    }
    let mut zeros = threads::zeros(n);
    body(&Shared::new(&mut zeros));
    zeros
}

/// The scratch space of a forward pass.
struct ForwardSpace<T> {
    /// Keys, transposed: `[d, padded N]`.
    keys: Vec<T>,
    /// Scores, then probabilities: `[block, padded N]`.
    scores: Vec<T>,
    /// The result of a block: `[block, d]`.
    out: Vec<T>,
}

impl<T: Float> ForwardByHead<T> for ForwardSpace<T> {
    fn new(sizes: Sizes) -> Self {
        let (d, padded) = (sizes.head_dim, sizes.padded());
        Self {
            keys: vec![T::ZERO; d * padded],
            scores: vec![T::ZERO; BLOCK.min(sizes.tokens) * padded],
            out: vec![T::ZERO; BLOCK.min(sizes.tokens) * d],
        }
    }

    fn run(
        &mut self,
        qkv: &[T],
        (sizes, scale): (Sizes, T),
        index: usize,
        (out, lse): (&Shared<'_, T>, &mut [T]),
    ) {
        let (tokens, d, stride) = (lse.len(), sizes.head_dim, 3 * sizes.stride());
        let [q, k, v] = sizes.qkv_starts(index);
        let start = sizes.out_start(index);
        let sizes = sizes.shortened(tokens);
        let padded = sizes.padded();
        T::block_transpose(&qkv[k..], &sizes.across(), &mut self.keys);
        for (block, lse) in lse.chunks_mut(sizes.block()).enumerate() {
            let (first, rows) = (block * sizes.block(), lse.len());
            let queries =
                Left { data: &qkv[q + first * stride..], row_stride: stride, inner_stride: 1 };
            let product = sizes.scores(rows);
            T::block_product(queries, &self.keys, &product, &mut self.scores);
            let scores = &mut self.scores[..rows * padded];
            exponentials(scores, (padded, tokens), scale, lse);
            let chances = Left { data: &self.scores, row_stride: padded, inner_stride: 1 };
            T::block_product(chances, &qkv[v..], &sizes.mixture(rows, stride), &mut self.out);
            let place = (out, start + first * sizes.stride());
            // SAFETY: each (sample, head) has a place of its own in the row of each token.
            unsafe { put_rows(&self.out[..rows * d], place, sizes) };
        }
    }
}

/// Puts `rows` `[n, d]` into the rows of as many tokens, of which the first has its place at `start`.
///
/// # Safety
/// Nobody else writes those places or holds a part that overlaps them.
pub(super) unsafe fn put_rows<T: Float>(
    rows: &[T],
    (out, start): (&Shared<'_, T>, usize),
    sizes: Sizes,
) {
    for (i, from) in rows.chunks_exact(sizes.head_dim.max(1)).enumerate() {
        // SAFETY: the caller's promise.
        unsafe { out.put(start + i * sizes.stride(), from) };
    }
}

impl Sizes {
    /// `[N, d]` to `[d, padded N]`: tokens become columns.
    fn across(&self) -> Transposed {
        let stride = 3 * self.stride();
        Transposed { rows: self.tokens, cols: self.head_dim, stride, padded: self.padded() }
    }

    /// `[rows, d] x [d, padded N]`: scores, or gradients of probabilities.
    fn scores(&self, rows: usize) -> Product {
        let padded = self.padded();
        Product {
            rows,
            inner: self.head_dim,
            cols: padded,
            b_stride: padded,
            c_stride: padded,
            add: false,
        }
    }

    /// `[rows, N] x [N, d]`: a mixture of all tokens, `b_stride` apart, for each query.
    fn mixture(&self, rows: usize, b_stride: usize) -> Product {
        let d = self.head_dim;
        Product { rows, inner: self.tokens, cols: d, b_stride, c_stride: d, add: false }
    }

    /// `[N, rows] x [rows, d]`, added: what the queries of a block, `b_stride` apart, give to all tokens.
    fn spread(&self, rows: usize, b_stride: usize) -> Product {
        let d = self.head_dim;
        Product { rows: self.tokens, inner: rows, cols: d, b_stride, c_stride: d, add: true }
    }
}

/// Turns each row of scores, `padded` long, of which `tokens` count, into probabilities and keeps its log sum exp.
pub(super) fn exponentials<T: Float>(
    scores: &mut [T],
    (padded, tokens): (usize, usize),
    scale: T,
    lse: &mut [T],
) {
    dispatch(Exponentials { scores, padded, tokens, scale, lse });
}

struct Exponentials<'a, T> {
    scores: &'a mut [T],
    padded: usize,
    tokens: usize,
    scale: T,
    lse: &'a mut [T],
}

impl<T: Float> Kernel for Exponentials<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let scale = self.scale;
        for (row, lse) in self.scores.chunks_exact_mut(self.padded).zip(self.lse) {
            // Below every score, so that exp makes it 0.
            row[self.tokens..].fill(T::NEG_INFINITY);
            let row = row.as_chunks_mut::<PAD>().0;
            let mut lanes = row.first().copied().unwrap_or_default();
            for registers in row.iter() {
                for (lane, s) in lanes.iter_mut().zip(registers) {
                    *lane = s.larger(*lane);
                }
            }
            let max = lanes.into_iter().fold(T::NEG_INFINITY, Float::larger);
            let mut lanes = [T::ZERO; PAD];
            for registers in row.iter_mut() {
                for (lane, s) in lanes.iter_mut().zip(registers) {
                    *s = ((*s - max) * scale).exp::<FMA>();
                    *lane += *s;
                }
            }
            let sum = lanes::total(lanes);
            *lse = max * scale + sum.ln();
            let factor = T::ONE / sum;
            for s in row.as_flattened_mut() {
                *s *= factor;
            }
        }
    }
}

/// What the backward pass of [`attention`] reads.
#[derive(Clone, Copy, Debug)]
pub struct Backward<'a, T> {
    /// The input, `[B, N, 3, H, d]`.
    pub qkv: &'a [T],
    /// The saved log sum exp, `[B, H, N]`.
    pub lse: &'a [T],
    /// The gradient of the result, `[B, N, H d]`.
    pub dout: &'a [T],
}

/// The gradient of [`attention`] to qkv, in the same shape, 0 where a token doesn't count.
///
/// With p the probabilities: `dv = p^T dout`, `dp = dout v^T`, `ds = scale p (dp - sum p dp)`,
/// `dq = ds k`, `dk = ds^T q`.
///
/// # Panics
/// When the lengths don't fit the sizes.
pub fn attention_backward<T: Float>(
    backward: Backward<'_, T>,
    sizes: Sizes,
    scores: Scores<'_, T>,
) -> Vec<T> {
    backward_by::<T, BackwardSpace<T>>(backward, sizes, scores)
}

/// Scratch space of one thread that works out the gradients of one (sample, head) after another.
pub(super) trait BackwardByHead<T> {
    /// Room for heads of `sizes`.
    fn new(sizes: Sizes) -> Self;

    /// Works out the gradients of (sample, head) number `index`, of which so many tokens count.
    fn run(&mut self, backward: &Backward<'_, T>, sizes: (Sizes, usize), scale: T, index: usize);

    /// The gradients of queries, keys and values that were worked out last: `[N, d]` each.
    fn gradients(&self) -> &[Vec<T>; 3];
}

/// [`attention_backward`], by the products of `S`.
pub(super) fn backward_by<T: Float, S: BackwardByHead<T>>(
    backward: Backward<'_, T>,
    sizes: Sizes,
    scores: Scores<'_, T>,
) -> Vec<T> {
    let Backward { qkv, lse, dout } = backward;
    assert_eq!(qkv.len(), sizes.qkv_len(), "qkv is [B, N, 3, H, d]");
    assert_eq!(dout.len(), sizes.out_len(), "the result is [B, N, H d]");
    assert_eq!(lse.len(), sizes.lse_len(), "lse is [B, H, N]");
    put_heads(sizes.qkv_len(), scores, |dqkv| {
        threads::for_each(
            sizes.batch * sizes.heads,
            || S::new(sizes),
            |space, index| {
                let tokens = scores.tokens(sizes, index);
                if tokens == 0 {
                    return;
                }
                space.run(&backward, (sizes, tokens), scores.scale, index);
                for (start, from) in sizes.qkv_starts(index).into_iter().zip(space.gradients()) {
                    for (i, from) in from.chunks_exact(sizes.head_dim).take(tokens).enumerate() {
                        // SAFETY: each index has a place of its own in the row of each token.
                        unsafe { dqkv.put(start + i * 3 * sizes.stride(), from) };
                    }
                }
            },
        );
    })
}

/// The scratch space of a backward pass.
struct BackwardSpace<T> {
    /// Keys and values, transposed: `[d, padded N]` each.
    columns: [Vec<T>; 2],
    /// Probabilities and gradients of scores: `[block, padded N]` each.
    scores: [Vec<T>; 2],
    /// Gradients of queries, keys and values: `[N, d]` each.
    gradients: [Vec<T>; 3],
}

impl<T: Float> BackwardByHead<T> for BackwardSpace<T> {
    fn new(sizes: Sizes) -> Self {
        let (d, padded) = (sizes.head_dim, sizes.padded());
        let zeros = |len| vec![T::ZERO; len];
        Self {
            columns: std::array::from_fn(|_| zeros(d * padded)),
            scores: std::array::from_fn(|_| zeros(BLOCK.min(sizes.tokens) * padded)),
            gradients: std::array::from_fn(|_| zeros(sizes.tokens * d)),
        }
    }

    fn gradients(&self) -> &[Vec<T>; 3] {
        &self.gradients
    }

    fn run(
        &mut self,
        backward: &Backward<'_, T>,
        (whole, tokens): (Sizes, usize),
        scale: T,
        index: usize,
    ) {
        let sizes = whole.shortened(tokens);
        let (padded, d) = (sizes.padded(), sizes.head_dim);
        let (stride, out_stride) = (3 * sizes.stride(), sizes.stride());
        let [queries, keys, values] = whole.qkv_starts(index).map(|start| &backward.qkv[start..]);
        let dout = &backward.dout[whole.out_start(index)..];
        let lse = &backward.lse[index * whole.tokens..][..tokens];
        let [keys_across, values_across] = &mut self.columns;
        T::block_transpose(keys, &sizes.across(), keys_across);
        T::block_transpose(values, &sizes.across(), values_across);
        let [p, ds] = &mut self.scores;
        let [dq, dk, dv] = &mut self.gradients;
        dk.fill(T::ZERO);
        dv.fill(T::ZERO);
        for (block, lse) in lse.chunks(sizes.block()).enumerate() {
            let (first, rows) = (block * sizes.block(), lse.len());
            let (queries, dout) = (&queries[first * stride..], &dout[first * out_stride..]);
            let by_rows = |data, row_stride| Left { data, row_stride, inner_stride: 1 };
            let by_columns = |data| Left { data, row_stride: 1, inner_stride: padded };
            T::block_product(by_rows(queries, stride), keys_across, &sizes.scores(rows), p);
            T::block_product(by_rows(dout, out_stride), values_across, &sizes.scores(rows), ds);
            let (p_rows, ds_rows) = (&mut p[..rows * padded], &mut ds[..rows * padded]);
            score_gradients(p_rows, ds_rows, (padded, tokens), scale, lse);
            T::block_product(by_columns(p), dout, &sizes.spread(rows, out_stride), dv);
            T::block_product(by_columns(ds), queries, &sizes.spread(rows, stride), dk);
            let mixture = sizes.mixture(rows, stride);
            T::block_product(by_rows(ds, padded), keys, &mixture, &mut dq[first * d..]);
        }
    }
}

/// Turns scores into probabilities `p`, and the gradients of those into the gradients of scores; rows are `padded` long,
/// of which `tokens` count.
pub(super) fn score_gradients<T: Float>(
    p: &mut [T],
    ds: &mut [T],
    (padded, tokens): (usize, usize),
    scale: T,
    lse: &[T],
) {
    dispatch(ScoreGradients { p, ds, padded, tokens, scale, lse });
}

struct ScoreGradients<'a, T> {
    p: &'a mut [T],
    ds: &'a mut [T],
    padded: usize,
    tokens: usize,
    scale: T,
    lse: &'a [T],
}

impl<T: Float> Kernel for ScoreGradients<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let rows = self.p.chunks_exact_mut(self.padded);
        let rows = rows.zip(self.ds.chunks_exact_mut(self.padded));
        for ((p, ds), lse) in rows.zip(self.lse) {
            // exp makes it 0; the scores of the padding itself could overflow.
            p[self.tokens..].fill(T::NEG_INFINITY);
            // What products left there may be no number, which a probability of 0 would not silence.
            ds[self.tokens..].fill(T::ZERO);
            let (p, ds) = (p.as_chunks_mut::<PAD>().0, ds.as_chunks_mut::<PAD>().0);
            let mut lanes = [T::ZERO; PAD];
            for (p, dp) in p.iter_mut().zip(ds.iter()) {
                for ((lane, p), dp) in lanes.iter_mut().zip(p).zip(dp) {
                    *p = p.fma::<FMA>(self.scale, -*lse).exp::<FMA>();
                    *lane = p.fma::<FMA>(*dp, *lane);
                }
            }
            let inner = lanes::total(lanes);
            for (ds, p) in ds.as_flattened_mut().iter_mut().zip(p.as_flattened()) {
                *ds = *p * (*ds - inner) * self.scale;
            }
        }
    }
}

#[cfg(test)]
#[path = "attention_tests.rs"]
mod tests;
