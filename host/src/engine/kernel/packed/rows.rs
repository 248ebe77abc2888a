//! Where the rows of an operand come from: memory, or a norm of what lies there.
//!
//! A product takes such rows piece by piece, while they are in the cache, so that what a norm makes is
//! never written to memory: the backward pass makes it again.

use super::super::norm;
use super::{Format, pack};

/// The rows of a left operand, `[rows, width]`.
pub trait Rows: Sync {
    /// Numbers in a row.
    fn width(&self) -> usize;

    /// `count` rows from `first` on, where they lie in memory as they are.
    fn borrow(&self, first: usize, count: usize) -> Option<&[f32]>;

    /// `count` rows from `first` on, where they lie in memory as bf16, two neighbours in a word; an odd last number
    /// is paired with 0.
    fn borrow_pairs(&self, _first: usize, _count: usize) -> Option<&[u32]> {
        None
    }

    /// Makes the rows from `first` on that fill `out`.
    fn write(&self, first: usize, out: &mut [f32]);
}

/// Rows that lie in memory.
#[derive(Clone, Copy, Debug)]
pub struct Plain<'a> {
    /// `[rows, width]`.
    pub x: &'a [f32],
    /// Numbers in a row.
    pub width: usize,
}

impl Rows for Plain<'_> {
    fn width(&self) -> usize {
        self.width
    }

    fn borrow(&self, first: usize, count: usize) -> Option<&[f32]> {
        Some(&self.x[first * self.width..][..count * self.width])
    }

    fn write(&self, first: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.x[first * self.width..][..out.len()]);
    }
}

/// Layer-normed rows: `(x - mean) rstd weight + bias`.
#[derive(Clone, Copy, Debug)]
pub struct Normed<'a> {
    /// `[rows, D]`.
    pub x: &'a [f32],
    /// Mean of each row.
    pub mean: &'a [f32],
    /// 1 / sqrt(var + eps) of each row.
    pub rstd: &'a [f32],
    /// `[D]`.
    pub weight: &'a [f32],
    /// `[D]`.
    pub bias: &'a [f32],
}

impl Rows for Normed<'_> {
    fn width(&self) -> usize {
        self.weight.len()
    }

    fn borrow(&self, _: usize, _: usize) -> Option<&[f32]> {
        None
    }

    fn write(&self, first: usize, out: &mut [f32]) {
        let width = self.weight.len();
        let x = &self.x[first * width..][..out.len()];
        let (mean, rstd) = (&self.mean[first..], &self.rstd[first..]);
        norm::normalize_rows(x, (mean, rstd), (self.weight, self.bias), out);
    }
}

/// Rows of words.
#[derive(Clone, Debug)]
pub struct Words {
    /// What a word holds.
    pub format: Format,
    /// `rows` times as many words as a row of `width` numbers takes.
    pub words: Vec<u32>,
    /// Numbers in a row.
    pub width: usize,
}

impl Words {
    /// The words of `count` rows from `first` on.
    fn rows(&self, first: usize, count: usize) -> &[u32] {
        let stride = self.format.words(self.width);
        &self.words[first * stride..][..count * stride]
    }
}

impl Rows for Words {
    fn width(&self) -> usize {
        self.width
    }

    fn borrow(&self, first: usize, count: usize) -> Option<&[f32]> {
        (self.format != Format::Bf16).then(|| bytemuck::cast_slice(self.rows(first, count)))
    }

    fn borrow_pairs(&self, first: usize, count: usize) -> Option<&[u32]> {
        (self.format == Format::Bf16).then(|| self.rows(first, count))
    }

    fn write(&self, first: usize, out: &mut [f32]) {
        let count = out.len() / self.width.max(1);
        let words = self.rows(first, count).chunks(self.format.words(self.width).max(1));
        for (out, words) in out.chunks_mut(self.width.max(1)).zip(words) {
            pack::read_row(self.format, words, out);
        }
    }
}
