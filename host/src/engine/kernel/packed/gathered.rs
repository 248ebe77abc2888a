//! Products whose left rows are gathered from a picture: convolutions and their gradients to the input.
//!
//! Pictures are `[batch, height, width, channels]`. A pixel of the result reads the source at a few taps;
//! the words of taps that are neighbours in a row of the picture lie together, so the kernel walks
//! runs of words and no matrix of columns is ever made. Each task converts the rows of the source that
//! it needs, with zeros around them, into scratch space that stays in the cache.

use std::borrow::Cow;

#[cfg(target_arch = "x86_64")]
use super::super::dispatch::{Level, level};
use super::super::threads;
#[cfg(target_arch = "x86_64")]
use super::gathered_avx512;
use super::{Format, Left, Panels, WIDTH, multiply, round_rows};

/// Pixels of the result that one task makes, about.
const PIXELS: usize = 192;
/// Words along the summed dimension before the kernel goes on to the next tile, so that a piece of a
/// panel (24 KiB) stays in L1.
const DEPTH: usize = 192;

/// A batch of pictures, `[batch, height, width, channels]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pictures {
    /// How many.
    pub batch: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Pixels in a row.
    pub width: usize,
    /// Numbers in a pixel.
    pub channels: usize,
}

impl Pictures {
    /// Numbers in all pictures.
    pub fn len(&self) -> usize {
        self.pixels() * self.channels
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Pixels of all pictures.
    pub fn pixels(&self) -> usize {
        self.batch * self.height * self.width
    }
}

/// Pixels of the result that read the same taps: (`first` + `step` (i, j)) for all i and j.
#[derive(Clone, Debug)]
pub struct Lattice {
    /// Row and column of the first pixel, below `step`.
    pub first: [usize; 2],
    /// Where pixel (i, j) reads: at `stride` (i, j) plus each of these.
    pub taps: Vec<[isize; 2]>,
    /// The right operand: for each tap the channels of the source, to an even number where words are
    /// pairs.
    pub panels: Panels,
}

/// A gathered product.
#[derive(Clone, Debug)]
pub struct Gather {
    /// The pictures that are read.
    pub source: Pictures,
    /// The pictures that are made.
    pub result: Pictures,
    /// Pixels of the source from one pixel of a lattice to the next.
    pub stride: usize,
    /// Pixels of the result from one pixel of a lattice to the next.
    pub step: usize,
    /// Lattices that cover the result; pixels of none become 0.
    pub lattices: Vec<Lattice>,
}

/// Channels of a pixel as panels count them: whole words.
pub fn padded(format: Format, channels: usize) -> usize {
    format.words(channels) * format.group()
}

/// Words that lie together in the scratch space, from `offset` of a pixel's first tap on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) offset: usize,
    pub(super) len: usize,
}

/// Runs that are multiplied before the kernel goes on to the next tile.
#[derive(Clone, Debug)]
struct Chunk {
    /// The first word along the summed dimension.
    first: usize,
    depth: usize,
    runs: Vec<Run>,
}

/// What every task knows of a lattice.
struct Plan<'a> {
    lattice: &'a Lattice,
    /// The smallest row and column of its taps.
    least: [isize; 2],
    /// The largest row of its taps.
    most: isize,
    /// Its pixels in a row of the result.
    columns: usize,
    chunks: Vec<Chunk>,
}

/// The layout of a row of the source in scratch space.
#[derive(Clone, Copy)]
struct Padding {
    format: Format,
    /// Pixels of zeros in front.
    left: usize,
    /// Pixels in all.
    width: usize,
    /// Words of a pixel.
    words: usize,
}

/// The result `[batch, height, width, n]` of `gather` on `x`.
///
/// # Panics
/// When `x` or a panel does not fit.
pub fn product(format: Format, x: &[f32], gather: &Gather) -> Vec<f32> {
    let Gather { source, result, .. } = gather;
    assert_eq!(x.len(), source.len(), "a picture of the wrong size");
    if result.is_empty() {
        return Vec::new();
    }
    let padding = padding(format, gather);
    let plans: Vec<Plan<'_>> = gather
        .lattices
        .iter()
        .filter(|lattice| !lattice.taps.is_empty())
        .filter_map(|lattice| plan(lattice, gather, padding))
        .collect();
    let row = result.width * result.channels;
    let rows = PIXELS.div_ceil(result.width);
    let scratch = Scratch::default;
    threads::made((result.len(), rows * row), scratch, |scratch: &mut Scratch, task, y| {
        let lines = task * rows..task * rows + y.len() / row;
        scratch.fill(x, gather, (&plans, padding), lines);
        for (plan, places) in plans.iter().zip(&scratch.places) {
            run(format, (&scratch.words, places), plan, y);
        }
    })
}

