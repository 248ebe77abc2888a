//! Two affine maps with GELU between them, forward and backward, a few rows at a time.
//!
//! What lies between the maps is the widest of all that a transformer's block makes. Here it stays in the
//! cache; only what GELU took, in words of [`Format::kept`] (bf16 in half the memory), is written down for
//! the backward pass, which makes GELU and its slope from it in one go.

use std::mem::MaybeUninit;

use super::super::gelu;
use super::super::threads::{self, Shared};
use super::pack::{read_row, write_row};
use super::rows::{Plain, Rows, Words};
use super::{Format, Left, Panels, TASK, add_bias, multiply, multiply_into, transposed};

/// Sizes of both maps; none is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Rows of the input and of the result.
    pub rows: usize,
    /// Numbers in a row of the input.
    pub inputs: usize,
    /// Numbers between the maps.
    pub hidden: usize,
    /// Numbers in a row of the result.
    pub outputs: usize,
}

/// `gelu(x w1^T + b1) w2^T + b2`.
#[derive(Clone, Copy, Debug)]
pub struct Maps<'a> {
    /// `[hidden, inputs]`.
    pub w1: &'a [f32],
    /// `[hidden]`.
    pub b1: Option<&'a [f32]>,
    /// `[outputs, hidden]`.
    pub w2: &'a [f32],
    /// `[outputs]`.
    pub b2: Option<&'a [f32]>,
}

/// Gradients of the maps.
#[derive(Clone, Debug, Default)]
pub struct Gradients {
    /// `[hidden, inputs]`.
    pub w1: Vec<f32>,
    /// `[hidden]`.
    pub b1: Vec<f32>,
    /// `[outputs, hidden]`.
    pub w2: Vec<f32>,
    /// `[outputs]`.
    pub b2: Vec<f32>,
}

/// Scratch space of one thread.
#[derive(Default)]
struct Space {
    input: super::Space,
    /// The rows between the maps.
    hidden: Vec<f32>,
    /// The same as words of the second product.
    words: Vec<u32>,
    /// One row as it is kept.
    kept: Vec<u32>,
    /// One row of what GELU took.
    before: Vec<f32>,
}

impl Space {
    /// Makes room for `count` rows of `hidden` numbers between the maps; f32 needs no words beside them.
    fn resize(&mut self, format: Format, count: usize, hidden: usize) {
        self.hidden.resize(count * hidden, 0.0);
        if format != Format::F32 {
            self.words.resize(count * format.words(hidden), 0);
            self.kept.resize(format.kept().words(hidden), 0);
            self.before.resize(hidden, 0.0);
        }
    }

    /// Adds `bias` to the rows between the maps and takes their GELU; `keep` gets the number of each row and the words of
    /// what GELU took.
    fn activate(
        &mut self,
        format: Format,
        bias: Option<&[f32]>,
        hidden: usize,
        mut keep: impl FnMut(usize, &[u32]),
    ) {
        let rows = self.hidden.chunks_exact_mut(hidden);
        if format == Format::F32 {
            for (row, h) in rows.enumerate() {
                add_bias(h, bias);
                keep(row, bytemuck::cast_slice(h));
                gelu::in_place(h);
            }
            return;
        }
        let words = self.words.chunks_exact_mut(format.words(hidden));
        for (row, (h, words)) in rows.zip(words).enumerate() {
            add_bias(h, bias);
            write_row(format.kept(), &mut self.kept, h);
            keep(row, &self.kept);
            // GELU of what is kept, whose slope the backward pass takes.
            read_row(format.kept(), &self.kept, h);
            gelu::in_place(h);
            write_row(format, words, h);
        }
    }

    /// Takes the gradients between the maps back through GELU and adds them to `sums`; `kept` are the rows of what GELU
    /// took, and become GELU of it. `put` gets the number of each row and the words of its gradient as they are kept.
    fn turn(
        &mut self,
        format: Format,
        hidden: usize,
        (kept, sums): (&mut [u32], &mut [f32]),
        mut put: impl FnMut(usize, &[u32]),
    ) {
        let kept = kept.chunks_exact_mut(format.kept().words(hidden));
        let rows = self.hidden.chunks_exact_mut(hidden).zip(kept);
        if format == Format::F32 {
            for (row, (dh, kept)) in rows.enumerate() {
                gelu::turn(bytemuck::cast_slice_mut(kept), dh, sums);
                put(row, bytemuck::cast_slice(dh));
            }
            return;
        }
        let words = self.words.chunks_exact_mut(format.words(hidden));
        for (row, ((dh, kept), words)) in rows.zip(words).enumerate() {
            read_row(format.kept(), kept, &mut self.before);
            gelu::turn(&mut self.before, dh, sums);
            write_row(format.kept(), kept, &self.before);
            write_row(format, words, dh);
            if format == format.kept() {
                put(row, words);
            } else {
                write_row(format.kept(), &mut self.kept, dh);
                put(row, &self.kept);
            }
        }
    }

