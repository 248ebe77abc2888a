//! The gradient of a convolution's weight: for every tap of the kernel, `dy^T x` with `x` moved by the tap.
//!
//! Rows of the result's pictures are taken in blocks. What a block reads is set into scratch space with zeros
//! around it; a panel of 32 channels at one tap is packed from there, and used at once for all rows of
//! `dy^T` while it lies in L1. So no matrix of columns is made, not even a block of it.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use super::super::threads;
use super::gathered::{Gather, Padding, Plan, Scratch, padding, plan};
use super::{Format, HEIGHT, Left, Panels, WIDTH, multiply, pack};

/// Words along the summed dimension in a block, about: a panel of so many has 24 KiB.
const WORDS: usize = 192;
/// Numbers of the source that a block sets into scratch space, at most about: 512 KiB.
const SCRATCH: usize = 128 * 1024;
/// Pieces of work below which one more is made.
const PIECES: usize = 16;
/// Numbers in the partial sums of all groups, about: 4 MiB.
const PARTIAL_SUMS: usize = 1 << 20;

/// What all tasks share.
struct Work<'a> {
    format: Format,
    dy: &'a [f32],
    x: &'a [f32],
    gather: &'a Gather,
    plans: [Plan; 1],
    padding: Padding,
    /// Rows of pictures in a block.
    rows: usize,
}

/// The gradient `[O, C, taps]` from `dy` `[B, H', W', O]` and `x`, for the one lattice of `gather`, whose result is
/// the convolution's.
///
/// # Panics
/// When a slice is of another size, or there is not one lattice with taps.
pub fn product(format: Format, dy: &[f32], x: &[f32], gather: &Gather) -> Vec<f32> {
    let (source, result) = (gather.source, gather.result);
    assert_eq!([dy.len(), x.len()], [result.len(), source.len()], "pictures of the wrong size");
    let padding = padding(Format::F32, gather);
    let plans: Vec<Plan> =
        gather.lattices.iter().filter_map(|lattice| plan(lattice, gather, padding)).collect();
    let Ok(plans) = <[Plan; 1]>::try_from(plans) else {
        panic!("a convolution's taps are one lattice")
    };
    let taps = plans[0].taps.len();
    let (m, channels) = (result.channels, source.channels);
    let lines = result.batch * result.height;
    if lines * result.width == 0 || m * channels == 0 {
        return vec![0.0; m * channels * taps];
    }
    // A row of the result reads `stride` rows of the source, and some rows around.
    let row = gather.stride * source.width * channels;
    let rows = (WORDS / format.words(result.width)).min(SCRATCH / row).clamp(1, lines);
    let work = Work { format, dy, x, gather, plans, padding, rows };
    let panels = taps * channels.div_ceil(WIDTH);
    let groups = (PARTIAL_SUMS / (panels * WIDTH * m)).clamp(1, PIECES).min(lines.div_ceil(rows));
    let pieces = PIECES.div_ceil(groups).min(panels);
    let (lines_each, panels_each) = (lines.div_ceil(groups), panels.div_ceil(pieces));
    let mut parts = vec![Vec::new(); groups * pieces];
    parts.par_iter_mut().enumerate().for_each_init(Space::default, |space, (task, part)| {
        let (group, piece) = (task / pieces, task % pieces);
        let lines = group * lines_each..((group + 1) * lines_each).min(lines);
        let panels = piece * panels_each..((piece + 1) * panels_each).min(panels);
        *part = vec![0.0; panels.len() * m * WIDTH];
        space.sum(&work, lines, panels, part);
    });
    threads::made(
        (m * channels * taps, channels * taps),
        || (),
        |(), o, dw: &mut [f32]| {
            for panel in 0..panels {
                let (tap, first) = (panel % taps, panel / taps * WIDTH);
                let (piece, at) = (panel / panels_each, panel % panels_each);
                for group in 0..groups {
                    let sums = &parts[group * pieces + piece][(at * m + o) * WIDTH..][..WIDTH];
                    let channels = dw[first * taps..].chunks_exact_mut(taps);
                    channels.zip(sums).for_each(|(dw, sum)| dw[tap] += sum);
                }
            }
        },
    )
}

/// Scratch space of one thread.
#[derive(Default)]
struct Space {
    scratch: Scratch,
    left: Vec<u32>,
    right: Vec<u32>,
}

impl Space {
    /// Sums over the rows `lines` of the result for some `panels` (for every 32 channels one panel per tap);
    /// `part` holds zeros.
    fn sum(
        &mut self,
        work: &Work<'_>,
        lines: Range<usize>,
        panels: Range<usize>,
        part: &mut [f32],
    ) {
        let Work { format, gather, plans, rows, .. } = work;
        let (m, channels) = (gather.result.channels, gather.source.channels);
        let (width, taps) = (gather.result.width, plans[0].taps.len());
        // Every row of pixels is a whole number of words.
        let words = format.words(width);
        for start in lines.clone().step_by(*rows) {
            let block = start..(start + rows).min(lines.end);
            let k = block.len() * words * format.group();
            self.scratch.fill(work.x, gather, (plans, work.padding), block.clone());
            self.pack_left(work, block.clone());
            let tiles = Cow::Borrowed(self.left.as_slice());
            let left = Left { words: tiles, format: *format, rows: m, k, tiled: true, stride: 0 };
            let source: &[f32] = bytemuck::cast_slice(&self.scratch.words);
            for (panel, part) in panels.clone().zip(part.chunks_exact_mut(m * WIDTH)) {
                let (tap, first) = (panel % taps, panel / taps * WIDTH);
                let columns = (first, WIDTH.min(channels - first));
                let mut right = std::mem::take(&mut self.right);
                right.resize(block.len() * words * WIDTH, 0);
                let starts = self.scratch.places[0].iter().step_by(width);
                for (right, [from, _]) in right.chunks_exact_mut(words * WIDTH).zip(starts) {
                    let stride = gather.stride * channels;
                    let from = from + plans[0].taps[tap];
                    let last = from + (width - 1) * stride + channels;
                    let row = (&source[from..last], stride);
                    pack::interleave::<WIDTH>(*format, (right, 0), row, columns);
                }
                let right = Panels { words: Cow::Owned(right), format: *format, k, n: WIDTH };
                multiply(&left, 0, &right, part, true);
                self.right = right.words.into_owned();
            }
        }
    }

    /// The rows `block` of `dy`, transposed.
    fn pack_left(&mut self, work: &Work<'_>, block: Range<usize>) {
        let (m, width) = (work.gather.result.channels, work.gather.result.width);
        let words = work.format.words(width);
        let height = block.len() * words;
        self.left.resize(m.div_ceil(HEIGHT) * HEIGHT * height, 0);
        for (at, line) in block.enumerate() {
            let dy = &work.dy[line * width * m..(line + 1) * width * m];
            let left = (&mut self.left[at * HEIGHT * words..], HEIGHT * height);
            pack::interleave::<HEIGHT>(work.format, left, (dy, m), (0, m));
        }
    }
}
