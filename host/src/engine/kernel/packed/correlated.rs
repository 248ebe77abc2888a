//! The gradient of a convolution's weight: for every tap of the kernel, `dy^T x` with `x` moved by the tap.
//!
//! Rows of the result's pictures are taken in blocks. What a block reads becomes words once for all taps, 32
//! channels beside each other: a word of two pixels that are neighbours in the result is needed with the
//! first of them at an even and at an odd place, so both are made. A panel of 32 channels at one tap is then
//! a number of runs, which are read where they lie or, where they are short, copied together first; it is used at
//! once for all rows of `dy^T` while it lies in L1. So no matrix of columns is made, not even a block of it.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use super::super::threads;
#[cfg(target_arch = "x86_64")]
use super::correlated_avx512;
use super::gathered::Gather;
use super::tile::{self, Operands, Places, Segment, Target};
use super::{Format, HEIGHT, Left, Panels, WIDTH, multiply, pack};

/// Words along the summed dimension in a block, about: a panel of so many has 24 KiB.
const WORDS: usize = 192;
/// Words of the source in a block, at most about: 256 KiB.
const SCRATCH: usize = 64 * 1024;
/// Words along the summed dimension from which on a run is read where it lies.
const LONG: usize = 8;
/// Pieces of work that are made, about.
const PIECES: usize = 16;
/// Numbers in the partial sums of all groups, about: 8 MiB.
const PARTIAL_SUMS: usize = 1 << 21;

/// A row of the source as every `stride`-th pixel sees it: from pixel `first` on, one word for each of
/// them, or for each pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plane {
    first: usize,
}

/// Where a tap finds its words.
struct Reach {
    /// Rows of the source below the first that a row of the result reads.
    line: usize,
    /// The number of its plane.
    plane: usize,
    /// The first of its words.
    start: usize,
}

/// How rows of the source become words.
struct Layout {
    taps: Vec<Reach>,
    planes: Vec<Plane>,
    /// The least row of the taps, counted from that of the result times the stride.
    top: isize,
    /// Rows of the source that one row of the result reads, with those in between.
    lines: usize,
    /// Pixels of zeros in front of a row.
    left: usize,
    /// Words of a plane for each channel.
    depth: usize,
}

impl Layout {
    fn new(format: Format, gather: &Gather) -> Self {
        let [lattice] = gather.lattices.as_slice() else {
            panic!("a convolution's taps are one lattice")
        };
        let (stride, group) = (gather.stride, format.group());
        let least = |axis: usize| lattice.taps.iter().map(|tap| tap[axis]).min().unwrap_or(0);
        let (top, left) = (least(0), (-least(1)).max(0).cast_unsigned());
        let mut planes: Vec<Plane> = Vec::new();
        let mut taps = Vec::with_capacity(lattice.taps.len());
        for [dy, dx] in &lattice.taps {
            let pixel = dx.checked_add_unsigned(left).map_or(0, isize::cast_unsigned);
            let at = pixel / stride;
            let plane = Plane { first: at % group * stride + pixel % stride };
            let known = planes.iter().position(|known| *known == plane);
            let number = known.unwrap_or_else(|| {
                planes.push(plane);
                planes.len() - 1
            });
            let line = (dy - top).cast_unsigned();
            taps.push(Reach { line, plane: number, start: at / group });
        }
        let reach = |of: fn(&Reach) -> usize| taps.iter().map(of).max().unwrap_or(0);
        let (lines, start) = (reach(|tap| tap.line) + 1, reach(|tap| tap.start));
        let depth = start + format.words(gather.result.width);
        Self { taps, planes, top, lines, left, depth }
    }

    /// Words of 32 channels of one row of the source.
    fn row(&self) -> usize {
        self.planes.len() * self.depth * WIDTH
    }
}

/// What all tasks share.
struct Work<'a> {
    format: Format,
    dy: &'a [f32],
    x: &'a [f32],
    gather: &'a Gather,
    layout: Layout,
    /// Rows of pictures in a block.
    rows: usize,
    /// Rows of pictures in all.
    lines: usize,
}

