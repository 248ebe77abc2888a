//! Matrix products of packed operands, in f32 or with bf16 operands and f32 sums: `c = a b` or
//! `c += a b`.
//!
//! The left operand lies in [`Left`], the right one in [`Panels`] of 32 columns; a right operand that is
//! a weight is packed once and multiplied many times. An element is a 32-bit word: one f32, or two
//! bf16 that are neighbours along the summed dimension, because one AVX512-BF16 instruction
//! multiplies and adds such pairs; [`Format::of`] says which words a machine takes. AVX-512 has kernels of its
//! own, [`tile`] those of every other machine. Each element of `c` is summed in one fixed order, whatever the
//! number of threads.

use std::borrow::Cow;
use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::dispatch::{Kernel, Level, dispatch, level};
use super::matmul::Linear;
use super::threads;
use rows::{Plain, Rows};

mod ahead;
pub mod attention;
pub mod conv1d;
pub mod correlated;
#[cfg(target_arch = "x86_64")]
mod correlated_avx512;
pub mod feed_forward;
pub mod gathered;
#[cfg(target_arch = "x86_64")]
mod gathered_avx512;
pub mod normed;
mod pack;
#[cfg(target_arch = "x86_64")]
mod pack_avx512;
mod portable;
#[cfg(target_arch = "x86_64")]
mod register;
pub mod rows;
#[cfg(test)]
mod tests;
pub mod tile;
#[cfg(target_arch = "x86_64")]
mod tile_avx2;
pub mod transposed;
#[cfg(target_arch = "x86_64")]
mod vector;
pub mod winograd;

/// Columns of a panel: two registers of 16 f32.
pub const WIDTH: usize = 32;
/// Rows of a tile of the left operand: AVX-512 makes them at once, in 12 x 2 of its 32 registers.
const HEIGHT: usize = 12;
/// Rows of `c` that one task makes: a multiple of `HEIGHT`.
pub const TASK: usize = 96;

/// Columns of a panel that lie together, as this machine takes them: all of it with AVX-512, else those of a tile.
fn lanes() -> usize {
    if level() >= Level::Avx512 { WIDTH } else { tile::COLUMNS }
}

/// What a word of a packed operand holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One f32.
    F32,
    /// One f32 that was rounded to bf16: the same products as of [`Format::Bf16`] (but for numbers below 1e-38, which the
    /// instruction takes as 0), where no instruction multiplies pairs.
    Rounded,
    /// Two bf16, neighbours along the summed dimension.
    Bf16,
}

impl Format {
    /// f32, or, where `bf16`, numbers of bf16 as this machine multiplies them.
    pub fn of(bf16: bool) -> Self {
        match (bf16, level()) {
            (false, _) => Self::F32,
            (true, Level::Avx512Bf16) => Self::Bf16,
            (true, _) => Self::Rounded,
        }
    }

    /// How the same numbers are kept in memory.
    #[must_use]
    pub const fn kept(self) -> Self {
        match self {
            Self::F32 => Self::F32,
            Self::Rounded | Self::Bf16 => Self::Bf16,
        }
    }

    /// Bytes of a number, but for what fills up the last word of a row.
    pub const fn bytes(self) -> usize {
        4 / self.group()
    }

    /// Elements of one word.
    const fn group(self) -> usize {
        match self {
            Self::F32 | Self::Rounded => 1,
            Self::Bf16 => 2,
        }
    }

    /// Words along a summed dimension of `k` elements.
    const fn words(self, k: usize) -> usize {
        k.div_ceil(self.group())
    }
}

/// The element `at % group` of a word.
#[inline(always)]
fn element(format: Format, word: u32, at: usize) -> f32 {
    match format {
        Format::F32 | Format::Rounded => f32::from_bits(word),
        Format::Bf16 if at.is_multiple_of(2) => f32::from_bits(word << 16),
        Format::Bf16 => f32::from_bits(word & 0xFFFF_0000),
    }
}

/// The left operand `[rows, k]` of a product.
#[derive(Clone, Debug)]
pub struct Left<'a> {
    words: Cow<'a, [u32]>,
    format: Format,
    rows: usize,
    k: usize,
    /// Whether the words of 12 rows lie together (from a transposed source) or each row is one run.
    tiled: bool,
    /// Words from one run to the next, where rows are runs; runs may overlap, as windows do.
    stride: usize,
}

impl<'a> Left<'a> {
    /// From `x` `[rows, k]`, row-major; f32 is borrowed as it is.
    pub fn from_rows(format: Format, x: &'a [f32], rows: usize, k: usize) -> Self {
        let words = match format {
            Format::F32 => Cow::Borrowed(bytemuck::cast_slice(&x[..rows * k])),
            _ => Cow::Owned(rounded_rows(format, x, rows, k)),
        };
        Self { words, format, rows, k, tiled: false, stride: format.words(k) }
    }

