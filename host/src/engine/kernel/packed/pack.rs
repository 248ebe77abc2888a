//! Packing operands: to bf16 pairs, interleaved or transposed, by the machine's widest instructions.

use super::super::dispatch::{Kernel, dispatch};
#[cfg(target_arch = "x86_64")]
use super::super::dispatch::{Level, level};
#[cfg(target_arch = "x86_64")]
use super::pack_avx512;
use super::tile::COLUMNS;
use super::{Format, HEIGHT, WIDTH};

/// Rounds to bf16, to nearest, ties to even; NaN stays NaN.
#[inline(always)]
pub(super) fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
    if x.is_nan() { (bits >> 16) | 0x40 } else { rounded }
}

/// The nearest number of bf16.
#[inline(always)]
fn rounded(x: f32) -> f32 {
    f32::from_bits(round(x) << 16)
}

#[inline(always)]
fn pair(low: f32, high: f32) -> u32 {
    round(low) | (round(high) << 16)
}

/// Rounds one row into words of two; an odd last element is paired with 0.
fn round_row(words: &mut [u32], x: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512Bf16 {
        // SAFETY: the level was found.
        unsafe { pack_avx512::round_row(words, x) };
        return;
    }
    dispatch(RoundPairs { words, x });
}

struct RoundPairs<'a> {
    words: &'a mut [u32],
    x: &'a [f32],
}

impl Kernel for RoundPairs<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { words, x } = self;
        let (whole, rest) = x.as_chunks::<2>();
        for (word, [low, high]) in words.iter_mut().zip(whole) {
            *word = pair(*low, *high);
        }
        if let ([last], Some(word)) = (rest, words.get_mut(whole.len())) {
            *word = pair(*last, 0.0);
        }
    }
}

/// Rounds numbers into words of one.
struct Round<'a> {
    words: &'a mut [u32],
    x: &'a [f32],
}

impl Kernel for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let words = &mut self.words[..self.x.len()];
        for (word, x) in words.iter_mut().zip(self.x) {
            *word = rounded(*x).to_bits();
        }
    }
}

/// Writes a row's words.
pub(super) fn write_row(format: Format, words: &mut [u32], x: &[f32]) {
    match format {
        Format::F32 => words.copy_from_slice(bytemuck::cast_slice(x)),
        Format::Rounded => dispatch(Round { words, x }),
        Format::Bf16 => round_row(words, x),
    }
}

/// Reads a row from its words.
pub(super) fn read_row(format: Format, words: &[u32], x: &mut [f32]) {
    match format {
        Format::F32 | Format::Rounded => x.copy_from_slice(bytemuck::cast_slice(words)),
        Format::Bf16 => unpack(words, x),
    }
}

/// The numbers of words of two.
fn unpack(words: &[u32], x: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512Bf16 {
        // SAFETY: the level was found.
        unsafe { pack_avx512::unpack(words, x) };
        return;
    }
    dispatch(Unpack { words, x });
}

struct Unpack<'a> {
    words: &'a [u32],
    x: &'a mut [f32],
}

impl Kernel for Unpack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let (whole, rest) = self.x.as_chunks_mut::<2>();
        let last = self.words.get(whole.len());
        for (x, word) in whole.iter_mut().zip(self.words) {
            *x = [0, 1].map(|at| super::element(Format::Bf16, *word, at));
        }
        if let ([x], Some(word)) = (rest, last) {
            *x = super::element(Format::Bf16, *word, 0);
        }
    }
}

/// As [`interleave`] with bf16 words, from rows of `stride` words of two neighbours, from an even column on.
pub(super) fn interleave_pairs(
    lanes: usize,
    (words, step): (&mut [u32], usize),
    (x, stride): (&[u32], usize),
    (first, columns): (usize, usize),
) {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512Bf16 {
        let (to, from, columns) = ((words, step), (x, stride), (first, columns));
        if lanes == HEIGHT {
            // SAFETY: the level was found.
            unsafe { pack_avx512::interleave_pairs::<HEIGHT>(to, from, columns) };
        } else {
            assert_eq!(lanes, WIDTH, "columns that lie together");
            // SAFETY: as above.
            unsafe { pack_avx512::interleave_pairs::<WIDTH>(to, from, columns) };
        }
        return;
    }
    let half = |row: &[u32], at: usize| row.get(at / 2).map_or(0, |w| w >> (at % 2 * 16) & 0xFFFF);
    for (at, rows) in x.chunks((2 * stride).max(1)).enumerate() {
        let (low, high) = rows.split_at(stride.min(rows.len()));
        for column in 0..columns {
            let word = half(low, first + column) | (half(high, first + column) << 16);
            words[column / lanes * step + at * lanes + column % lanes] = word;
        }
    }
}

/// Fills tiles of `words`, which begin `step` words apart, with `columns` columns of `x` (rows of `stride` numbers), from
/// column `first` on: `lanes` of them a tile, a group of as many words for each row or pair of rows.
///
/// Rows are read along. Tile by tile, lines of `x` that lie a multiple of a large power of two apart would drive
/// each other out of the cache.
///
/// # Panics
/// When no operand has tiles of so many `lanes`.
pub(super) fn interleave(
    format: Format,
    lanes: usize,
    to: (&mut [u32], usize),
    from: (&[f32], usize),
    columns: (usize, usize),
) {
    match lanes {
        HEIGHT => interleave_by::<HEIGHT>(format, to, from, columns),
        COLUMNS => interleave_by::<COLUMNS>(format, to, from, columns),
        _ => {
            assert_eq!(lanes, WIDTH, "columns that lie together");
            interleave_by::<WIDTH>(format, to, from, columns);
        }
    }
}

