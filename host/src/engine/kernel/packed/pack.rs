//! Packing operands: to bf16 pairs, interleaved or transposed, by the machine's widest instructions.

use super::super::dispatch::{Level, level};
#[cfg(target_arch = "x86_64")]
use super::pack_avx512;
use super::{Format, WIDTH};

/// Rounds to bf16, to nearest, ties to even; NaN stays NaN.
#[inline(always)]
pub(super) fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
    if x.is_nan() { (bits >> 16) | 0x40 } else { rounded }
}

#[inline(always)]
fn pair(low: f32, high: f32) -> u32 {
    round(low) | (round(high) << 16)
}

/// Rounds one row into words of two; an odd last element is paired with 0.
pub(super) fn round_row(words: &mut [u32], x: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512Bf16 {
        // SAFETY: the level was found.
        unsafe { pack_avx512::round_row(words, x) };
        return;
    }
    let (whole, rest) = x.as_chunks::<2>();
    for (word, [low, high]) in words.iter_mut().zip(whole) {
        *word = pair(*low, *high);
    }
    if let ([last], Some(word)) = (rest, words.get_mut(whole.len())) {
        *word = pair(*last, 0.0);
    }
}

/// Writes a row's words.
pub(super) fn write_row(format: Format, words: &mut [u32], x: &[f32]) {
    match format {
        Format::F32 => words.copy_from_slice(bytemuck::cast_slice(x)),
        Format::Bf16 => round_row(words, x),
    }
}

/// Reads a row from its words.
pub(super) fn read_row(format: Format, words: &[u32], x: &mut [f32]) {
    match format {
        Format::F32 => x.copy_from_slice(bytemuck::cast_slice(words)),
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
    for (x, word) in x.chunks_mut(2).zip(words) {
        for (at, x) in x.iter_mut().enumerate() {
            *x = super::element(Format::Bf16, *word, at);
        }
    }
}

/// As [`interleave`] with bf16 words, from rows of `stride` words of two neighbours, from an even column on.
pub(super) fn interleave_pairs<const N: usize>(
    (words, step): (&mut [u32], usize),
    (x, stride): (&[u32], usize),
    (first, columns): (usize, usize),
) {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512Bf16 {
        // SAFETY: the level was found.
        unsafe { pack_avx512::interleave_pairs::<N>((words, step), (x, stride), (first, columns)) };
        return;
    }
    let half = |row: &[u32], at: usize| row.get(at / 2).map_or(0, |w| w >> (at % 2 * 16) & 0xFFFF);
    for (at, rows) in x.chunks((2 * stride).max(1)).enumerate() {
        let (low, high) = rows.split_at(stride.min(rows.len()));
        for column in 0..columns {
            let word = half(low, first + column) | (half(high, first + column) << 16);
            words[column / N * step + at * N + column % N] = word;
        }
    }
}

/// Fills tiles of `words`, which begin `step` words apart, with `columns` columns of `x` (rows of `stride` numbers), from
/// column `first` on: `N` of them a tile, a group of `N` words for each row or pair of rows.
///
/// Rows are read along. Tile by tile, lines of `x` that lie a multiple of a large power of two apart would drive
/// each other out of the cache.
pub(super) fn interleave<const N: usize>(
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
    for (at, rows) in x.chunks((format.group() * stride).max(1)).enumerate() {
        let (low, high) = rows.split_at(stride.min(rows.len()));
        let low = &low[first..first + columns];
        let high = high.get(first..first + columns).unwrap_or_default();
        for (tile, low) in low.chunks(N).enumerate() {
            let words = &mut words[tile * step + at * N..][..low.len()];
            match format {
                Format::F32 => words.copy_from_slice(bytemuck::cast_slice(low)),
                Format::Bf16 => {
                    let high = high.iter().skip(tile * N).copied().chain(std::iter::repeat(0.0));
                    for ((word, low), high) in words.iter_mut().zip(low).zip(high) {
                        *word = pair(*low, high);
                    }
                }
            }
        }
    }
}

/// Fills a panel's words with rows of `x` as columns: at most 32 rows of `k` numbers, `stride` apart.
pub(super) fn columns(format: Format, words: &mut [u32], (x, stride): (&[f32], usize), k: usize) {
    #[cfg(target_arch = "x86_64")]
    match (format, level()) {
        (Format::Bf16, Level::Avx512Bf16) => {
            // SAFETY: the level was found.
            unsafe { pack_avx512::columns_bf16(words, (x, stride), k) };
            return;
        }
        (Format::F32, Level::Avx512 | Level::Avx512Bf16) => {
            // SAFETY: the level was found.
            unsafe { pack_avx512::columns_f32(words, (x, stride), k) };
            return;
        }
        _ => {}
    }
    // Columns that are missing hold what a reused room held.
    words.fill(0);
    for (j, x) in x.chunks(stride).take(WIDTH).enumerate() {
        for (at, x) in x[..k].chunks(format.group()).enumerate() {
            words[at * WIDTH + j] = match format {
                Format::F32 => x[0].to_bits(),
                Format::Bf16 => pair(x[0], x.get(1).copied().unwrap_or(0.0)),
            };
        }
    }
}