    /// From the words of `rows` rows of `k` numbers.
    fn from_words(format: Format, words: &'a [u32], rows: usize, k: usize) -> Self {
        let words = Cow::Borrowed(words);
        Self { words, format, rows, k, tiled: false, stride: format.words(k) }
    }

    /// From `x` `[k, rows]`, row-major: the transpose of `x`.
    pub fn from_columns(format: Format, x: &[f32], k: usize, rows: usize) -> Self {
        let height = format.words(k);
        let mut words = vec![0; rows.div_ceil(HEIGHT) * HEIGHT * height];
        words.par_chunks_mut((height * HEIGHT).max(1)).enumerate().for_each(|(tile, words)| {
            let first = tile * HEIGHT;
            let columns = (first, HEIGHT.min(rows - first));
            pack::interleave(format, HEIGHT, (words, 0), (&x[..k * rows], rows), columns);
        });
        Self { words: Cow::Owned(words), format, rows, k, tiled: true, stride: 0 }
    }

    /// The word at (`row`, `at`).
    fn word(&self, row: usize, at: usize) -> u32 {
        let height = self.format.words(self.k);
        if self.tiled {
            self.words[(row / HEIGHT * height + at) * HEIGHT + row % HEIGHT]
        } else {
            self.words[row * self.stride + at]
        }
    }
}

fn rounded_rows(format: Format, x: &[f32], rows: usize, k: usize) -> Vec<u32> {
    let height = format.words(k);
    let mut words = vec![0; rows * height];
    if k > 0 {
        words.par_chunks_mut(height * 32).zip(x.par_chunks(k * 32)).for_each(|(words, x)| {
            write_rows(format, (words, height), (x, k));
        });
    }
    words
}

/// Writes the words of rows of `k` numbers, `height` of them for each.
fn write_rows(format: Format, (words, height): (&mut [u32], usize), (x, k): (&[f32], usize)) {
    for (words, x) in words.chunks_mut(height).zip(x.chunks(k)) {
        pack::write_row(format, words, x);
    }
}

/// The right operand `[k, n]` of a product, packed once for as many products as needed.
#[derive(Clone, Debug)]
pub struct Panels<'a> {
    words: Cow<'a, [u32]>,
    format: Format,
    /// Columns of a panel that lie together, word by word along the summed dimension: [`lanes`], or all of it.
    lanes: usize,
    k: usize,
    n: usize,
}

impl<'a> Panels<'a> {
    /// From words that lie as [`Panels::packed`] fills them on this machine.
    fn from_words(format: Format, words: &'a [u32], k: usize, n: usize) -> Self {
        Self { words: Cow::Borrowed(words), format, lanes: lanes(), k, n }
    }

    /// From `x` `[k, n]`, row-major.
    pub fn from_rows(format: Format, x: &[f32], k: usize, n: usize) -> Self {
        Self::packed(format, [k, n], |words, columns, _| {
            let panel = (words, lanes() * format.words(k));
            pack::interleave(format, lanes(), panel, (&x[..k * n], n), columns);
        })
    }

    /// From `x` `[n, k]`, row-major: the transpose of `x`, as for a weight `[out, in]`.
    pub fn from_columns(format: Format, x: &[f32], n: usize, k: usize) -> Self {
        Self::packed(format, [k, n], |words, (first, _), _| {
            if k > 0 {
                pack::columns((format, lanes()), words, (&x[first * k..n * k], k), k);
            }
        })
    }

    /// From columns that `fill` makes one by one: it gets the number of a column and room for its `k` numbers, which
    /// holds zeros or what it wrote for another column.
    pub fn from_made_columns(
        format: Format,
        [k, n]: [usize; 2],
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        Self::packed(format, [k, n], |words, (first, count), made| {
            if k > 0 {
                made.resize(k * WIDTH, 0.0);
                let columns = &mut made[..count * k];
                columns.chunks_exact_mut(k).zip(first..).for_each(|(room, at)| fill(at, room));
                pack::columns((format, lanes()), words, (columns, k), k);
            }
        })
    }

    /// From rows that `fill` makes up to 32 columns at a time: it gets the first column, how many, and room `[k, 32]`, which
    /// holds zeros or what it wrote for other columns.
    pub fn from_made_rows(
        format: Format,
        [k, n]: [usize; 2],
        fill: impl Fn(usize, usize, &mut [f32]) + Sync,
    ) -> Self {
        Self::packed(format, [k, n], |words, (first, count), made| {
            made.resize(k * WIDTH, 0.0);
            fill(first, count, made);
            let panel = (words, lanes() * format.words(k));
            pack::interleave(format, lanes(), panel, (made.as_slice(), WIDTH), (0, count));
        })
    }