/// Zeros around the source, so that no tap falls outside of a row.
fn padding(format: Format, gather: &Gather) -> Padding {
    let (mut left, mut right) = (0, 0);
    for lattice in &gather.lattices {
        let columns = lattice.columns(gather);
        for [_, dx] in &lattice.taps {
            left = left.max(-dx);
            let last = (gather.stride * columns.saturating_sub(1)).cast_signed() + dx;
            right = right.max(last + 1 - gather.source.width.cast_signed());
        }
    }
    let width = gather.source.width + (left + right).cast_unsigned();
    let words = format.words(gather.source.channels);
    Padding { format, left: left.cast_unsigned(), width, words }
}

impl Lattice {
    /// Its pixels in a row of the result.
    fn columns(&self, gather: &Gather) -> usize {
        gather.result.width.saturating_sub(self.first[1]).div_ceil(gather.step)
    }
}

fn plan<'a>(lattice: &'a Lattice, gather: &Gather, padding: Padding) -> Option<Plan<'a>> {
    let group = padding.format.group();
    let k = lattice.taps.len() * padding.words * group;
    let fits = (lattice.panels.k, lattice.panels.n, lattice.panels.format);
    assert_eq!(fits, (k, gather.result.channels, padding.format), "panels of a gathered product");
    let rows = lattice.taps.iter().map(|tap| tap[0]);
    let (top, most) = (rows.clone().min()?, rows.max()?);
    let left = lattice.taps.iter().map(|tap| tap[1]).min()?;
    let mut runs: Vec<Run> = Vec::new();
    for [dy, dx] in &lattice.taps {
        let pixel = (dy - top).cast_unsigned() * padding.width + (dx - left).cast_unsigned();
        let offset = pixel * padding.words;
        match runs.last_mut() {
            Some(run) if run.offset + run.len == offset => run.len += padding.words,
            _ => runs.push(Run { offset, len: padding.words }),
        }
    }
    let (least, columns) = ([top, left], lattice.columns(gather));
    Some(Plan { lattice, least, most, columns, chunks: chunks(&runs) })
}

/// `runs` in pieces of at most [`DEPTH`] words.
fn chunks(runs: &[Run]) -> Vec<Chunk> {
    let mut chunks = vec![Chunk { first: 0, depth: 0, runs: Vec::new() }];
    for run in runs {
        let mut run = *run;
        while run.len > 0 {
            let last = chunks.len() - 1;
            let chunk = &mut chunks[last];
            let len = run.len.min(DEPTH - chunk.depth);
            if len == 0 {
                let first = chunk.first + chunk.depth;
                chunks.push(Chunk { first, depth: 0, runs: Vec::new() });
                continue;
            }
            chunk.runs.push(Run { offset: run.offset, len });
            chunk.depth += len;
            run = Run { offset: run.offset + len, len: run.len - len };
        }
    }
    chunks
}

/// Where a pixel's first tap lies in the scratch space, and where the pixel lies in the task's result.
pub(super) type Place = [usize; 2];

/// What one thread uses again and again.
#[derive(Default)]
struct Scratch {
    words: Vec<u32>,
    /// Pixels of each lattice.
    places: Vec<Vec<Place>>,
    /// Words of one row before they are set in.
    row: Vec<u32>,
}