    /// What lies between the maps as the left operand of the second product.
    fn between(&self, format: Format, count: usize, hidden: usize) -> Left<'_> {
        let words = match format {
            Format::F32 => bytemuck::cast_slice(&self.hidden),
            Format::Rounded | Format::Bf16 => self.words.as_slice(),
        };
        Left::from_words(format, words, count, hidden)
    }
}

/// The result `[rows, outputs]`, and, where it `keeps` them, the words ([`Format::kept`]) of what GELU took.
///
/// # Panics
/// When a slice is too short.
pub fn forward(
    format: Format,
    x: &impl Rows,
    maps: Maps<'_>,
    sizes: Sizes,
    keeps: bool,
) -> (Vec<f32>, Vec<u32>) {
    let Sizes { rows, inputs, hidden, outputs } = sizes;
    let kept_height = format.kept().words(hidden);
    let first = Panels::from_columns(format, maps.w1, hidden, inputs);
    let second = Panels::from_columns(format, maps.w2, outputs, hidden);
    let piece =
        |space: &mut Space, task: usize, y: &mut [MaybeUninit<f32>], kept: &Shared<'_, u32>| {
            let (at, count) = (task * TASK, y.len() / outputs);
            space.resize(format, count, hidden);
            multiply(&space.input.left(format, x, at, count), 0, &first, &mut space.hidden, false);
            space.activate(format, maps.b1, hidden, |row, words| {
                if keeps {
                    // SAFETY: every row of words is put once, by the piece it belongs to.
                    unsafe { kept.put((at + row) * kept_height, words) };
                }
            });
            let y = multiply_into(&space.between(format, count, hidden), 0, &second, y);
            add_bias(y, maps.b2);
        };
    let mut y = Vec::new();
    let all = |kept: &Shared<'_, u32>| {
        let len = (rows * outputs, TASK * outputs);
        // SAFETY: a product writes every number of its piece.
        y = unsafe {
            threads::filled(len, Space::default, |space, task, y| piece(space, task, y, kept))
        };
    };
    // SAFETY: the pieces put every row of words that there is room for.
    let kept = unsafe { threads::put(if keeps { rows * kept_height } else { 0 }, all) };
    (y, kept)
}

/// The gradient to the rows of `x`, each piece of [`TASK`] rows `finish`ed, with the number of its first row,
/// while it is in the cache; and those of the maps. `kept` is what [`forward`] kept, and makes room for GELU of it.
///
/// # Panics
/// When a slice is too short.
pub fn backward(
    format: Format,
    (dy, x, mut kept): (&[f32], &impl Rows, Vec<u32>),
    maps: Maps<'_>,
    sizes: Sizes,
    finish: impl Fn(usize, &mut [f32]) + Sync,
) -> (Vec<f32>, Gradients) {
    let Sizes { rows, inputs, hidden, outputs } = sizes;
    let kept_height = format.kept().words(hidden);
    let second = Panels::from_rows(format, maps.w2, outputs, hidden);
    let first = Panels::from_rows(format, maps.w1, hidden, inputs);
    let dy_rows = Plain { x: dy, width: outputs };
    let mut partials = vec![0.0; rows.div_ceil(TASK) * hidden];
    let sums = Shared::new(&mut partials);
    let activated = Shared::new(&mut kept[..rows * kept_height]);
    let piece = |space: &mut Space,
                 task: usize,
                 dx: &mut [MaybeUninit<f32>],
                 dh_words: &Shared<'_, u32>| {
        let (at, count) = (task * TASK, dx.len() / inputs);
        space.resize(format, count, hidden);
        let left = space.input.left(format, &dy_rows, at, count);
        multiply(&left, 0, &second, &mut space.hidden, false);
        // SAFETY: every piece has sums of its own.
        let sums = unsafe { sums.part(task * hidden, hidden) };
        // SAFETY: every row of words is taken once, by the piece it belongs to.
        let activated = unsafe { activated.part(at * kept_height, count * kept_height) };
        space.turn(format, hidden, (activated, sums), |row, words| {
            // SAFETY: every row of words is put once, by the piece it belongs to.
            unsafe { dh_words.put((at + row) * kept_height, words) };
        });
        finish(at, multiply_into(&space.between(format, count, hidden), 0, &first, dx));
    };
    let mut dx = Vec::new();
    let all = |dh: &Shared<'_, u32>| {
        let len = (rows * inputs, TASK * inputs);
        // SAFETY: a product writes every number of its piece.
        dx = unsafe {
            threads::filled(len, Space::default, |space, task, dx| piece(space, task, dx, dh))
        };
    };
    // SAFETY: the pieces put every row of it.
    let dh = unsafe { threads::put(rows * kept_height, all) };
    let mut b1 = vec![0.0; hidden];
    threads::add_partial_sums(&partials, &mut b1);
    let shape = |m, n| transposed::Shape { k: rows, m, n };
    let w1 = {
        let dh = Words { format: format.kept(), words: dh, width: hidden };
        transposed::product(format, &dh, x, shape(hidden, inputs))
    };
    let activated = Words { format: format.kept(), words: kept, width: hidden };
    let (w2, b2) = transposed::product_and_sums(format, dy, &activated, shape(outputs, hidden));
    (dx, Gradients { w1, b1, w2, b2 })
}
