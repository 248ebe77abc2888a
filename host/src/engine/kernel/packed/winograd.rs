//! Convolutions of 3 x 3 taps with 16 multiplications for 2 x 2 pixels instead of 36, by the minimal filtering
//! algorithm F(2 x 2, 3 x 3) of Lavin and Gray (<https://arxiv.org/abs/1509.09308>), equation 8 and algorithm 1:
//! `Y = A^T [(G g G^T) . (B^T d B)] A` for each tile `d` of 4 x 4 pixels and each kernel `g`, where `.` is taken number by
//! number and summed over channels: 16 matrix products, one for each of a tile's places.
//!
//! Tiles overlap by two pixels. What a task needs of the source is transformed into scratch space that stays in the cache,
//! in the words that products take; sums are f32 and become pixels panel by panel.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::super::dispatch::dispatch;
use super::super::threads;
use super::gathered::Pictures;
use super::tile::{COLUMNS as LANES, Target};
use super::{Format, Left, Panels, WIDTH, ahead, lanes, multiply, pack};
use transform::{Kernels, Of, OverColumns, OverRows, PLACES, Pixels, TAPS};

pub mod gradient;
mod transform;

/// Tiles whose products are made one after the other, at most, but for a row of more. The more there are, the less often a
/// weight comes from memory; the fewer, the nearer they lie: those of 256 channels take 400 KiB in bf16.
const TILES: usize = 48;
/// Numbers that are asked for ahead of their use, at most: 128 KiB, a part of the cache.
const AHEAD: usize = 1 << 15;

/// A weight `[O, C, 3, 3]`, transformed and packed: `G g G^T`.
pub struct Weight {
    /// Panel by panel, place by place.
    words: Vec<u32>,
    format: Format,
    /// Channels that are summed over, and those that are made.
    sizes: [usize; 2],
}

impl Weight {
    /// For the convolution itself: from C channels to O.
    ///
    /// # Panics
    /// When `w` has another size.
    pub fn forward(format: Format, w: &[f32], [k, n]: [usize; 2]) -> Self {
        assert_eq!(w.len(), n * k * TAPS, "a weight of the wrong size");
        Self::packed(format, [k, n], |(first, count), made, words| {
            let plane = count * k;
            made.resize(PLACES * plane, 0.0);
            let weights = &w[first * k * TAPS..][..plane * TAPS];
            dispatch(Kernels { weights, turned: false, plane, made });
            for (words, made) in words.zip(made.chunks_exact(plane)) {
                pack::columns((format, lanes()), words, (made, k), k);
            }
        })
    }

    /// For the gradient to its input: from O channels to C, with kernels turned by half a circle.
    ///
    /// # Panics
    /// When `w` has another size.
    pub fn turned(format: Format, w: &[f32], [k, n]: [usize; 2]) -> Self {
        assert_eq!(w.len(), n * k * TAPS, "a weight of the wrong size");
        Self::packed(format, [k, n], |(first, count), made, words| {
            let plane = count * k;
            made.resize(PLACES * plane, 0.0);
            for (output, w) in w.chunks_exact(n * TAPS).enumerate() {
                let weights = &w[first * TAPS..][..count * TAPS];
                dispatch(Kernels {
                    weights,
                    turned: true,
                    plane,
                    made: &mut made[output * count..],
                });
            }
            for (words, made) in words.zip(made.chunks_exact(plane)) {
                let panel = (words, lanes() * format.words(k));
                pack::interleave(format, lanes(), panel, (made, count), (0, count));
            }
        })
    }

    /// Packs panel by panel; `fill` gets a panel's first column and how many, room that one thread uses again and again,
    /// and the words of each place, zeros at first.
    fn packed(
        format: Format,
        [k, n]: [usize; 2],
        fill: impl Fn((usize, usize), &mut Vec<f32>, std::slice::ChunksExactMut<'_, u32>) + Sync,
    ) -> Self {
        assert!(k > 0 && n > 0, "a weight without channels");
        let each = format.words(k) * WIDTH;
        let mut words = vec![0; PLACES * each * n.div_ceil(WIDTH)];
        let panels = words.par_chunks_mut(PLACES * each).enumerate();
        panels.for_each_init(Vec::new, |made, (panel, words)| {
            let first = panel * WIDTH;
            fill((first, WIDTH.min(n - first)), made, words.chunks_exact_mut(each));
        });
        Self { words, format, sizes: [k, n] }
    }

    /// The right operand of place number `place`, for 32 channels.
    fn panel(&self, panel: usize, place: usize) -> Panels<'_> {
        let [k, _] = self.sizes;
        let each = self.format.words(k) * WIDTH;
        let words = &self.words[(panel * PLACES + place) * each..][..each];
        Panels::from_words(self.format, words, k, WIDTH)
    }
}