impl Scratch {
    /// Converts what the rows `lines` of the result (counted over all pictures) read.
    fn fill(
        &mut self,
        x: &[f32],
        gather: &Gather,
        (plans, padding): (&[Plan<'_>], Padding),
        lines: std::ops::Range<usize>,
    ) {
        self.words.clear();
        self.places.resize(plans.len(), Vec::new());
        self.places.iter_mut().for_each(Vec::clear);
        let height = gather.result.height;
        let mut line = lines.start;
        while line < lines.end {
            let (picture, first) = (line / height, line % height);
            let rows = first..height.min(first + lines.end - line);
            let (low, high) = reads(gather, plans, &rows);
            let base = self.words.len();
            let at = |y: usize| (line - lines.start + y - first) * gather.result.width;
            for (plan, places) in plans.iter().zip(&mut self.places) {
                let [fy, fx] = plan.lattice.first;
                let pixel = |i: usize, j: usize| {
                    let y = ((gather.stride * i).cast_signed() + plan.least[0] - low).cast_unsigned();
                    let x = (gather.stride * j + padding.left).cast_signed() + plan.least[1];
                    base + (y * padding.width + x.cast_unsigned()) * padding.words
                };
                for y in rows.clone().filter(|y| *y >= fy && (y - fy).is_multiple_of(gather.step)) {
                    let i = (y - fy) / gather.step;
                    places.extend((0..plan.columns).map(|j| {
                        let to = (at(y) + fx + gather.step * j) * gather.result.channels;
                        [pixel(i, j), to]
                    }));
                }
            }
            let source = &gather.source;
            let picture = &x[picture * source.len() / source.batch..];
            for y in low..=high {
                self.push_row(picture, source, padding, usize::try_from(y).ok());
            }
            line += rows.len();
        }
    }

    /// Sets in row `y` of a picture, or zeros where it has none.
    fn push_row(&mut self, picture: &[f32], source: &Pictures, p: Padding, y: Option<usize>) {
        let start = self.words.len();
        self.words.resize(start + p.width * p.words, 0);
        let Some(y) = y.filter(|y| *y < source.height) else { return };
        let len = source.width * source.channels;
        let row = &picture[y * len..][..len];
        let words: &[u32] = match p.format {
            Format::F32 => bytemuck::cast_slice(row),
            Format::Bf16 if source.channels.is_multiple_of(2) => {
                round_rows(row, len, &mut self.row)
            }
            Format::Bf16 => round_rows(row, source.channels, &mut self.row),
        };
        self.words[start + p.left * p.words..][..words.len()].copy_from_slice(words);
    }
}

/// The first and last row of the source that the rows `rows` of a picture read; may lie outside.
fn reads(gather: &Gather, plans: &[Plan<'_>], rows: &std::ops::Range<usize>) -> (isize, isize) {
    let (mut low, mut high) = (isize::MAX, isize::MIN);
    for plan in plans {
        let first = plan.lattice.first[0];
        let mut lattice =
            rows.clone().filter(|y| *y >= first && (y - first).is_multiple_of(gather.step));
        let Some(start) = lattice.next() else { continue };
        let end = lattice.next_back().unwrap_or(start);
        let at = |y: usize| (gather.stride * ((y - first) / gather.step)).cast_signed();
        low = low.min(at(start) + plan.least[0]);
        high = high.max(at(end) + plan.most);
    }
    // Rows that read nothing have nothing to convert.
    if low > high { (0, -1) } else { (low, high) }
}

/// Makes the pixels `places` of one lattice; `y` is the task's part of the result.
fn run(format: Format, (words, places): (&[u32], &[Place]), plan: &Plan<'_>, y: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if (format == Format::Bf16 && level() == Level::Avx512Bf16)
        || (format == Format::F32 && level() >= Level::Avx512)
    {
        return run_avx512(format, (words, places), plan, y);
    }
    let panels = &plan.lattice.panels;
    let mut rows = Vec::with_capacity(places.len() * format.words(panels.k));
    for [from, _] in places {
        for Run { offset, len } in plan.chunks.iter().flat_map(|chunk| &chunk.runs) {
            rows.extend_from_slice(&words[from + offset..][..*len]);
        }
    }
    let left =
        Left { words: Cow::Owned(rows), format, rows: places.len(), k: panels.k, tiled: false };
    let mut made = vec![0.0; places.len() * panels.n];
    if !made.is_empty() {
        multiply(&left, 0, panels, &mut made, false);
    }
    for ([_, to], made) in places.iter().zip(made.chunks_exact(panels.n)) {
        y[*to..][..panels.n].copy_from_slice(made);
    }
}

#[cfg(target_arch = "x86_64")]
fn run_avx512(format: Format, (words, places): (&[u32], &[Place]), plan: &Plan<'_>, y: &mut [f32]) {
    let panels = &plan.lattice.panels;
    let height = format.words(panels.k);
    for chunk in &plan.chunks {
        for panel in 0..panels.n.div_ceil(WIDTH) {
            let tile = gathered_avx512::Tile {
                a: words,
                runs: &chunk.runs,
                b: &panels.words[(panel * height + chunk.first) * WIDTH..][..chunk.depth * WIDTH],
                column: panel * WIDTH,
                columns: WIDTH.min(panels.n - panel * WIDTH),
                adds: chunk.first > 0,
            };
            gathered_avx512::tiles(format == Format::Bf16, &tile, places, y);
        }
    }
}
