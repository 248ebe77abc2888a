//! Packing by AVX-512: rounding to bf16 pairs, interleaving of rows, transposition of weights.

use std::arch::x86_64::{
    __m512, __m512i, __mmask16, _mm256_loadu_si256, _mm256_maskz_loadu_epi16, _mm512_castps_si512,
    _mm512_castsi512_ps, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh, _mm512_mask_storeu_epi32,
    _mm512_maskz_loadu_ps, _mm512_or_si512, _mm512_permutexvar_epi16, _mm512_set_epi16,
    _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_ps,
};

use super::super::block_avx512::transpose_tile;
use super::WIDTH;

/// Numbers in a register.
const LANES: usize = 16;

/// The first `n` lanes, all of them from 16 on.
fn mask(n: usize) -> __mmask16 {
    if n >= LANES { u16::MAX } else { (1 << n) - 1 }
}

/// The numbers of `x` from `at` on, as many as there are up to 16, then zeros.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(x: &[f32], at: usize) -> __m512 {
    match x.get(at..) {
        // SAFETY: the mask leaves only numbers of `rest`.
        Some(rest) => unsafe { _mm512_maskz_loadu_ps(mask(rest.len()), rest.as_ptr()) },
        None => _mm512_setzero_ps(),
    }
}

/// Writes the first words of a register, as many as `to` has up to 16.
#[inline]
#[target_feature(enable = "avx512f")]
fn store(to: &mut [u32], words: __m512i) {
    // SAFETY: the mask leaves only words of `to`.
    unsafe { _mm512_mask_storeu_epi32(to.as_mut_ptr().cast(), mask(to.len()), words) };
}

/// Both halves rounded to bf16, `low` in the lower lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded(low: __m512, high: __m512) -> __m512i {
    let halves = _mm512_cvtne2ps_pbh(high, low);
    // SAFETY: both types are 512 plain bits.
    unsafe { std::mem::transmute(halves) }
}

/// Rounds one row into words of two neighbours; an odd last number is paired with 0.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn round_row(words: &mut [u32], x: &[f32]) {
    let (whole, rest) = x.as_chunks::<{ 2 * LANES }>();
    let (to, last) = words.split_at_mut(whole.len() * LANES);
    for (words, x) in to.as_chunks_mut::<LANES>().0.iter_mut().zip(whole) {
        store(words, rounded(load(x, 0), load(x, LANES)));
    }
    if !last.is_empty() {
        store(last, rounded(load(rest, 0), load(rest, LANES)));
    }
}

/// The numbers of words of two.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn unpack(words: &[u32], x: &mut [f32]) {
    let halves: &[u16] = &bytemuck::cast_slice(words)[..x.len()];
    let (from, last) = halves.as_chunks::<LANES>();
    let (to, rest) = x.as_chunks_mut::<LANES>();
    for (to, from) in to.iter_mut().zip(from) {
        // SAFETY: the chunk has 16 halves.
        let halves = unsafe { _mm256_loadu_si256(from.as_ptr().cast()) };
        let numbers = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves));
        let numbers = _mm512_castsi512_ps(numbers);
        // SAFETY: the chunk has room for 16 numbers.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), numbers) };
    }
    for (to, from) in rest.iter_mut().zip(last) {
        *to = f32::from_bits(u32::from(*from) << 16);
    }
}

/// As [`super::pack::interleave`], with words of two numbers that lie below each other; a missing last row counts as 0.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn interleave<const N: usize>(
    (words, step): (&mut [u32], usize),
    (x, stride): (&[f32], usize),
    (first, columns): (usize, usize),
) {
    // Lane 2 i takes number i, lane 2 i + 1 number 16 + i.
    let order = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
        19, 3, 18, 2, 17, 1, 16, 0,
    );
    for (at, rows) in x.chunks((2 * stride).max(1)).enumerate() {
        let (low, high) = rows.split_at(stride.min(rows.len()));
        let low = &low[first..][..columns];
        let high = high.get(first..first + columns);
        let load = |row: &[f32], column: usize, lanes| {
            // SAFETY: `spread_lines` asks for columns that exist.
            let from = unsafe { row.as_ptr().add(column) };
            // SAFETY: as above; the mask leaves only such.
            unsafe { _mm512_maskz_loadu_ps(lanes, from) }
        };
        let words = &mut words[at * N..];
        match high {
            Some(high) => spread_lines::<N>(words, step, columns, |column, lanes| {
                let pairs = rounded(load(low, column, lanes), load(high, column, lanes));
                _mm512_permutexvar_epi16(order, pairs)
            }),
            None => spread_lines::<N>(words, step, columns, |column, lanes| {
                let pairs = rounded(load(low, column, lanes), _mm512_setzero_ps());
                _mm512_permutexvar_epi16(order, pairs)
            }),
        }
    }
}

