//! Products whose left rows are gathered from a picture: convolutions and their gradients to the input.
//!
//! Pictures are `[batch, height, width, channels]`. A pixel of the result reads the source at a few taps;
//! the words of taps that are neighbours in a row of the picture lie together, so the kernel walks
//! runs of words and no matrix of columns is ever made. Each task converts the rows of the source that
//! it needs, with zeros around them, into scratch space that stays in the cache.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;

use super::super::dispatch::{Level, level};
use super::super::threads;
#[cfg(target_arch = "x86_64")]
use super::gathered_avx512;
use super::tile::{self, Operands, Place, Places, Segment, Target};
use super::{Format, Panels, pack};

/// Pixels of the result that one task makes, about.
const PIXELS: usize = 192;
/// Words along the summed dimension before the kernel goes on to the next tile, so that a piece of a
/// panel (24 KiB at most) stays in L1.
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
}

/// Which pixels are read for which.
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
struct Plan {
    first: [usize; 2],
    /// The smallest row and column of its taps.
    least: [isize; 2],
    /// The largest row of its taps.
    most: isize,
    /// Its pixels in a row of the result.
    columns: usize,
    /// The words of each tap, from those of the first on.
    taps: Vec<usize>,
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

/// The result `[batch, height, width, n]` of `gather` on `x`. Each lattice has its `panels`: for each of its taps
/// the channels of the source, to an even number where words are pairs.
///
/// # Panics
/// When `x` or a panel does not fit, or the processor does not multiply words of `format`.
pub fn product(format: Format, x: &[f32], gather: &Gather, panels: &[Panels<'_>]) -> Vec<f32> {
    let Some(work) = Work::new(format, x, gather, panels) else { return Vec::new() };
    let body = |scratch: &mut Scratch, task, y: &mut [MaybeUninit<f32>]| {
        // SAFETY: nothing is added to what is there.
        unsafe { work.task(scratch, task, y, false) };
    };
    // SAFETY: without adding, a task writes all of its pixels.
    unsafe { threads::filled((gather.result.len(), work.piece), Scratch::default, body) }
}

/// Adds the result of [`product`] to `y`.
///
/// # Panics
/// When `x`, `y` or a panel does not fit, or the processor does not multiply words of `format`.
pub fn add_product(
    format: Format,
    x: &[f32],
    gather: &Gather,
    panels: &[Panels<'_>],
    y: &mut [f32],
) {
    assert_eq!(y.len(), gather.result.len(), "a picture of the wrong size");
    let Some(work) = Work::new(format, x, gather, panels) else { return };
    let body = |scratch: &mut Scratch, task, y: &mut [MaybeUninit<f32>]| {
        // SAFETY: `y` holds numbers.
        unsafe { work.task(scratch, task, y, true) };
    };
    // SAFETY: a task writes numbers alone.
    unsafe { threads::refilled((y, work.piece), Scratch::default, body) };
}

/// What all tasks share.
struct Work<'a> {
    x: &'a [f32],
    gather: &'a Gather,
    padding: Padding,
    plans: Vec<Plan>,
    products: Vec<(&'a Panels<'a>, Vec<Chunk>)>,
    /// Numbers that one task makes.
    piece: usize,
    /// Whether no two lattices share a pixel: then as many as there are in all are all of them.
    apart: bool,
}

impl<'a> Work<'a> {
    /// None where there is no result.
    fn new(
        format: Format,
        x: &'a [f32],
        gather: &'a Gather,
        panels: &'a [Panels<'a>],
    ) -> Option<Self> {
        let Gather { source, result, .. } = gather;
        assert_eq!(x.len(), source.len(), "a picture of the wrong size");
        assert_eq!(gather.lattices.len(), panels.len(), "panels of a gathered product");
        if result.is_empty() {
            return None;
        }
        let pairs = format == Format::Bf16;
        assert!(!pairs || level() == Level::Avx512Bf16, "a processor that multiplies pairs");
        let padding = padding(format, gather);
        let lattices = gather.lattices.iter().zip(panels);
        let (plans, products): (Vec<Plan>, Vec<(&Panels<'_>, Vec<Chunk>)>) = lattices
            .filter_map(|(lattice, panels)| {
                let k = lattice.taps.len() * padding.words * format.group();
                assert_eq!((panels.k, panels.n, panels.format), (k, result.channels, format));
                let plan = plan(lattice, gather, padding)?;
                let chunks = chunks(&plan.taps, padding.words);
                Some((plan, (panels, chunks)))
            })
            .unzip();
        let lines = result.batch * result.height;
        let lines = threads::units_per_task(lines, PIXELS.div_ceil(result.width));
        let piece = lines * result.width * result.channels;
        let firsts: BTreeSet<_> = gather.lattices.iter().map(|lattice| lattice.first).collect();
        let apart = firsts.len() == gather.lattices.len()
            && firsts.iter().flatten().all(|first| *first < gather.step);
        Some(Self { x, gather, padding, plans, products, piece, apart })
    }

    /// Makes task number `task`, or adds it to `y`.
    ///
    /// # Safety
    /// `y` holds numbers where it `adds`; else all of it does afterwards.
    unsafe fn task(
        &self,
        scratch: &mut Scratch,
        task: usize,
        y: &mut [MaybeUninit<f32>],
        adds: bool,
    ) {
        let result = self.gather.result;
        let row = result.width * result.channels;
        let first = task * self.piece / row;
        let (plans, lines) = ((self.plans.as_slice(), self.padding), first..first + y.len() / row);
        scratch.fill(self.x, self.gather, plans, lines);
        let made: usize = scratch.places.iter().map(Vec::len).sum();
        if !(adds || self.apart && made * result.channels == y.len()) {
            y.fill(MaybeUninit::new(0.0));
        }
        for ((panels, chunks), places) in self.products.iter().zip(&scratch.places) {
            // SAFETY: the caller promises numbers where it adds.
            unsafe { run((&scratch.words, places), (panels, chunks), y, adds) };
        }
    }
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

/// What tasks know of `lattice`; none where it has no taps.
fn plan(lattice: &Lattice, gather: &Gather, padding: Padding) -> Option<Plan> {
    let rows = lattice.taps.iter().map(|tap| tap[0]);
    let (top, most) = (rows.clone().min()?, rows.max()?);
    let left = lattice.taps.iter().map(|tap| tap[1]).min()?;
    let offset = |[dy, dx]: &[isize; 2]| {
        let pixel = (dy - top).cast_unsigned() * padding.width + (dx - left).cast_unsigned();
        pixel * padding.words
    };
    let taps = lattice.taps.iter().map(offset).collect();
    let (least, columns) = ([top, left], lattice.columns(gather));
    Some(Plan { first: lattice.first, least, most, columns, taps })
}

/// `words` words at each of `taps`, those that lie together as one run, in pieces of at most [`DEPTH`] words.
fn chunks(taps: &[usize], words: usize) -> Vec<Chunk> {
    let mut runs: Vec<Run> = Vec::new();
    for &offset in taps {
        match runs.last_mut() {
            Some(run) if run.offset + run.len == offset => run.len += words,
            _ => runs.push(Run { offset, len: words }),
        }
    }
    let mut chunks = vec![Chunk { first: 0, depth: 0, runs: Vec::new() }];
    for mut run in runs {
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

/// What one thread uses again and again.
#[derive(Default)]
struct Scratch {
    words: Vec<u32>,
    /// How many of them this task has filled.
    filled: usize,
    /// Pixels of each lattice.
    places: Vec<Vec<Place>>,
}

impl Scratch {
    /// Converts what the rows `lines` of the result (counted over all pictures) read.
    fn fill(
        &mut self,
        x: &[f32],
        gather: &Gather,
        (plans, padding): (&[Plan], Padding),
        lines: std::ops::Range<usize>,
    ) {
        self.filled = 0;
        self.places.resize(plans.len(), Vec::new());
        self.places.iter_mut().for_each(Vec::clear);
        let height = gather.result.height;
        let mut line = lines.start;
        while line < lines.end {
            let (picture, first) = (line / height, line % height);
            let rows = first..height.min(first + lines.end - line);
            let (low, high) = reads(gather, plans, &rows);
            let task = Task {
                gather,
                padding,
                base: self.filled,
                low,
                first: line - lines.start,
                rows: rows.clone(),
            };
            for (plan, places) in plans.iter().zip(&mut self.places) {
                task.push_places(plan, places);
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
        let (start, end) = (self.filled, self.filled + p.width * p.words);
        self.filled = end;
        // What is there from other tasks is written over.
        self.words.resize(self.words.len().max(end), 0);
        let room = &mut self.words[start..end];
        let Some(y) = y.filter(|y| *y < source.height) else { return room.fill(0) };
        let len = source.width * source.channels;
        let row = &picture[y * len..][..len];
        let (before, rest) = room.split_at_mut(p.left * p.words);
        let (words, behind) = rest.split_at_mut(source.width * p.words);
        before.fill(0);
        behind.fill(0);
        match p.format {
            format if source.channels.is_multiple_of(format.group()) => {
                pack::write_row(format, words, row);
            }
            format => {
                let pixels = row.chunks_exact(source.channels);
                words.chunks_exact_mut(p.words).zip(pixels).for_each(|(words, pixel)| {
                    pack::write_row(format, words, pixel);
                });
            }
        }
    }
}

/// Rows of one picture in a task.
struct Task<'a> {
    gather: &'a Gather,
    padding: Padding,
    /// Where the words of the picture begin.
    base: usize,
    /// The first row of the source among them.
    low: isize,
    /// The first of the rows, counted from the task's first one.
    first: usize,
    /// The rows, counted in the picture.
    rows: std::ops::Range<usize>,
}

impl Task<'_> {
    /// Adds the places of every pixel of a lattice.
    fn push_places(&self, plan: &Plan, places: &mut Vec<Place>) {
        let Gather { stride, step, result, .. } = self.gather;
        let [fy, fx] = plan.first;
        for (line, y) in (self.first..).zip(self.rows.clone()) {
            if y < fy || !(y - fy).is_multiple_of(*step) {
                continue;
            }
            let row = (stride * ((y - fy) / step)).cast_signed() + plan.least[0] - self.low;
            let row = row.cast_unsigned() * self.padding.width;
            places.extend((0..plan.columns).map(|j| {
                let column = (stride * j + self.padding.left).cast_signed() + plan.least[1];
                let from = self.base + (row + column.cast_unsigned()) * self.padding.words;
                [from, (line * result.width + fx + step * j) * result.channels]
            }));
        }
    }
}

/// The first and last row of the source that the rows `rows` of a picture read; may lie outside.
fn reads(gather: &Gather, plans: &[Plan], rows: &std::ops::Range<usize>) -> (isize, isize) {
    let (mut low, mut high) = (isize::MAX, isize::MIN);
    for plan in plans {
        let first = plan.first[0];
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

/// Makes the pixels `places` of one lattice, or adds them; `y` is the task's part of the result.
///
/// # Safety
/// Those pixels of `y` hold numbers where it `adds`; else they do afterwards.
unsafe fn run(
    (words, places): (&[u32], &[Place]),
    (panels, chunks): (&Panels<'_>, &[Chunk]),
    y: &mut [MaybeUninit<f32>],
    adds: bool,
) {
    #[cfg(target_arch = "x86_64")]
    if level() >= if panels.format == Format::Bf16 { Level::Avx512Bf16 } else { Level::Avx512 } {
        // SAFETY: `level` found AVX-512 and, for bf16, AVX512-BF16; the rest is the caller's promise.
        return unsafe { run_avx512((words, places), (panels, chunks), y, adds) };
    }
    let (words, places) = (bytemuck::cast_slice(words), Places::new(places));
    let lanes = panels.lanes;
    let mut segments = Vec::new();
    for chunk in chunks {
        segments.clear();
        let mut right = 0;
        segments.extend(chunk.runs.iter().map(|Run { offset, len }| {
            right += len * lanes;
            Segment { left: *offset, right: right - len * lanes, len: *len }
        }));
        for column in (0..panels.n).step_by(tile::COLUMNS) {
            let panel = (column / lanes * panels.k + chunk.first) * lanes;
            let right = bytemuck::cast_slice(&panels.words[panel..][..chunk.depth * lanes]);
            let operands = Operands::new((words, 1), (right, lanes), &segments);
            let columns = tile::COLUMNS.min(panels.n - column);
            let (y, adds) = (&mut y[column..], adds || chunk.first > 0);
            // SAFETY: the caller promises numbers where it adds; after the first chunk there are some.
            let mut target = unsafe { Target::room(y, columns, adds) };
            operands.make(&places, column % lanes, &mut target);
        }
    }
}

/// [`run`] by the AVX-512 kernel.
///
/// # Safety
/// See [`run`] and [`gathered_avx512::tiles`]; `bf16` where the panels are.
#[cfg(target_arch = "x86_64")]
unsafe fn run_avx512(
    (words, places): (&[u32], &[Place]),
    (panels, chunks): (&Panels<'_>, &[Chunk]),
    y: &mut [MaybeUninit<f32>],
    adds: bool,
) {
    use super::WIDTH;
    assert_eq!(panels.lanes, WIDTH, "columns that lie together");
    let height = panels.format.words(panels.k);
    for chunk in chunks {
        for panel in 0..panels.n.div_ceil(WIDTH) {
            let tile = gathered_avx512::Tile {
                a: words,
                runs: &chunk.runs,
                b: &panels.words[(panel * height + chunk.first) * WIDTH..][..chunk.depth * WIDTH],
                column: panel * WIDTH,
                columns: WIDTH.min(panels.n - panel * WIDTH),
                adds: adds || chunk.first > 0,
            };
            // SAFETY: the caller promises what `tiles` asks for in this format; after the first chunk there are
            // numbers to add to.
            unsafe { gathered_avx512::tiles(panels.format == Format::Bf16, &tile, places, y) };
        }
    }
}