/// The gradient `[O, C, taps]` from `dy` `[B, H', W', O]` and `x`, for the one lattice of `gather`, whose result is
/// the convolution's.
///
/// # Panics
/// When a slice is of another size, or there is not one lattice with taps.
pub fn product(format: Format, dy: &[f32], x: &[f32], gather: &Gather) -> Vec<f32> {
    let (source, result) = (gather.source, gather.result);
    assert_eq!([dy.len(), x.len()], [result.len(), source.len()], "pictures of the wrong size");
    let layout = Layout::new(format, gather);
    let taps = layout.taps.len();
    let (m, channels) = (result.channels, source.channels);
    let lines = result.batch * result.height;
    if lines * result.width == 0 || m * channels == 0 {
        return vec![0.0; m * channels * taps];
    }
    // Lines of pictures are summed in groups and channels in slices, each by 32.
    let slices = channels.div_ceil(WIDTH);
    let groups = (PARTIAL_SUMS / (slices * taps * WIDTH * m)).clamp(1, PIECES);
    let slices_each = slices.div_ceil(PIECES.div_ceil(groups).min(slices));
    let pieces = slices.div_ceil(slices_each);
    let rows = (WORDS / format.words(result.width))
        .min(SCRATCH / (gather.stride * layout.row() * slices_each))
        .clamp(1, lines);
    // A group is whole blocks.
    let lines_each = lines.div_ceil(groups).next_multiple_of(rows);
    let groups = lines.div_ceil(lines_each);
    let work = Work { format, dy, x, gather, layout, rows, lines };
    let packed: Vec<Vec<u32>> = if pieces == 1 {
        Vec::new()
    } else {
        // Every piece needs them.
        let blocks = (0..lines.div_ceil(rows)).into_par_iter();
        blocks.map_init(Vec::new, |row, block| work.left(block, row, Vec::new())).collect()
    };
    let mut parts = vec![Vec::new(); groups * pieces];
    parts.par_iter_mut().enumerate().for_each_init(Space::default, |space, (task, part)| {
        let (group, piece) = (task / pieces, task % pieces);
        let lines = group * lines_each..((group + 1) * lines_each).min(lines);
        let slices = piece * slices_each..((piece + 1) * slices_each).min(slices);
        *part = vec![0.0; slices.len() * taps * m * WIDTH];
        space.sum(&work, &packed, (lines, slices), part);
    });
    threads::made(
        (m * channels * taps, channels * taps),
        || (),
        |(), o, dw: &mut [f32]| {
            for panel in 0..slices * taps {
                let (tap, slice) = (panel % taps, panel / taps);
                let (piece, at) = (slice / slices_each, slice % slices_each * taps + tap);
                // Channels lie `taps` apart in the result, so what is added up is put there once.
                let mut sums = [0.0; WIDTH];
                for group in 0..groups {
                    let part = &parts[group * pieces + piece][(at * m + o) * WIDTH..][..WIDTH];
                    sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
                }
                let channels = dw[slice * WIDTH * taps..].chunks_exact_mut(taps);
                channels.zip(sums).for_each(|(dw, sum)| dw[tap] = sum);
            }
        },
    )
}

impl Work<'_> {
    /// The rows of block number `block`.
    fn block(&self, block: usize) -> Range<usize> {
        block * self.rows..((block + 1) * self.rows).min(self.lines)
    }

    /// Those rows of `dy`, transposed, in `words`, whose room is used again, as is that of `row`.
    fn left(&self, block: usize, row: &mut Vec<f32>, mut words: Vec<u32>) -> Vec<u32> {
        let (m, width) = (self.gather.result.channels, self.gather.result.width);
        // Every row of pixels is a whole number of words.
        let (each, block) = (self.format.words(width), self.block(block));
        let height = block.len() * each;
        words.resize(m.div_ceil(HEIGHT) * HEIGHT * height, 0);
        for (at, line) in block.enumerate() {
            // As in `push_row`.
            row.clear();
            row.extend_from_slice(&self.dy[line * width * m..(line + 1) * width * m]);
            let left = (&mut words[at * HEIGHT * each..], HEIGHT * height);
            pack::interleave(self.format, HEIGHT, left, (row, m), (0, m));
        }
        words
    }
}

/// Scratch space of one thread.
#[derive(Default)]
struct Space {
    /// The words of a block's source: of each of its rows, for each slice, plane by plane.
    source: Vec<u32>,
    /// For each row of the block the first row of the source that it reads, by its number among those.
    tops: Vec<usize>,
    /// Where the words of a panel begin in the source's, for each row of the block.
    starts: Vec<usize>,
    segments: Vec<Segment>,
    /// A row of pixels.
    row: Vec<f32>,
    /// A pixel of zeros and another one.
    pair: Vec<f32>,
    left: Vec<u32>,
    right: Vec<u32>,
}