/// As [`super::pack::interleave_pairs`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn interleave_pairs<const N: usize>(
    (words, step): (&mut [u32], usize),
    (x, stride): (&[u32], usize),
    (first, columns): (usize, usize),
) {
    for (at, rows) in x.chunks((2 * stride).max(1)).enumerate() {
        let (low, high) = rows.split_at(stride.min(rows.len()));
        let low: &[u16] = &bytemuck::cast_slice(low)[first..][..columns];
        let high: Option<&[u16]> =
            (!high.is_empty()).then(|| &bytemuck::cast_slice(high)[first..][..columns]);
        let load = |row: &[u16], column: usize, lanes| {
            // SAFETY: `spread_lines` asks for columns that exist.
            let from = unsafe { row.as_ptr().add(column) };
            // SAFETY: as above; the mask leaves only such.
            _mm512_cvtepu16_epi32(unsafe { _mm256_maskz_loadu_epi16(lanes, from.cast()) })
        };
        let words = &mut words[at * N..];
        match high {
            Some(high) => spread_lines::<N>(words, step, columns, |column, lanes| {
                let high = _mm512_slli_epi32::<16>(load(high, column, lanes));
                _mm512_or_si512(load(low, column, lanes), high)
            }),
            None => {
                let read = |column, lanes| load(low, column, lanes);
                spread_lines::<N>(words, step, columns, read);
            }
        }
    }
}

/// Puts one word of each of `columns` columns into tiles of `N`, which begin `step` words apart. `read` gives the words of
/// the columns from a given one on that a mask names, all of which exist.
///
/// It is bound by how many lines of memory are on their way at once, so nothing is asked in the loop: with the bounds of
/// every tile and register checked in it, it took four times as long.
#[inline]
#[target_feature(enable = "avx512f")]
fn spread_lines<const N: usize>(
    words: &mut [u32],
    step: usize,
    columns: usize,
    read: impl Fn(usize, __mmask16) -> __m512i,
) {
    let (whole, rest) = (columns / N, columns % N);
    assert!(whole == 0 || words.len() >= (whole - 1) * step + N, "tiles of whole columns");
    for tile in 0..whole {
        for i in (0..N).step_by(LANES) {
            let lanes = mask(N - i);
            let made = read(tile * N + i, lanes);
            // SAFETY: the assertion above holds this tile inside of the words.
            let to = unsafe { words.as_mut_ptr().add(tile * step + i) };
            // SAFETY: as above, and the mask keeps to the tile's end.
            unsafe { _mm512_mask_storeu_epi32(to.cast(), lanes, made) };
        }
    }
    for i in (0..rest).step_by(LANES) {
        let to = &mut words[whole * step + i..][..LANES.min(rest - i)];
        store(to, read(whole * N + i, mask(rest - i)));
    }
}

/// Fills a panel's words with rows of `x` as columns: at most 32 rows of `k` numbers, `stride` apart.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn columns_bf16(words: &mut [u32], x: (&[f32], usize), k: usize) {
    columns::<{ 2 * LANES }>(words, x, k, |row, at| rounded(load(row, at), load(row, at + LANES)));
}

/// As [`columns_bf16`], with f32 words.
#[target_feature(enable = "avx512f")]
pub(super) fn columns_f32(words: &mut [u32], x: (&[f32], usize), k: usize) {
    columns::<LANES>(words, x, k, |row, at| _mm512_castps_si512(load(row, at)));
}

/// Tiles of 16 words by 16 columns, `STEP` numbers of a row at a time.
#[inline]
#[target_feature(enable = "avx512f")]
fn columns<const STEP: usize>(
    words: &mut [u32],
    (x, stride): (&[f32], usize),
    k: usize,
    read: impl Fn(&[f32], usize) -> __m512i,
) {
    for (half, rows) in x.chunks(LANES * stride).take(WIDTH / LANES).enumerate() {
        for (block, words) in words.chunks_mut(LANES * WIDTH).enumerate() {
            let mut tile = [_mm512_setzero_ps(); LANES];
            for (line, row) in tile.iter_mut().zip(rows.chunks(stride)) {
                *line = _mm512_castsi512_ps(read(&row[..k], block * STEP));
            }
            for (line, words) in transpose_tile(&tile).into_iter().zip(words.chunks_mut(WIDTH)) {
                store(&mut words[half * LANES..][..LANES], _mm512_castps_si512(line));
            }
        }
    }
}