/// The pictures of a convolution of 3 x 3 taps with stride 1.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// What is read.
    pub source: Pictures,
    /// What is made.
    pub result: Pictures,
    /// Rows and columns of zeros on each side of the source.
    pub padding: usize,
}

impl Shape {
    /// Whether it is worth it. Tiles that reach beyond the result multiply for nothing, the transform of a weight wants some
    /// tiles to be used for, and a picture of odd height is made by one thread.
    pub fn pays(&self) -> bool {
        let Pictures { batch, height, width, .. } = self.result;
        let tiles = self.across() * self.down();
        // Three quarters of the multiplications, or fewer.
        let fewer = 4 * PLACES * tiles <= 3 * TAPS * height * width;
        fewer && batch * tiles >= TILES && (height.is_multiple_of(2) || batch >= 8)
    }

    /// Tiles in a row of tiles.
    fn across(&self) -> usize {
        self.result.width.div_ceil(2)
    }

    /// Rows of tiles of a picture.
    fn down(&self) -> usize {
        self.result.height.div_ceil(2)
    }

    /// The rows of pixels of the source `x` that the row of tiles `row` reads; `zeros` are those beyond it.
    fn source_of<'a>(&self, row: usize, x: &'a [f32], zeros: &'a [f32]) -> Of<'a> {
        let (picture, first) = (row / self.down(), row % self.down() * 2);
        let read = |y: usize| {
            line(self.source, (x, zeros), (picture, (first + y).checked_sub(self.padding)))
        };
        Of::Source([read(0), read(1), read(2), read(3)])
    }

    /// The rows of pixels of the result `y` that the row of tiles `row` makes; `zeros` is one beyond it.
    fn result_of<'a>(&self, row: usize, y: &'a [f32], zeros: &'a [f32]) -> Of<'a> {
        let (picture, first) = (row / self.down(), row % self.down() * 2);
        let read = |at: usize| line(self.result, (y, zeros), (picture, Some(first + at)));
        Of::Result([read(0), read(1)])
    }

    /// Rows of tiles whose pixels are whole rows of pictures, one after the other, and how many those are.
    fn unit(&self) -> (usize, usize) {
        let height = self.result.height;
        if height.is_multiple_of(2) { (1, 2) } else { (self.down(), height) }
    }
}

/// Row `y` of a picture, or `zeros` where it has none.
fn line<'a>(
    pictures: Pictures,
    (x, zeros): (&'a [f32], &'a [f32]),
    (picture, y): (usize, Option<usize>),
) -> &'a [f32] {
    let len = pictures.width * pictures.channels;
    match y {
        Some(y) if y < pictures.height => &x[(picture * pictures.height + y) * len..][..len],
        _ => &zeros[..len],
    }
}

/// The convolution `[B, H', W', O]` of `x` `[B, H, W, C]` with `weight`.
///
/// # Panics
/// When `x` or the weight does not fit.
pub fn product(x: &[f32], weight: &Weight, shape: Shape) -> Vec<f32> {
    let work = Work::new(x, weight, shape);
    let body = |scratch: &mut Scratch, task, y: &mut [MaybeUninit<f32>]| {
        // SAFETY: nothing is added to what is there.
        unsafe { work.task(scratch, task, y, false) };
    };
    // SAFETY: without adding, a task writes all of its pixels.
    unsafe { threads::filled((shape.result.len(), work.piece), || work.scratch(), body) }
}