impl Space {
    /// Sums over the rows `lines` of the result for some `slices` of the channels, one panel per slice and tap;
    /// `part` holds zeros, `packed` the left words of every block unless each is used once.
    fn sum(
        &mut self,
        work: &Work<'_>,
        packed: &[Vec<u32>],
        (lines, slices): (Range<usize>, Range<usize>),
        part: &mut [f32],
    ) {
        let Work { format, gather, layout, rows, .. } = work;
        let (m, taps) = (gather.result.channels, layout.taps.len());
        let words = format.words(gather.result.width);
        let row = slices.len() * layout.row();
        for number in lines.start / rows..lines.end.div_ceil(*rows) {
            let block = work.block(number);
            let k = block.len() * words * format.group();
            self.fill(work, block, &slices);
            let mut own = std::mem::take(&mut self.left);
            if packed.is_empty() {
                own = work.left(number, &mut self.row, own);
            }
            let left = Cow::Borrowed(packed.get(number).unwrap_or(&own).as_slice());
            let left = Left { words: left, format: *format, rows: m, k, tiled: true, stride: 0 };
            for (panel, part) in part.chunks_exact_mut(m * WIDTH).enumerate() {
                let (slice, tap) = (panel / taps, &layout.taps[panel % taps]);
                let from = (slice * layout.planes.len() + tap.plane) * layout.depth + tap.start;
                let starts = self.tops.iter().map(|top| (top + tap.line) * row + from * WIDTH);
                self.starts.clear();
                self.starts.extend(starts);
                self.multiply(&left, words, part);
            }
            self.left = own;
        }
    }

    /// Adds to `part` the product of `left` and the panel whose `words` groups of 32 words lie at each of the starts.
    fn multiply(&mut self, left: &Left<'_>, words: usize, part: &mut [f32]) {
        if words >= LONG {
            let runs = (self.starts.as_slice(), words);
            #[cfg(target_arch = "x86_64")]
            if correlated_avx512::add(left, &self.source, runs, part) {
                return;
            }
            if left.format != Format::Bf16 {
                return add(left, &self.source, runs, &mut self.segments, part);
            }
        }
        let mut right = std::mem::take(&mut self.right);
        right.clear();
        for start in &self.starts {
            right.extend_from_slice(&self.source[*start..][..words * WIDTH]);
        }
        let words = Cow::Owned(right);
        let right = Panels { words, format: left.format, lanes: WIDTH, k: left.k, n: WIDTH };
        multiply(left, 0, &right, part, true);
        self.right = right.words.into_owned();
    }

    /// Makes words of what the rows `block` of the result (counted over all pictures) read.
    fn fill(&mut self, work: &Work<'_>, block: Range<usize>, slices: &Range<usize>) {
        let Work { gather, layout, .. } = work;
        let (height, source) = (gather.result.height, gather.source);
        let row = slices.len() * layout.row();
        self.tops.clear();
        let (mut made, mut line) = (0, block.start);
        while line < block.end {
            let (picture, first) = (line / height, line % height);
            let count = (height - first).min(block.end - line);
            self.tops.extend((0..count).map(|y| made + y * gather.stride));
            let picture = &work.x[picture * source.len() / source.batch..];
            let top = (first * gather.stride).cast_signed() + layout.top;
            for y in 0..(count - 1) * gather.stride + layout.lines {
                self.source.resize(self.source.len().max((made + 1) * row), 0);
                // With a stride some rows may lie between those that are read.
                if y % gather.stride < layout.lines {
                    let at = usize::try_from(top + y.cast_signed()).ok();
                    let at = at.filter(|y| *y < source.height);
                    self.push_row(work, at.map(|y| (picture, y)), slices, made * row);
                }
                made += 1;
            }
            line += count;
        }
    }

