//! `c = a^T b` for tall operands: the gradient of a weight, summed over every row of a batch.
//!
//! Rows are taken in blocks that are packed into the cache and used at once, so that each operand is read
//! from memory once or few times. Sums over groups of blocks are made side by side and added in
//! order; groups depend on the shape alone, so that the number of threads changes no bit.

use std::borrow::Cow;

use rayon::prelude::*;

use super::super::threads;
use super::{Format, HEIGHT, Left, Panels, TASK, WIDTH, multiply, pack};

/// Rows of both operands in a block, by the width of a word.
const BLOCK_WORDS: usize = 192;
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

/// Scratch space of one thread.
#[derive(Default)]
struct Space {
    left: Vec<u32>,
    right: Vec<u32>,
}

/// `a^T b`, `[m, n]`.
///
/// # Panics
/// When a slice is too short.
pub fn product(format: Format, a: &[f32], b: &[f32], shape: Shape) -> Vec<f32> {
    let Shape { k, m, n } = shape;
    assert!(a.len() >= k * m && b.len() >= k * n, "shapes of a product");
    if k == 0 || m * n == 0 {
        return vec![0.0; m * n];
    }
    // The result's rows of one piece: few where they are long, so that they stay in the cache.
    let piece = if n > 4 * TASK { TASK } else { 2 * TASK };
    let block = BLOCK_WORDS * format.group();
    let blocks = k.div_ceil(block);
    let pieces = m.div_ceil(piece);
    let groups = PIECES.div_ceil(pieces).min(blocks);
    if groups == 1 {
        return threads::made((m * n, piece * n), Space::default, |space, i, c| {
            space.sum(format, (a, b), shape, (0..k, i * piece), c);
        });
    }
    let rows = blocks.div_ceil(groups) * block;
    let mut partials: Vec<Vec<f32>> = Vec::new();
    partials.resize_with(groups * pieces, Vec::new);
    partials.par_iter_mut().enumerate().for_each_init(Space::default, |space, (task, c)| {
        let (group, i) = (task / pieces, task % pieces);
        let range = (group * rows).min(k)..((group + 1) * rows).min(k);
        c.resize(piece.min(m - i * piece) * n, 0.0);
        space.sum(format, (a, b), shape, (range, i * piece), c);
    });
    threads::made(
        (m * n, piece * n),
        || (),
        |(), i, c: &mut [f32]| {
            for group in 0..groups {
                let partial = &partials[group * pieces + i];
                c.iter_mut().zip(partial).for_each(|(c, p)| *c += p);
            }
        },
    )
}

impl Space {
    /// Rows of the result from `first` on, summed over `range`; `c` holds zeros.
    fn sum(
        &mut self,
        format: Format,
        (a, b): (&[f32], &[f32]),
        Shape { m, n, .. }: Shape,
        (range, first): (std::ops::Range<usize>, usize),
        c: &mut [f32],
    ) {
        let rows = c.len() / n;
        let block = BLOCK_WORDS * format.group();
        let end = range.end;
        for start in range.clone().step_by(block) {
            let k = block.min(end - start);
            let words = format.words(k);
            self.left.resize(rows.div_ceil(HEIGHT) * HEIGHT * words, 0);
            let source = &a[start * m..(start + k) * m];
            for (tile, left) in self.left.chunks_exact_mut(HEIGHT * words).enumerate() {
                let columns = (first + tile * HEIGHT, HEIGHT.min(rows - tile * HEIGHT));
                pack::interleave::<HEIGHT>(format, left, (source, m), columns);
            }
            self.right.resize(n.div_ceil(WIDTH) * WIDTH * words, 0);
            let source = &b[start * n..(start + k) * n];
            for (panel, right) in self.right.chunks_exact_mut(WIDTH * words).enumerate() {
                let columns = (panel * WIDTH, WIDTH.min(n - panel * WIDTH));
                pack::interleave::<WIDTH>(format, right, (source, n), columns);
            }
            let left = Left { words: Cow::Borrowed(&self.left), format, rows, k, tiled: true };
            let right = std::mem::take(&mut self.right);
            let right = Panels { words: right, format, k, n };
            multiply(&left, 0, &right, c, start > range.start);
            self.right = right.words;
        }
    }
}