    /// Packs panel by panel; `fill` gets the words of a panel, its first column and how many, and room that one thread
    /// uses again and again.
    fn packed(
        format: Format,
        [k, n]: [usize; 2],
        fill: impl Fn(&mut [u32], (usize, usize), &mut Vec<f32>) + Sync,
    ) -> Self {
        let height = format.words(k);
        let mut words = vec![0; height * n.div_ceil(WIDTH) * WIDTH];
        let panels = words.par_chunks_mut((height * WIDTH).max(1)).enumerate();
        panels.for_each_init(Vec::new, |room, (panel, words)| {
            let first = panel * WIDTH;
            fill(words, (first, WIDTH.min(n - first)), room);
        });
        Self { words: Cow::Owned(words), format, lanes: lanes(), k, n }
    }

    /// Columns of the operand.
    pub fn columns(&self) -> usize {
        self.n
    }

    /// The word at (`at`, `column`).
    fn word(&self, at: usize, column: usize) -> u32 {
        let height = self.format.words(self.k);
        self.words[(column / self.lanes * height + at) * self.lanes + column % self.lanes]
    }
}

/// `c = a b`, or `c += a b` where `accumulate`; `c` is `[rows, n]`, row-major.
///
/// # Panics
/// When the shapes or formats of `a`, `b` and `c` don't fit each other.
pub fn matmul(a: &Left<'_>, b: &Panels<'_>, c: &mut [f32], accumulate: bool) {
    assert_eq!((a.k, c.len()), (b.k, a.rows * b.n), "shapes of a matrix product");
    if c.is_empty() {
        return;
    }
    c.par_chunks_mut(TASK * b.n).enumerate().for_each(|(task, c)| {
        multiply(a, task * TASK, b, c, accumulate);
    });
}

/// The rows from `first` on (a multiple of 12) of a product, on the calling thread; `c` is
/// `[rows, n]`.
///
/// # Panics
/// When the shapes or formats of `a`, `b` and `c` don't fit each other.
pub fn multiply(a: &Left<'_>, first: usize, b: &Panels<'_>, c: &mut [f32], accumulate: bool) {
    // SAFETY: nothing but numbers is written.
    let c = unsafe { threads::room(c) };
    // SAFETY: it holds numbers.
    unsafe { block(a, first, b, c, accumulate) };
}

/// As [`multiply`], into room that need not hold numbers yet, and does after this.
fn multiply_into<'a>(
    a: &Left<'_>,
    first: usize,
    b: &Panels<'_>,
    room: &'a mut [MaybeUninit<f32>],
) -> &'a mut [f32] {
    // SAFETY: it doesn't accumulate.
    unsafe { block(a, first, b, room, false) };
    // SAFETY: every number was written.
    unsafe { room.assume_init_mut() }
}