    /// Makes words of row `y` of a picture, or zeros where it has none, at `to`.
    fn push_row(
        &mut self,
        work: &Work<'_>,
        at: Option<(&[f32], usize)>,
        slices: &Range<usize>,
        to: usize,
    ) {
        let Work { format, gather, layout, .. } = work;
        let channels = gather.source.channels;
        let to = &mut self.source[to..][..slices.len() * layout.row()];
        let Some((picture, y)) = at else { return to.fill(0) };
        let len = gather.source.width * channels;
        let pixels = &picture[y * len..][..len];
        let first = slices.start * WIDTH;
        let count = (slices.len() * WIDTH).min(channels - first);
        // Copying waits for memory less than what follows, which then finds all of it in the cache.
        self.row.clear();
        if count == channels {
            self.row.extend_from_slice(pixels);
        } else {
            let pixels = pixels.chunks_exact(channels);
            pixels.for_each(|pixel| self.row.extend_from_slice(&pixel[first..first + count]));
        }
        if !count.is_multiple_of(WIDTH) {
            to.fill(0);
        }
        for (number, plane) in layout.planes.iter().enumerate() {
            let room = Room { words: to, step: layout.row(), depth: layout.depth, at: number };
            let places = (layout.left, plane.first, gather.stride);
            push_plane(*format, room, places, (&self.row, count), &mut self.pair);
        }
    }
}

/// Adds `left b` to `c` `[rows, 32]`, where the words of `b` are `len` groups of 32 at each of `starts`, one after the
/// other; `segments` is room. As [`correlated_avx512::add`], for every machine.
fn add(
    left: &Left<'_>,
    words: &[u32],
    (starts, len): (&[usize], usize),
    segments: &mut Vec<Segment>,
    c: &mut [f32],
) {
    let depth = starts.len() * len;
    assert!(left.tiled && left.k == depth && c.len() == left.rows * WIDTH, "shapes of a product");
    segments.clear();
    let steps = (0..).step_by(len * HEIGHT);
    segments.extend(steps.zip(starts).map(|(left, right)| Segment { left, right: *right, len }));
    let numbers = (bytemuck::cast_slice(&left.words), HEIGHT);
    let operands = Operands::new(numbers, (bytemuck::cast_slice(words), WIDTH), segments);
    let place = |row: usize| [row / HEIGHT * depth * HEIGHT + row % HEIGHT, row * WIDTH];
    Places::of(left.rows, place, |places| {
        for column in (0..WIDTH).step_by(tile::COLUMNS) {
            let mut target = Target::numbers(&mut c[column..], tile::COLUMNS, true);
            operands.make(places, column, &mut target);
        }
    });
}

/// Where a plane's words lie.
struct Room<'a> {
    /// Those of a row, slice by slice.
    words: &'a mut [u32],
    /// Words of a slice.
    step: usize,
    /// Groups of 32 words in a plane.
    depth: usize,
    /// The number of the plane.
    at: usize,
}

impl Room<'_> {
    /// The words from group `group` on; the next slice's begin `step` words later.
    fn from(&mut self, group: usize) -> (&mut [u32], usize) {
        (&mut self.words[(self.at * self.depth + group) * WIDTH..], self.step)
    }

    /// Sets zeros.
    fn clear(&mut self, groups: Range<usize>) {
        if groups.is_empty() {
            return;
        }
        let (words, step) = self.from(groups.start);
        words.chunks_mut(step).for_each(|words| words[..groups.len() * WIDTH].fill(0));
    }
}

/// Makes words of every `stride`-th of the pixels (`count` numbers each), with `left` pixels of zeros in front and as many
/// behind as are needed, from pixel `first` of these on.
fn push_plane(
    format: Format,
    mut to: Room<'_>,
    (left, first, stride): (usize, usize, usize),
    (pixels, count): (&[f32], usize),
    pair: &mut Vec<f32>,
) {
    let group = format.group();
    // The zeros that are taken, and the pixel after them.
    let zeros = left.saturating_sub(first).div_ceil(stride);
    let mut pixel = first + zeros * stride - left;
    let mut made = (zeros / group).min(to.depth);
    to.clear(0..made);
    let row = |pixel: usize| pixels.get(pixel * count..).filter(|row| !row.is_empty());
    if let (false, Some(row), true) = (zeros.is_multiple_of(group), row(pixel), made < to.depth) {
        // A word of a zero and the first pixel.
        pair.clear();
        pair.resize(count, 0.0);
        pair.extend_from_slice(&row[..count]);
        pack::interleave(format, WIDTH, to.from(made), (pair, count), (0, count));
        (pixel, made) = (pixel + stride, made + 1);
    }
    let (row, step) = (row(pixel).unwrap_or_default(), stride * count);
    let most = ((to.depth - made) * group).min(row.len().div_ceil(step));
    if most > 0 {
        let row = &row[..row.len().min(most * step)];
        pack::interleave(format, WIDTH, to.from(made), (row, step), (0, count));
    }
    to.clear(made + most.div_ceil(group)..to.depth);
}