/// Adds what [`product`] makes to `y`.
///
/// # Panics
/// When `x`, `y` or the weight does not fit.
pub fn add_product(x: &[f32], weight: &Weight, shape: Shape, y: &mut [f32]) {
    assert_eq!(y.len(), shape.result.len(), "a picture of the wrong size");
    let work = Work::new(x, weight, shape);
    let body = |scratch: &mut Scratch, task, y: &mut [MaybeUninit<f32>]| {
        // SAFETY: `y` holds numbers.
        unsafe { work.task(scratch, task, y, true) };
    };
    // SAFETY: a task writes numbers alone.
    unsafe { threads::refilled((y, work.piece), || work.scratch(), body) };
}

/// What all tasks share.
struct Work<'a> {
    x: &'a [f32],
    weight: &'a Weight,
    shape: Shape,
    /// Numbers that one task makes.
    piece: usize,
}

impl<'a> Work<'a> {
    fn new(x: &'a [f32], weight: &'a Weight, shape: Shape) -> Self {
        let Shape { source, result, padding } = shape;
        assert_eq!(x.len(), source.len(), "a picture of the wrong size");
        assert_eq!(weight.sizes, [source.channels, result.channels], "a weight of the wrong size");
        let fits = |from: usize, to: usize| from + 2 * padding == to + 2;
        assert!(fits(source.height, result.height) && fits(source.width, result.width));
        let (rows, lines) = shape.unit();
        let units = result.batch * shape.down() / rows.max(1);
        let units = threads::units_per_task(units, TILES / (rows * shape.across()).max(1));
        let piece = (units * lines * result.width * result.channels).max(1);
        Self { x, weight, shape, piece }
    }

    /// Pixels in a row of the source with the zeros around it.
    fn wide(&self) -> usize {
        2 * self.shape.across() + 2
    }

    fn scratch(&self) -> Scratch {
        let Shape { source, .. } = self.shape;
        Scratch {
            zeros: vec![0.0; source.width * source.channels],
            lines: vec![0.0; 4 * self.wide() * source.channels],
            line: vec![0.0; self.shape.across() * source.channels],
            words: Vec::new(),
            sums: Vec::new(),
        }
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
        let Shape { result, .. } = self.shape;
        let (rows, lines) = self.shape.unit();
        let line = result.width * result.channels;
        let rows_of = |numbers: usize| numbers / (lines * line) * rows;
        let (first, count) = (rows_of(task * self.piece), rows_of(y.len()));
        let most = (TILES / self.shape.across()).max(1);
        let mut done = 0;
        for start in (0..count).step_by(most) {
            let block = first + start..first + count.min(start + most);
            let made = block.clone().map(|row| self.lines(row).len()).sum::<usize>() * line;
            let y = &mut y[done..done + made];
            scratch.transform(self, block.clone());
            let panels = result.channels.div_ceil(WIDTH);
            let mut next = Next::new(self.after(block.end, count.min(most)), panels * PLACES);
            for panel in 0..panels {
                scratch.multiply(self.weight, panel, |place| {
                    next.ask();
                    let pixels = y.chunks_exact(result.channels).skip(place).step_by(PLACES);
                    let columns = panel * WIDTH..result.channels.min((panel + 1) * WIDTH);
                    pixels.for_each(|pixel| ahead::to_write(&pixel[columns.clone()]));
                });
                // SAFETY: the caller's promise.
                unsafe { scratch.put(self, (block.clone(), panel), y, adds) };
            }
            done += made;
        }
    }

    /// What `count` rows of tiles from `first` on read, but for the two rows of pixels that most share with those before.
    fn after(&self, first: usize, count: usize) -> &[f32] {
        let Shape { source, padding, .. } = self.shape;
        let line = source.width * source.channels;
        let y = (2 * (first % self.shape.down()) + 2).saturating_sub(padding).min(source.height);
        let start = (first / self.shape.down() * source.height + y) * line;
        let rest = self.x.get(start..).unwrap_or_default();
        &rest[..rest.len().min(2 * count * line)]
    }

    /// The rows of pixels of a row of tiles, counted in its picture.
    fn lines(&self, row: usize) -> Range<usize> {
        let first = row % self.shape.down() * 2;
        first..self.shape.result.height.min(first + 2)
    }
}

/// What a block after this one reads, which is asked for piece by piece while this one is multiplied.
struct Next<'a> {
    rest: &'a [f32],
    each: usize,
}

