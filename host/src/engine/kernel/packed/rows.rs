//! Where the rows of an operand come from: memory, or a norm or activation of what lies there.
//!
//! A product takes such rows piece by piece, while they are in the cache, so that what a norm or GELU
//! makes is never written to memory: the backward pass makes it again.

use super::super::activation::{self, Activation};
use super::super::norm;

/// The rows of a left operand, `[rows, width]`.
pub trait Rows: Sync {
    /// Numbers in a row.
    fn width(&self) -> usize;

    /// `count` rows from `first` on, where they lie in memory as they are.
    fn borrow(&self, first: usize, count: usize) -> Option<&[f32]>;

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

/// GELU of rows.
#[derive(Clone, Copy, Debug)]
pub struct Gelued<'a> {
    /// `[rows, width]`.
    pub x: &'a [f32],
    /// Numbers in a row.
    pub width: usize,
}

impl Rows for Gelued<'_> {
    fn width(&self) -> usize {
        self.width
    }

    fn borrow(&self, _: usize, _: usize) -> Option<&[f32]> {
        None
    }

    fn write(&self, first: usize, out: &mut [f32]) {
        let x = &self.x[first * self.width..][..out.len()];
        activation::forward_on_one_thread(Activation::Gelu, x, out);
    }
}