/// Groups of rows that are read side by side, so that what a tile gets of them is written in one run: tiles lie far apart.
const TOGETHER: usize = 4;

fn interleave_by<const N: usize>(
    format: Format,
    (words, step): (&mut [u32], usize),
    (x, stride): (&[f32], usize),
    (first, columns): (usize, usize),
) {
    #[cfg(target_arch = "x86_64")]
    if (format, level()) == (Format::Bf16, Level::Avx512Bf16) {
        // SAFETY: the level was found.
        unsafe { pack_avx512::interleave::<N>((words, step), (x, stride), (first, columns)) };
        return;
    }
    dispatch(Interleave::<N> { format, words, step, x, stride, first, columns });
}

struct Interleave<'a, const N: usize> {
    format: Format,
    words: &'a mut [u32],
    step: usize,
    x: &'a [f32],
    stride: usize,
    first: usize,
    columns: usize,
}

impl<const N: usize> Interleave<'_, N> {
    /// Makes each group of words from the numbers above and below each other that `word` makes one of. In groups of one
    /// row there is none below, nor in the last row of an odd number: it counts as 0.
    #[inline(always)]
    fn each(self, word: impl Fn(f32, f32) -> u32) {
        let Self { format, words, step, x, stride, first, columns } = self;
        let group = (format.group() * stride).max(1);
        let whole = columns / N;
        for (at, rows) in x.chunks(group * TOGETHER).enumerate() {
            let mut groups = [(&[][..], &[][..]); TOGETHER];
            let count = rows.len().div_ceil(group);
            for (made, rows) in groups.iter_mut().zip(rows.chunks(group)) {
                let (low, high) = rows.split_at(stride.min(rows.len()));
                let high = high.get(first..first + columns).unwrap_or_default();
                *made = (&low[first..first + columns], high);
            }
            let groups = &groups[..count];
            for tile in 0..whole {
                let words = &mut words[tile * step + at * TOGETHER * N..][..count * N];
                for (words, (low, high)) in words.chunks_exact_mut(N).zip(groups) {
                    let (low, high) = (&low.as_chunks::<N>().0[tile], high.as_chunks::<N>().0);
                    fill(words, (low, high.get(tile)), &word);
                }
            }
            if whole * N == columns {
                continue;
            }
            for (i, (low, high)) in groups.iter().enumerate() {
                let low = &low[whole * N..];
                let high = high.iter().skip(whole * N).copied().chain(std::iter::repeat(0.0));
                let words = &mut words[whole * step + (at * TOGETHER + i) * N..][..low.len()];
                for ((to, low), high) in words.iter_mut().zip(low).zip(high) {
                    *to = word(*low, high);
                }
            }
        }
    }
}

/// Makes words from whole groups of numbers above and below each other.
#[inline(always)]
fn fill<const N: usize>(
    words: &mut [u32],
    (low, high): (&[f32; N], Option<&[f32; N]>),
    word: impl Fn(f32, f32) -> u32,
) {
    let words = words.iter_mut().zip(low);
    match high {
        Some(high) => words.zip(high).for_each(|((to, low), high)| *to = word(*low, *high)),
        None => words.for_each(|(to, low)| *to = word(*low, 0.0)),
    }
}

impl<const N: usize> Kernel for Interleave<'_, N> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        match self.format {
            Format::F32 => self.each(|low, _| low.to_bits()),
            Format::Rounded => self.each(|low, _| rounded(low).to_bits()),
            Format::Bf16 => self.each(pair),
        }
    }
}

/// Fills a panel's words with rows of `x` as columns: at most 32 rows of `k` numbers, `stride` apart. `lanes` columns lie
/// together.
pub(super) fn columns(
    (format, lanes): (Format, usize),
    words: &mut [u32],
    (x, stride): (&[f32], usize),
    k: usize,
) {
    #[cfg(target_arch = "x86_64")]
    match (format, level()) {
        (Format::Bf16, Level::Avx512Bf16) => {
            assert_eq!(lanes, WIDTH, "columns that lie together");
            // SAFETY: the level was found.
            unsafe { pack_avx512::columns_bf16(words, (x, stride), k) };
            return;
        }
        (Format::F32, Level::Avx512 | Level::Avx512Bf16) => {
            assert_eq!(lanes, WIDTH, "columns that lie together");
            // SAFETY: the level was found.
            unsafe { pack_avx512::columns_f32(words, (x, stride), k) };
            return;
        }
        _ => {}
    }
    let mut rows = x.chunks(lanes * stride);
    for words in words.chunks_mut((words.len() / WIDTH * lanes).max(1)) {
        let x = rows.next().unwrap_or_default();
        dispatch(Columns { format, lanes, words, x, stride, k });
    }
}

struct Columns<'a> {
    format: Format,
    lanes: usize,
    words: &'a mut [u32],
    x: &'a [f32],
    stride: usize,
    k: usize,
}

impl Kernel for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { format, lanes, words, x, stride, k } = self;
        let group = format.group();
        let count = x.len().div_ceil(stride);
        // Line by line of `words`: written along, and read from lines that stay in the cache.
        for (at, words) in words.chunks_mut(lanes).enumerate() {
            let (room, missing) = words.split_at_mut(count);
            for (word, x) in room.iter_mut().zip(x.chunks(stride)) {
                let x = &x[at * group..k];
                *word = match format {
                    Format::F32 => x[0].to_bits(),
                    Format::Rounded => rounded(x[0]).to_bits(),
                    Format::Bf16 => pair(x[0], x.get(1).copied().unwrap_or(0.0)),
                };
            }
            // They hold what a reused room held.
            missing.fill(0);
        }
    }
}
