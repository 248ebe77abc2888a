//! Packing by AVX-512: rounding to bf16 pairs, interleaving of rows, transposition of weights.

use std::arch::x86_64::{
    __m512, __m512i, __mmask16, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_cvtne2ps_pbh,
    _mm512_mask_storeu_epi32, _mm512_maskz_loadu_ps, _mm512_permutexvar_epi16, _mm512_set_epi16,
    _mm512_setzero_ps,
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
        let low = &low[first..first + columns];
        let high = high.get(first..first + columns).unwrap_or_default();
        for (tile, low) in low.chunks(N).enumerate() {
            let high = high.get(tile * N..).unwrap_or_default();
            let words = &mut words[tile * step + at * N..][..low.len()];
            for (i, words) in words.chunks_mut(LANES).enumerate() {
                let pairs = rounded(load(low, i * LANES), load(high, i * LANES));
                store(words, _mm512_permutexvar_epi16(order, pairs));
            }
        }
    }
}

/// Fills a panel's words with the rows of `x` (`k` numbers each, at most 32 rows) as columns.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn columns_bf16(words: &mut [u32], x: &[f32], k: usize) {
    columns::<{ 2 * LANES }>(words, x, k, |row, at| rounded(load(row, at), load(row, at + LANES)));
}

/// As [`columns_bf16`], with f32 words.
#[target_feature(enable = "avx512f")]
pub(super) fn columns_f32(words: &mut [u32], x: &[f32], k: usize) {
    columns::<LANES>(words, x, k, |row, at| _mm512_castps_si512(load(row, at)));
}

/// Tiles of 16 words by 16 columns, `STEP` numbers of a row at a time.
#[inline]
#[target_feature(enable = "avx512f")]
fn columns<const STEP: usize>(
    words: &mut [u32],
    x: &[f32],
    k: usize,
    read: impl Fn(&[f32], usize) -> __m512i,
) {
    for (half, rows) in x.chunks(LANES * k).take(WIDTH / LANES).enumerate() {
        for (block, words) in words.chunks_mut(LANES * WIDTH).enumerate() {
            let mut tile = [_mm512_setzero_ps(); LANES];
            for (line, row) in tile.iter_mut().zip(rows.chunks_exact(k)) {
                *line = _mm512_castsi512_ps(read(row, block * STEP));
            }
            for (line, words) in transpose_tile(&tile).into_iter().zip(words.chunks_mut(WIDTH)) {
                store(&mut words[half * LANES..][..LANES], _mm512_castps_si512(line));
            }
        }
    }
}
