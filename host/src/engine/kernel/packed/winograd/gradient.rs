//! The gradient of a weight of 3 x 3 taps, by the transposed algorithm: `dw = G^T [(A e A^T) . (B^T d B)] G`, where `e` are the
//! 2 x 2 pixels of the gradient whose tile of the source is `d`, and `.` is summed over all tiles: 16 products.
//!
//! Tiles are taken in blocks, whose source becomes panels of 32 channels for all places at once. Sums over
//! groups of blocks are made side by side and added in order; groups depend on the shape alone.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use super::super::super::dispatch::dispatch;
use super::super::super::threads;
use super::super::{Format, HEIGHT, Left, Panels, WIDTH, lanes, multiply, pack};
use super::Shape;
use super::transform::{OverColumns, OverRows, PLACES, TAPS, Taps};

/// Words along the summed dimension in a block of two slices or more, about: of 64 channels they take 256 KiB. A block
/// of one slice has twice as many.
const WORDS: usize = 64;
/// The fewest of them: each block adds to all of its sums.
const FEWEST: usize = 16;
/// Pieces of work that are made, about.
const PIECES: usize = 16;
/// Numbers in the partial sums of all groups, about: 4 MiB.
const PARTIAL_SUMS: usize = 1 << 20;

/// How the work is cut: rows of tiles in groups of blocks, whose sums are added at the end, and channels in pieces of
/// slices of 32. It depends on the shape alone.
struct Cut {
    /// Rows of tiles in a block.
    rows: usize,
    /// Rows of tiles in a group, a whole number of blocks.
    each: usize,
    groups: usize,
    slices: usize,
    /// Slices in a piece.
    slices_each: usize,
    pieces: usize,
}

impl Cut {
    /// Of `all` rows of tiles.
    fn new(format: Format, shape: Shape, all: usize) -> Self {
        let (m, slices) = (shape.result.channels, shape.source.channels.div_ceil(WIDTH));
        let groups = (PARTIAL_SUMS / (slices * PLACES * WIDTH * m)).clamp(1, PIECES);
        let slices_each = slices.div_ceil(PIECES.div_ceil(groups).min(slices));
        let pieces = slices.div_ceil(slices_each);
        let words = if slices_each == 1 { 2 * WORDS } else { WORDS };
        // Pairs of rows, so that pairs of tiles are whole; no more than leave work for every group.
        let rows = |words: usize| (words * format.group() / shape.across()).next_multiple_of(2);
        let most = all.div_ceil(groups).next_multiple_of(2).max(rows(FEWEST));
        let rows = rows(words).min(most).max(2);
        let each = all.div_ceil(groups).next_multiple_of(rows);
        Self { rows, each, groups: all.div_ceil(each), slices, slices_each, pieces }
    }
}

/// What all tasks share.
struct Work<'a> {
    format: Format,
    dy: &'a [f32],
    x: &'a [f32],
    shape: Shape,
    /// Rows of tiles in all.
    all: usize,
    cut: Cut,
}

/// The gradient `[O, C, 3, 3]` from `dy` `[B, H', W', O]` and `x` `[B, H, W, C]`.
///
/// # Panics
/// When a slice is of another size.
pub fn weight(format: Format, dy: &[f32], x: &[f32], shape: Shape) -> Vec<f32> {
    let (source, result) = (shape.source, shape.result);
    assert_eq!([dy.len(), x.len()], [result.len(), source.len()], "pictures of the wrong size");
    let (m, channels) = (result.channels, source.channels);
    let all = result.batch * shape.down();
    if all * shape.across() == 0 || m * channels == 0 {
        return vec![0.0; m * channels * TAPS];
    }
    let work = Work { format, dy, x, shape, all, cut: Cut::new(format, shape, all) };
    let Cut { slices_each, groups, pieces, .. } = work.cut;
    let parts = work.parts();
    threads::made(
        (m * channels * TAPS, channels * TAPS),
        || (),
        |(), o, dw: &mut [f32]| {
            for (slice, made) in dw.chunks_mut(WIDTH * TAPS).enumerate() {
                let (piece, slice) = (slice / slices_each, slice % slices_each);
                let first = (slice * PLACES * m + o) * WIDTH;
                let sums = |group: usize| &parts[group * pieces + piece][first..];
                let parts: Vec<&[f32]> = (0..groups).map(sums).collect();
                dispatch(Taps { parts: &parts, step: m * WIDTH, made });
            }
        },
    )
}

