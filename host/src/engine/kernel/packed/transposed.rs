//! `c = a^T b` for tall operands: the gradient of a weight, summed over every row of a batch.
//!
//! Rows are taken in blocks that are packed into the cache and used at once, so that each operand is read
//! from memory once or few times. Sums over groups of blocks are made side by side and added in
//! order; groups depend on the shape alone, so that the number of threads changes no bit.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use super::super::dispatch::{Kernel, dispatch};
use super::super::threads;
use super::pack::{interleave, interleave_pairs};
use super::rows::{Plain, Rows};
use super::{Format, HEIGHT, Left, Panels, TASK, WIDTH, lanes, multiply};

/// Rows of both operands in a block, by the width of a word. No power of two: tiles, which are filled side by side,
/// would begin in the same lines of the cache.
const BLOCK_WORDS: usize = 126;
/// Pieces of work below which one more group of blocks is made.
const PIECES: usize = 16;

/// Shapes of the operands: `a` `[k, m]`, `b` `[k, n]`, `c` `[m, n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of both operands.
    pub k: usize,
    /// Columns of the left operand, rows of the result.
    pub m: usize,
    /// Columns of the right operand and of the result.
    pub n: usize,
}

/// Rows that are made at a time; even, so that pairs stay whole.
const MADE: usize = 32;

/// Scratch space of one thread.
#[derive(Default)]
struct Space {
    left: Vec<u32>,
    right: Vec<u32>,
    made: Vec<f32>,
}

/// Rows of the result, and sums of as many columns of `a`.
#[derive(Clone, Default)]
struct Piece {
    product: Vec<f32>,
    sums: Vec<f32>,
}

/// `a^T b`, `[m, n]`.
///
/// # Panics
/// When an operand has another width than `shape`, or too few rows.
pub fn product(format: Format, a: &impl Rows, b: &impl Rows, shape: Shape) -> Vec<f32> {
    made(format, (a, b), shape, false).0
}

/// `a^T b`, `[m, n]`, and the sums of the columns of `a`, `[m]`.
///
/// # Panics
/// When a slice is too short.
pub fn product_and_sums(
    format: Format,
    a: &[f32],
    b: &impl Rows,
    shape: Shape,
) -> (Vec<f32>, Vec<f32>) {
    made(format, (&Plain { x: a, width: shape.m }, b), shape, true)
}

fn made(
    format: Format,
    (a, b): (&impl Rows, &impl Rows),
    shape: Shape,
    wants_sums: bool,
) -> (Vec<f32>, Vec<f32>) {
    let Shape { k, m, n } = shape;
    assert!(a.width() == m && b.width() == n, "shapes of a product");
    let width = if wants_sums { m } else { 0 };
    if k == 0 || m * n == 0 {
        return (vec![0.0; m * n], vec![0.0; width]);
    }
    let piece = 4 * TASK;
    let block = BLOCK_WORDS * format.group();
    let blocks = k.div_ceil(block);
    let pieces = m.div_ceil(piece);
    let groups = PIECES.div_ceil(pieces).min(blocks);
    let rows = blocks.div_ceil(groups) * block;
    let groups = k.div_ceil(rows);
    let mut parts = vec![Piece::default(); groups * pieces];
    parts.par_iter_mut().enumerate().for_each_init(Space::default, |space, (task, part)| {
        let (group, i) = (task / pieces, task % pieces);
        let range = (group * rows).min(k)..((group + 1) * rows).min(k);
        let wide = piece.min(m - i * piece);
        part.product = vec![0.0; wide * n];
        part.sums = vec![0.0; if wants_sums { wide } else { 0 }];
        space.sum(format, (a, b), shape, (range, i * piece), part);
    });
    let sums = (0..width)
        .map(|j| (0..groups).map(|group| parts[group * pieces + j / piece].sums[j % piece]).sum());
    let sums = sums.collect();
    if groups == 1 && pieces == 1 {
        return (std::mem::take(&mut parts[0].product), sums);
    }
    let product = threads::made(
        (m * n, piece * n),
        || (),
        |(), i, c: &mut [f32]| {
            for group in 0..groups {
                let partial = &parts[group * pieces + i].product;
                c.iter_mut().zip(partial).for_each(|(c, p)| *c += p);
            }
        },
    );
    (product, sums)
}

impl Space {
    /// Rows of the result from `first` on, summed over `range`; the sums of `part` hold zeros, none where they are not wanted.
    fn sum(
        &mut self,
        format: Format,
        (a, b): (&impl Rows, &impl Rows),
        Shape { n, .. }: Shape,
        (range, first): (Range<usize>, usize),
        part: &mut Piece,
    ) {
        let rows = part.product.len() / n;
        let block = BLOCK_WORDS * format.group();
        for start in range.clone().step_by(block) {
            let k = block.min(range.end - start);
            let words = format.words(k);
            self.left.resize(rows.div_ceil(HEIGHT) * HEIGHT * words, 0);
            self.right.resize(n.div_ceil(WIDTH) * WIDTH * words, 0);
            let (block, made) = (start..start + k, &mut self.made);
            let left = (self.left.as_mut_slice(), HEIGHT * words);
            pack((format, HEIGHT), left, (a, block.clone(), made), (first, rows));
            if !part.sums.is_empty() {
                let rows = a.borrow(start, k).expect("rows that are summed lie in memory");
                dispatch(AddRows { rows, stride: a.width(), first, sums: &mut part.sums });
            }
            let right = (self.right.as_mut_slice(), lanes() * words);
            pack((format, lanes()), right, (b, block, made), (0, n));
            let words = Cow::Borrowed(self.left.as_slice());
            let left = Left { words, format, rows, k, tiled: true, stride: 0 };
            let right = Panels::from_words(format, &self.right, k, n);
            multiply(&left, 0, &right, &mut part.product, start > range.start);
        }
    }
}

/// Packs columns of the rows `range` of `x` for the kernel, as [`interleave`] has it; `made` is room for rows.
fn pack(
    (format, lanes): (Format, usize),
    (words, step): (&mut [u32], usize),
    (x, range, made): (&impl Rows, Range<usize>, &mut Vec<f32>),
    columns: (usize, usize),
) {
    let width = x.width();
    if let (Format::Bf16, Some(rows)) = (format, x.borrow_pairs(range.start, range.len())) {
        interleave_pairs(lanes, (words, step), (rows, format.words(width)), columns);
    } else if let Some(rows) = x.borrow(range.start, range.len()) {
        interleave(format, lanes, (words, step), (rows, width), columns);
    } else {
        for start in range.clone().step_by(MADE) {
            let count = MADE.min(range.end - start);
            made.resize(count * width, 0.0);
            x.write(start, made);
            let at = (start - range.start) / format.group() * lanes;
            interleave(format, lanes, (&mut words[at..], step), (made, width), columns);
        }
    }
}

/// Adds the columns of `rows` from `first` on to `sums`.
struct AddRows<'a> {
    rows: &'a [f32],
    stride: usize,
    first: usize,
    sums: &'a mut [f32],
}

impl Kernel for AddRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for row in self.rows.chunks_exact(self.stride) {
            let row = &row[self.first..][..self.sums.len()];
            for (sum, value) in self.sums.iter_mut().zip(row) {
                *sum += value;
            }
        }
    }
}