/// [`multiply`]; writes every number of `c`.
///
/// # Safety
/// `c` holds numbers where it accumulates.
unsafe fn block(
    a: &Left<'_>,
    first: usize,
    b: &Panels<'_>,
    c: &mut [MaybeUninit<f32>],
    accumulate: bool,
) {
    assert_eq!((a.format, a.k), (b.format, b.k), "formats of a matrix product");
    assert!(first.is_multiple_of(HEIGHT) && first * b.n + c.len() <= a.rows * b.n);
    // Whole rows: what is left over would stay as it is.
    assert!(c.len().is_multiple_of(b.n), "rows of a matrix product");
    if c.is_empty() {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    match (a.format, level()) {
        (Format::Bf16, Level::Avx512Bf16) => {
            assert_eq!(b.lanes, WIDTH, "columns that lie together");
            // SAFETY: `level` found AVX-512 and AVX512-BF16; the rest is the caller's promise.
            return unsafe { vector::block::<true>(a, first, b, c, accumulate) };
        }
        (Format::F32 | Format::Rounded, Level::Avx512 | Level::Avx512Bf16) => {
            assert_eq!(b.lanes, WIDTH, "columns that lie together");
            // SAFETY: `level` found AVX-512; the rest is the caller's promise.
            return unsafe { vector::block::<false>(a, first, b, c, accumulate) };
        }
        _ => {}
    }
    match a.format {
        // SAFETY: the caller's promise.
        Format::F32 | Format::Rounded => unsafe { tile::block(a, first, b, c, accumulate) },
        // SAFETY: the caller's promise.
        Format::Bf16 => unsafe { portable::block(a, first, b, c, accumulate) },
    }
}

/// `x b` for `x` `[rows, k]`, whose rows are made and rounded piece by piece.
///
/// `finish` is called once on every piece of the product that is done, with the number of its first
/// row, while the piece is still in the cache: the place for a bias or an activation.
///
/// # Panics
/// When `x` has another width or too few rows.
pub fn rows_by_panels(
    (x, rows): (&impl Rows, usize),
    b: &Panels<'_>,
    finish: impl Fn(usize, &mut [f32]) + Sync + Send,
) -> Vec<f32> {
    assert_eq!(x.width(), b.k, "shapes of a matrix product");
    let piece = |space: &mut Space, task: usize, y: &mut [MaybeUninit<f32>]| {
        let (first, rows) = (task * TASK, y.len() / b.n);
        finish(first, multiply_into(&space.left(b.format, x, first, rows), 0, b, y));
    };
    // SAFETY: a product writes every number of its piece.
    unsafe { threads::filled((rows * b.n, TASK * b.n), Space::default, piece) }
}

/// Scratch space of one thread: rows that were made, and their words.
#[derive(Default)]
struct Space {
    rows: Vec<f32>,
    words: Vec<u32>,
}

impl Space {
    /// `count` rows from `first` on as a left operand.
    fn left<'a>(
        &'a mut self,
        format: Format,
        x: &'a impl Rows,
        first: usize,
        count: usize,
    ) -> Left<'a> {
        let (rows, words) = self.rows(x, first, count);
        let words = match format {
            Format::F32 => bytemuck::cast_slice(rows),
            _ => round_rows(format, rows, x.width(), words),
        };
        Left::from_words(format, words, count, x.width())
    }

    /// `count` rows from `first` on, and room for words.
    fn rows<'a>(
        &'a mut self,
        source: &'a impl Rows,
        first: usize,
        count: usize,
    ) -> (&'a [f32], &'a mut Vec<u32>) {
        if let Some(rows) = source.borrow(first, count) {
            return (rows, &mut self.words);
        }
        self.rows.resize(count * source.width(), 0.0);
        source.write(first, &mut self.rows);
        (&self.rows, &mut self.words)
    }
}

fn round_rows<'a>(format: Format, x: &[f32], k: usize, words: &'a mut Vec<u32>) -> &'a [u32] {
    let height = format.words(k).max(1);
    words.resize(x.len() / k.max(1) * height, 0);
    write_rows(format, (words, height), (x, k.max(1)));
    words
}

/// `x w^T + b` for the weight `w` `[outputs, inputs]`, with operands rounded to bf16 where `BF16`.
///
/// # Panics
/// When a slice is too short.
pub fn linear<const BF16: bool>(
    x: &impl Rows,
    w: &[f32],
    bias: Option<&[f32]>,
    sizes: Linear,
) -> Vec<f32> {
    let w = Panels::from_columns(Format::of(BF16), w, sizes.outputs, sizes.inputs);
    rows_by_panels((x, sizes.rows), &w, |_, y| add_bias(y, bias))
}

/// Adds `bias`, where there is one, to every row of `y`, on the calling thread.
fn add_bias(y: &mut [f32], bias: Option<&[f32]>) {
    if let Some(bias) = bias {
        dispatch(AddBias { y, bias });
    }
}

struct AddBias<'a> {
    y: &'a mut [f32],
    bias: &'a [f32],
}

impl Kernel for AddBias<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for y in self.y.chunks_exact_mut(self.bias.len().max(1)) {
            y.iter_mut().zip(self.bias).for_each(|(y, b)| *y += b);
        }
    }
}

/// `dy w`: the gradient of [`linear`] to its input; `finish` as in [`rows_by_panels`].
///
/// # Panics
/// When a slice is too short.
pub fn linear_grad_input<const BF16: bool>(
    dy: &[f32],
    w: &[f32],
    sizes: Linear,
    finish: impl Fn(usize, &mut [f32]) + Sync + Send,
) -> Vec<f32> {
    let w = Panels::from_rows(Format::of(BF16), w, sizes.outputs, sizes.inputs);
    rows_by_panels((&Plain { x: dy, width: sizes.outputs }, sizes.rows), &w, finish)
}

/// `dy^T x`, the gradient of [`linear`] to its weight, and the sums of dy, that to its bias.
///
/// # Panics
/// When a slice is too short.
pub fn linear_grad_weight<const BF16: bool>(
    dy: &[f32],
    x: &impl Rows,
    sizes: Linear,
) -> (Vec<f32>, Vec<f32>) {
    let Linear { rows, inputs, outputs } = sizes;
    let shape = transposed::Shape { k: rows, m: outputs, n: inputs };
    transposed::product_and_sums(Format::of(BF16), dy, x, shape)
}