impl Work<'_> {
    /// The sums of each piece of each group: slice by slice and place by place, `[O, 32]`.
    fn parts(&self) -> Vec<Vec<f32>> {
        let Cut { rows, each, groups, slices, slices_each, pieces } = self.cut;
        let packed: Vec<Vec<u32>> = if pieces == 1 {
            Vec::new()
        } else {
            // Every piece needs them.
            let blocks = (0..self.all.div_ceil(rows)).into_par_iter();
            let made = |space: &mut Space, block| {
                let mut words = Vec::new();
                space.left(self, block, &mut words);
                words
            };
            blocks.map_init(|| Space::new(self), made).collect()
        };
        let mut parts = vec![Vec::new(); groups * pieces];
        let numbered = parts.par_iter_mut().enumerate();
        numbered.for_each_init(
            || Space::new(self),
            |space, (task, part)| {
                let (group, piece) = (task / pieces, task % pieces);
                let rows = group * each..((group + 1) * each).min(self.all);
                let slices = piece * slices_each..((piece + 1) * slices_each).min(slices);
                *part = vec![0.0; slices.len() * PLACES * self.shape.result.channels * WIDTH];
                space.sum(self, &packed, (rows, slices), part);
            },
        );
        parts
    }

    /// The rows of tiles of block number `block`.
    fn block(&self, block: usize) -> Range<usize> {
        block * self.cut.rows..((block + 1) * self.cut.rows).min(self.all)
    }

    /// Words along the summed dimension of a block.
    fn height(&self, block: &Range<usize>) -> usize {
        self.format.words(block.len() * self.shape.across())
    }
}

/// Scratch space of one thread.
struct Space {
    /// A row of pixels beyond the picture.
    zeros: Vec<f32>,
    /// Two rows of tiles, transformed over rows of pixels, with zeros around them.
    lines: Vec<f32>,
    /// One place of them.
    line: Vec<f32>,
    left: Vec<u32>,
    right: Vec<u32>,
}

/// Which channels of which pictures become words.
struct Side {
    source: bool,
    channels: Range<usize>,
}

impl Space {
    fn new(work: &Work<'_>) -> Self {
        let Shape { source, result, .. } = work.shape;
        let zeros = (source.width * source.channels).max(result.width * result.channels);
        Self {
            zeros: vec![0.0; zeros],
            lines: Vec::new(),
            line: Vec::new(),
            left: Vec::new(),
            right: Vec::new(),
        }
    }

    /// Sums over some rows of tiles for some `slices` of the channels, one panel per slice and place, into `part`;
    /// `packed` holds the left words of every block unless each is used once.
    fn sum(
        &mut self,
        work: &Work<'_>,
        packed: &[Vec<u32>],
        (rows, slices): (Range<usize>, Range<usize>),
        part: &mut [f32],
    ) {
        let m = work.shape.result.channels;
        let last = work.shape.source.channels;
        let first = rows.start / work.cut.rows;
        for number in first..rows.end.div_ceil(work.cut.rows) {
            let block = work.block(number);
            let (height, k) = (work.height(&block), block.len() * work.shape.across());
            let (mut own, mut right) =
                (std::mem::take(&mut self.left), std::mem::take(&mut self.right));
            if packed.is_empty() {
                self.left(work, number, &mut own);
            }
            let channels = slices.start * WIDTH..(slices.end * WIDTH).min(last);
            let place = slices.len() * WIDTH * height;
            right.resize(PLACES * place, 0);
            let side = Side { source: true, channels };
            self.fill(work, (block, &side), lanes(), (&mut right, place));
            let left = packed.get(number).unwrap_or(&own);
            let each = m.div_ceil(HEIGHT) * HEIGHT * height;
            for (panel, part) in part.chunks_exact_mut(m * WIDTH).enumerate() {
                let (slice, at) = (panel / PLACES, panel % PLACES);
                let words = Cow::Borrowed(&left[at * each..][..each]);
                let format = work.format;
                let left = Left { words, format, rows: m, k, tiled: true, stride: 0 };
                let words = &right[at * place + slice * WIDTH * height..][..WIDTH * height];
                let right = Panels::from_words(format, words, k, WIDTH);
                multiply(&left, 0, &right, part, number > first);
            }
            (self.left, self.right) = (own, right);
        }
    }

