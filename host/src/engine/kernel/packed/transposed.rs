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
use super::rows::Rows;
use super::{Format, HEIGHT, Left, Panels, TASK, WIDTH, multiply, pack};

/// Rows of both operands in a block, by the width of a word.
const BLOCK_WORDS: usize = 128;
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
    rows: Vec<f32>,
}

/// Rows of the result, and sums of as many columns of `a`.
#[derive(Clone, Default)]
struct Piece {
    product: Vec<f32>,
    sums: Vec<f32>,
}

/// `a^T b`, `[m, n]`, and the sums of the columns of `a`, `[m]`.
///
/// # Panics
/// When a slice is too short.
pub fn product(format: Format, a: &[f32], b: &impl Rows, shape: Shape) -> (Vec<f32>, Vec<f32>) {
    let Shape { k, m, n } = shape;
    assert!(a.len() >= k * m && b.width() == n, "shapes of a product");
    if k == 0 || m * n == 0 {
        return (vec![0.0; m * n], vec![0.0; m]);
    }
    let piece = 4 * TASK;
    let block = BLOCK_WORDS * format.group();
    let blocks = k.div_ceil(block);
    let pieces = m.div_ceil(piece);
    let groups = PIECES.div_ceil(pieces).min(blocks);
    let rows = blocks.div_ceil(groups) * block;
    let mut parts = vec![Piece::default(); groups * pieces];
    parts.par_iter_mut().enumerate().for_each_init(Space::default, |space, (task, part)| {
        let (group, i) = (task / pieces, task % pieces);
        let range = (group * rows).min(k)..((group + 1) * rows).min(k);
        let wide = piece.min(m - i * piece);
        part.product = vec![0.0; wide * n];
        part.sums = vec![0.0; wide];
        space.sum(format, (a, b), shape, (range, i * piece), part);
    });
    let sums = (0..m)
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
    /// Rows of the result from `first` on, summed over `range`; `part` holds zeros.
    fn sum(
        &mut self,
        format: Format,
        (a, b): (&[f32], &impl Rows),
        Shape { m, n, .. }: Shape,
        (range, first): (Range<usize>, usize),
        part: &mut Piece,
    ) {
        let rows = part.sums.len();
        let block = BLOCK_WORDS * format.group();
        for start in range.clone().step_by(block) {
            let k = block.min(range.end - start);
            let words = format.words(k);
            self.left.resize(rows.div_ceil(HEIGHT) * HEIGHT * words, 0);
            let source = &a[start * m..(start + k) * m];
            let left = (self.left.as_mut_slice(), HEIGHT * words);
            pack::interleave::<HEIGHT>(format, left, (source, m), (first, rows));
            dispatch(AddRows { rows: source, stride: m, first, sums: &mut part.sums });
            self.pack_right(format, b, start..start + k);
            let words = Cow::Borrowed(self.left.as_slice());
            let left = Left { words, format, rows, k, tiled: true, stride: 0 };
            let right = Panels { words: Cow::Borrowed(&self.right), format, k, n };
            multiply(&left, 0, &right, &mut part.product, start > range.start);
        }
    }

    /// The rows `range` of `b`, as panels.
    fn pack_right(&mut self, format: Format, b: &impl Rows, range: Range<usize>) {
        let (n, words) = (b.width(), format.words(range.len()));
        self.right.resize(n.div_ceil(WIDTH) * WIDTH * words, 0);
        let step = if b.borrow(range.start, range.len()).is_some() { range.len() } else { MADE };
        for start in range.clone().step_by(step) {
            let count = step.min(range.end - start);
            let source = if let Some(rows) = b.borrow(start, count) {
                rows
            } else {
                self.rows.resize(count * n, 0.0);
                b.write(start, &mut self.rows);
                &self.rows
            };
            let at = (start - range.start) / format.group() * WIDTH;
            let right = (&mut self.right[at..], WIDTH * words);
            pack::interleave::<WIDTH>(format, right, (source, n), (0, n));
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
