//! Attention whose products have operands in bf16 and sums in f32; probabilities, their sums and all gradients
//! of scores are f32.

use std::borrow::Cow;

use super::super::attention::{
    BLOCK, Backward, BackwardByHead, ForwardByHead, Scores, Sizes, backward_by, exponentials,
    forward_by, put_rows, score_gradients,
};
use super::super::threads::Shared;
use super::{Format, HEIGHT, Left, Panels, WIDTH, lanes, multiply, pack};

/// As [`super::super::attention::attention`].
///
/// # Panics
/// When the lengths don't fit the sizes.
pub fn attention(qkv: &[f32], sizes: Sizes, scores: Scores<'_, f32>, lse: &mut [f32]) -> Vec<f32> {
    forward_by::<f32, Forward>(qkv, sizes, scores, lse)
}

/// As [`super::super::attention::attention_backward`].
///
/// # Panics
/// When the lengths don't fit the sizes.
pub fn attention_backward(
    backward: Backward<'_, f32>,
    sizes: Sizes,
    scores: Scores<'_, f32>,
) -> Vec<f32> {
    backward_by::<f32, Gradients>(backward, sizes, scores)
}

/// Rows of numbers that lie `stride` apart.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    x: &'a [f32],
    rows: usize,
    columns: usize,
    stride: usize,
}

impl<'a> Matrix<'a> {
    /// The numbers from the first row to the end of the last, where there are rows.
    fn numbers(&self) -> &'a [f32] {
        &self.x[..self.rows.saturating_sub(1) * self.stride + self.columns]
    }
}

/// Words that one operand after another is packed into.
struct Room {
    words: Vec<u32>,
    format: Format,
}

impl Default for Room {
    fn default() -> Self {
        Self { words: Vec::new(), format: Format::of(true) }
    }
}

impl Room {
    /// The first `n` words; what they hold is of no account.
    fn words(&mut self, n: usize) -> &mut [u32] {
        if self.words.len() < n {
            self.words.resize(n, 0);
        }
        &mut self.words[..n]
    }

    /// `x` as a left operand.
    fn left(&mut self, x: Matrix<'_>) -> Left<'_> {
        let format = self.format;
        let height = format.words(x.columns);
        let words = self.words(x.rows * height);
        for (words, row) in words.chunks_exact_mut(height).zip(x.numbers().chunks(x.stride)) {
            pack::write_row(format, words, &row[..x.columns]);
        }
        Left::from_words(format, words, x.rows, x.columns)
    }

    /// The transpose of `x` as a left operand.
    fn left_across(&mut self, x: Matrix<'_>) -> Left<'_> {
        let format = self.format;
        let height = format.words(x.rows);
        let words = self.words(x.columns.div_ceil(HEIGHT) * HEIGHT * height);
        let tiles = (&mut *words, HEIGHT * height);
        pack::interleave(format, HEIGHT, tiles, (x.numbers(), x.stride), (0, x.columns));
        let words = Cow::Borrowed(&*words);
        Left { words, format, rows: x.columns, k: x.rows, tiled: true, stride: 0 }
    }

    /// Packs `x` as a right operand.
    fn pack_right(&mut self, x: Matrix<'_>) {
        let format = self.format;
        let height = format.words(x.rows);
        let words = self.words(x.columns.div_ceil(WIDTH) * WIDTH * height);
        let panels = (words, lanes() * height);
        pack::interleave(format, lanes(), panels, (x.numbers(), x.stride), (0, x.columns));
    }

    /// Packs the transpose of `x` as a right operand; where rows are missing in the last 16 columns there are zeros.
    fn pack_right_across(&mut self, x: Matrix<'_>) {
        let format = self.format;
        let panel = format.words(x.columns) * WIDTH;
        let words = self.words(x.rows.div_ceil(WIDTH) * panel);
        let rows = x.numbers().chunks(WIDTH * x.stride);
        for (words, rows) in words.chunks_exact_mut(panel).zip(rows) {
            pack::columns((format, lanes()), words, (rows, x.stride), x.columns);
        }
    }

    /// What was packed, `[k, n]`.
    fn right(&self, k: usize, n: usize) -> Panels<'_> {
        Panels::from_words(self.format, &self.words, k, n)
    }
}

/// The scratch space of a forward pass.
struct Forward {
    keys: Room,
    values: Room,
    /// Queries, then probabilities.
    left: Room,
    /// Scores, then probabilities: `[block, padded N]`.
    scores: Vec<f32>,
    /// The result of a block: `[block, d]`.
    out: Vec<f32>,
}

impl ForwardByHead<f32> for Forward {
    fn new(sizes: Sizes) -> Self {
        let block = BLOCK.min(sizes.tokens);
        Self {
            keys: Room::default(),
            values: Room::default(),
            left: Room::default(),
            scores: vec![0.0; block * sizes.padded()],
            out: vec![0.0; block * sizes.head_dim],
        }
    }