    /// The words of `dy` for block number `number`, place by place.
    fn left(&mut self, work: &Work<'_>, number: usize, words: &mut Vec<u32>) {
        let (block, m) = (work.block(number), work.shape.result.channels);
        let each = m.div_ceil(HEIGHT) * HEIGHT * work.height(&block);
        words.resize(PLACES * each, 0);
        let side = Side { source: false, channels: 0..m };
        self.fill(work, (block, &side), HEIGHT, (words, each));
    }

    /// Makes words of the tiles of a block, `lanes` channels together, for each place from a multiple of `each` on.
    fn fill(
        &mut self,
        work: &Work<'_>,
        (block, side): (Range<usize>, &Side),
        lanes: usize,
        (words, each): (&mut [u32], usize),
    ) {
        let (across, count) = (work.shape.across(), side.channels.len());
        let height = work.height(&block);
        // Two pixels more than the tiles' own lie in a row of the source.
        let wide = (2 * across + if side.source { 2 } else { 0 }) * count;
        self.lines.resize(8 * wide, 0.0);
        for (at, first) in block.clone().step_by(2).enumerate() {
            let rows = 2.min(block.end - first);
            for (row, lines) in (first..first + rows).zip(self.lines.chunks_exact_mut(4 * wide)) {
                transform(work, (row, side), &self.zeros, (lines, wide));
            }
            self.line.resize(rows * across * count, 0.0);
            for (place, words) in words.chunks_exact_mut(each).enumerate() {
                let lines = self.lines.chunks_exact(4 * wide);
                for (line, made) in lines.zip(self.line.chunks_exact_mut(across * count)) {
                    let line = &line[place / 4 * wide..][..wide];
                    let way = place % 4;
                    dispatch(OverColumns { line, source: side.source, way, channels: count, made });
                }
                // Two rows of tiles are a whole number of words.
                let words = &mut words[at * work.format.words(2 * across) * lanes..];
                let room = (words, lanes * height);
                pack::interleave(work.format, lanes, room, (&self.line, count), (0, count));
            }
        }
    }
}

/// Transforms the row of tiles `row` over rows of pixels, with zeros beyond them.
fn transform(
    work: &Work<'_>,
    (row, side): (usize, &Side),
    zeros: &[f32],
    (lines, wide): (&mut [f32], usize),
) {
    let Shape { source, result, padding } = work.shape;
    let (pictures, before, of) = if side.source {
        (source, padding, work.shape.source_of(row, work.x, zeros))
    } else {
        (result, 0, work.shape.result_of(row, work.dy, zeros))
    };
    let count = side.channels.len();
    for (way, made) in lines.chunks_exact_mut(wide).enumerate() {
        let (left, made) = made.split_at_mut(before * count);
        let (made, right) = made.split_at_mut(pictures.width * count);
        left.fill(0.0);
        right.fill(0.0);
        let (channels, some) = (pictures.channels, side.channels.clone());
        dispatch(OverRows { of, way, channels, some, made });
    }
}