impl<'a> Next<'a> {
    /// Of `all`, in `pieces`; nothing where it would drive out what this block uses.
    fn new(all: &'a [f32], pieces: usize) -> Self {
        let rest = if all.len() <= AHEAD { all } else { &[] };
        Self { rest, each: all.len().div_ceil(pieces).next_multiple_of(LANES) }
    }

    fn ask(&mut self) {
        let (piece, rest) = self.rest.split_at(self.each.min(self.rest.len()));
        ahead::to_read(piece);
        self.rest = rest;
    }
}

/// What one thread uses again and again.
struct Scratch {
    /// A row of pixels beyond the picture.
    zeros: Vec<f32>,
    /// The rows of `B^T d` for a row of tiles, with zeros on both sides.
    lines: Vec<f32>,
    /// One place of a row of tiles.
    line: Vec<f32>,
    /// `B^T d B` of a block of tiles, place by place.
    words: Vec<u32>,
    /// What the products give for 32 channels, place by place.
    sums: Vec<f32>,
}

impl Scratch {
    /// Transforms what the rows of tiles `block` read.
    fn transform(&mut self, work: &Work<'_>, block: Range<usize>) {
        let Shape { source, padding, .. } = work.shape;
        let (channels, across) = (source.channels, work.shape.across());
        let format = work.weight.format;
        let each = format.words(channels);
        let place = block.len() * across * each;
        self.words.resize(PLACES * place, 0);
        let (line, wide) = (source.width * channels, work.wide() * channels);
        for (at, row) in block.enumerate() {
            let of = work.shape.source_of(row, work.x, &self.zeros);
            for (way, made) in self.lines.chunks_exact_mut(wide).enumerate() {
                let made = &mut made[padding * channels..][..line];
                dispatch(OverRows { of, way, channels, some: 0..channels, made });
            }
            for (number, words) in self.words.chunks_exact_mut(place).enumerate() {
                let (line, way) = (&self.lines[number / 4 * wide..][..wide], number % 4);
                let words = &mut words[at * across * each..][..across * each];
                if format == Format::F32 {
                    let made = bytemuck::cast_slice_mut(words);
                    dispatch(OverColumns { line, source: true, way, channels, made });
                    continue;
                }
                dispatch(OverColumns { line, source: true, way, channels, made: &mut self.line });
                if channels.is_multiple_of(format.group()) {
                    pack::write_row(format, words, &self.line);
                } else {
                    super::write_rows(format, (words, each), (&self.line, channels));
                }
            }
        }
    }

    /// Multiplies what was transformed by panel number `panel`; calls `before` ahead of each place.
    fn multiply(&mut self, weight: &Weight, panel: usize, mut before: impl FnMut(usize)) {
        let (format, [k, _]) = (weight.format, weight.sizes);
        let place = self.words.len() / PLACES;
        let rows = place / format.words(k);
        self.sums.resize(PLACES * rows * WIDTH, 0.0);
        let sums = self.sums.chunks_exact_mut(rows * WIDTH);
        for ((number, words), sums) in self.words.chunks_exact(place).enumerate().zip(sums) {
            before(number);
            let left = Left::from_words(format, words, rows, k);
            multiply(&left, 0, &weight.panel(panel, number), sums, false);
        }
    }

    /// Puts the sums into the pixels of the rows of tiles `block`, which begin with `y`, or adds them.
    ///
    /// # Safety
    /// Those pixels hold numbers where it `adds`.
    unsafe fn put(
        &self,
        work: &Work<'_>,
        (block, panel): (Range<usize>, usize),
        y: &mut [MaybeUninit<f32>],
        adds: bool,
    ) {
        let Pictures { width, channels, .. } = work.shape.result;
        let across = work.shape.across();
        let mut first = 0;
        for (at, row) in block.enumerate() {
            let height = work.lines(row).len();
            for column in (panel * WIDTH..channels.min((panel + 1) * WIDTH)).step_by(LANES) {
                let y = &mut y[first * width * channels + column..];
                // SAFETY: the caller's promise.
                let mut target = unsafe { Target::room(y, LANES.min(channels - column), adds) };
                dispatch(Pixels {
                    sums: &self.sums[at * across * WIDTH + column % WIDTH..],
                    place: self.sums.len() / PLACES,
                    channels,
                    size: [height, width],
                    target: &mut target,
                });
            }
            first += height;
        }
    }
}