    fn run(
        &mut self,
        qkv: &[f32],
        (sizes, scale): (Sizes, f32),
        index: usize,
        (out, lse): (&Shared<'_, f32>, &mut [f32]),
    ) {
        let (tokens, d, stride) = (lse.len(), sizes.head_dim, 3 * sizes.stride());
        let [q, k, v] = sizes.qkv_starts(index);
        let start = sizes.out_start(index);
        let sizes = sizes.shortened(tokens);
        let padded = sizes.padded();
        let part = |at, rows| Matrix { x: &qkv[at..], rows, columns: d, stride };
        self.keys.pack_right_across(part(k, tokens));
        self.values.pack_right(part(v, tokens));
        for (block, lse) in lse.chunks_mut(sizes.block()).enumerate() {
            let (first, rows) = (block * sizes.block(), lse.len());
            let scores = &mut self.scores[..rows * padded];
            let queries = self.left.left(part(q + first * stride, rows));
            multiply(&queries, 0, &self.keys.right(d, padded), scores, false);
            exponentials(scores, (padded, tokens), scale, lse);
            let chances = Matrix { x: scores, rows, columns: tokens, stride: padded };
            let mixed = &mut self.out[..rows * d];
            multiply(&self.left.left(chances), 0, &self.values.right(tokens, d), mixed, false);
            let place = (out, start + first * sizes.stride());
            // SAFETY: each (sample, head) has a place of its own in the row of each token.
            unsafe { put_rows(mixed, place, sizes) };
        }
    }
}

/// The scratch space of a backward pass.
struct Gradients {
    /// Keys and values, transposed.
    across: [Room; 2],
    keys: Room,
    left: Room,
    right: Room,
    /// Probabilities and gradients of scores: `[block, padded N]` each.
    scores: [Vec<f32>; 2],
    /// Gradients of queries, keys and values: `[N, d]` each.
    made: [Vec<f32>; 3],
}

impl BackwardByHead<f32> for Gradients {
    fn new(sizes: Sizes) -> Self {
        let scores = BLOCK.min(sizes.tokens) * sizes.padded();
        Self {
            across: Default::default(),
            keys: Room::default(),
            left: Room::default(),
            right: Room::default(),
            scores: std::array::from_fn(|_| vec![0.0; scores]),
            made: std::array::from_fn(|_| vec![0.0; sizes.tokens * sizes.head_dim]),
        }
    }

    fn gradients(&self) -> &[Vec<f32>; 3] {
        &self.made
    }

    fn run(
        &mut self,
        backward: &Backward<'_, f32>,
        (whole, tokens): (Sizes, usize),
        scale: f32,
        index: usize,
    ) {
        let sizes = whole.shortened(tokens);
        let (padded, d) = (sizes.padded(), sizes.head_dim);
        let (stride, out_stride) = (3 * sizes.stride(), sizes.stride());
        let part = |x, rows, stride| Matrix { x, rows, columns: d, stride };
        let [queries, keys, values] = whole.qkv_starts(index).map(|start| &backward.qkv[start..]);
        let dout = &backward.dout[whole.out_start(index)..];
        let lse = &backward.lse[index * whole.tokens..][..tokens];
        let Self { across: [keys_across, values_across], left, right, .. } = self;
        keys_across.pack_right_across(part(keys, tokens, stride));
        values_across.pack_right_across(part(values, tokens, stride));
        self.keys.pack_right(part(keys, tokens, stride));
        let [dq, dk, dv] = &mut self.made;
        for (block, lse) in lse.chunks(sizes.block()).enumerate() {
            let (first, rows) = (block * sizes.block(), lse.len());
            let queries = part(&queries[first * stride..], rows, stride);
            let dout = part(&dout[first * out_stride..], rows, out_stride);
            let [p, ds] = self.scores.each_mut().map(|scores| &mut scores[..rows * padded]);
            multiply(&left.left(queries), 0, &keys_across.right(d, padded), p, false);
            multiply(&left.left(dout), 0, &values_across.right(d, padded), ds, false);
            score_gradients(p, ds, (padded, tokens), scale, lse);
            let scores = |x| Matrix { x, rows, columns: tokens, stride: padded };
            for (made, scores, rows_of) in
                [(&mut *dv, scores(p), dout), (&mut *dk, scores(ds), queries)]
            {
                right.pack_right(rows_of);
                let made = &mut made[..tokens * d];
                multiply(&left.left_across(scores), 0, &right.right(rows, d), made, block > 0);
            }
            let made = &mut dq[first * d..][..rows * d];
            multiply(&left.left(scores(ds)), 0, &self.keys.right(tokens, d), made, false);
        }
    }
}
