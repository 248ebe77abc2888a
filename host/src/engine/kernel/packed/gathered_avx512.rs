//! The AVX-512 kernel of gathered products, in f32 and, with AVX512-BF16, in bf16.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_castsi512_ps, _mm512_dpbf16_ps,
    _mm512_fmadd_ps, _mm512_loadu_si512, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps,
    _mm512_set1_epi32, _mm512_setzero_ps,
};

use super::gathered::{Place, Run};
use super::{HEIGHT, WIDTH};

/// What is multiplied by one piece of a panel.
pub(super) struct Tile<'a> {
    /// Left words: those of a pixel lie at its place, in runs.
    pub(super) a: &'a [u32],
    pub(super) runs: &'a [Run],
    /// Right words: as many groups of `WIDTH` as the runs have words.
    pub(super) b: &'a [u32],
    /// The panel's first column.
    pub(super) column: usize,
    /// Columns of the panel that exist.
    pub(super) columns: usize,
    /// Whether to add to what is there.
    pub(super) adds: bool,
}

/// Makes the columns of `tile` for every pixel of `places`. The caller found AVX-512, and AVX512-BF16 for
/// `bf16`.
pub(super) fn tiles(bf16: bool, tile: &Tile<'_>, places: &[Place], c: &mut [f32]) {
    check(tile, places, c.len());
    for places in places.chunks(HEIGHT) {
        if bf16 {
            // SAFETY: the caller found AVX512-BF16.
            unsafe { tile_bf16(tile, places, c) };
        } else {
            // SAFETY: the caller found AVX-512.
            unsafe { tile_f32(tile, places, c) };
        }
    }
}

/// Holds everything that the loops touch inside the slices.
fn check(tile: &Tile<'_>, places: &[Place], len: usize) {
    let depth: usize = tile.runs.iter().map(|run| run.len).sum();
    let reach = tile.runs.iter().map(|run| run.offset + run.len).max().unwrap_or(0);
    assert!(tile.b.len() >= depth * WIDTH && tile.columns <= WIDTH);
    for [from, to] in places {
        assert!(from + reach <= tile.a.len() && to + tile.column + tile.columns <= len);
    }
}

/// Calls `$rows::<R>` for the number of pixels, 1 to 12.
macro_rules! by_rows {
    ($rows:ident, $tile:expr, $places:expr, $c:expr) => {
        match $places.len() {
            12 => $rows::<12>($tile, $places, $c),
            11 => $rows::<11>($tile, $places, $c),
            10 => $rows::<10>($tile, $places, $c),
            9 => $rows::<9>($tile, $places, $c),
            8 => $rows::<8>($tile, $places, $c),
            7 => $rows::<7>($tile, $places, $c),
            6 => $rows::<6>($tile, $places, $c),
            5 => $rows::<5>($tile, $places, $c),
            4 => $rows::<4>($tile, $places, $c),
            3 => $rows::<3>($tile, $places, $c),
            2 => $rows::<2>($tile, $places, $c),
            _ => $rows::<1>($tile, $places, $c),
        }
    };
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn tile_bf16(tile: &Tile<'_>, places: &[Place], c: &mut [f32]) {
    by_rows!(rows_bf16, tile, places, c);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn tile_f32(tile: &Tile<'_>, places: &[Place], c: &mut [f32]) {
    by_rows!(rows_f32, tile, places, c);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn rows_bf16<const R: usize>(tile: &Tile<'_>, places: &[Place], c: &mut [f32]) {
    let from: [usize; R] = std::array::from_fn(|r| places[r][0]);
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    let mut p = 0;
    for run in tile.runs {
        for q in run.offset..run.offset + run.len {
            let right = [pairs(words(tile.b, p)), pairs(words(tile.b, p + 16))];
            for r in 0..R {
                let left = pairs(spread(tile.a, from[r] + q));
                sums[r][0] = _mm512_dpbf16_ps(sums[r][0], left, right[0]);
                sums[r][1] = _mm512_dpbf16_ps(sums[r][1], left, right[1]);
            }
            p += WIDTH;
        }
    }
    store_rows(sums, tile, places, c);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn rows_f32<const R: usize>(tile: &Tile<'_>, places: &[Place], c: &mut [f32]) {
    let from: [usize; R] = std::array::from_fn(|r| places[r][0]);
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    let mut p = 0;
    for run in tile.runs {
        for q in run.offset..run.offset + run.len {
            let right = [words(tile.b, p), words(tile.b, p + 16)];
            let right = [_mm512_castsi512_ps(right[0]), _mm512_castsi512_ps(right[1])];
            for r in 0..R {
                let left = _mm512_castsi512_ps(spread(tile.a, from[r] + q));
                sums[r][0] = _mm512_fmadd_ps(left, right[0], sums[r][0]);
                sums[r][1] = _mm512_fmadd_ps(left, right[1], sums[r][1]);
            }
            p += WIDTH;
        }
    }
    store_rows(sums, tile, places, c);
}

/// The word at `at`, sixteen times.
#[inline]
#[target_feature(enable = "avx512f")]
fn spread(from: &[u32], at: usize) -> __m512i {
    debug_assert!(at < from.len());
    // SAFETY: `check` holds `at` inside `from`.
    let word = unsafe { *from.get_unchecked(at) };
    _mm512_set1_epi32(word.cast_signed())
}

/// The 16 words at `at`.
#[inline]
#[target_feature(enable = "avx512f")]
fn words(from: &[u32], at: usize) -> __m512i {
    debug_assert!(at + 16 <= from.len());
    // SAFETY: `check` holds the 16 words from `at` on inside `from`.
    let place = unsafe { from.as_ptr().add(at) };
    // SAFETY: the load needs no alignment, and the 16 words are there.
    unsafe { _mm512_loadu_si512(place.cast()) }
}

/// The same bits under the type that the dot product takes.
#[inline]
#[target_feature(enable = "avx512f")]
fn pairs(words: __m512i) -> __m512bh {
    // SAFETY: both types are 512 plain bits.
    unsafe { std::mem::transmute(words) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_rows<const R: usize>(
    sums: [[__m512; 2]; R],
    tile: &Tile<'_>,
    places: &[Place],
    c: &mut [f32],
) {
    for (sums, [_, to]) in sums.into_iter().zip(places) {
        let c = &mut c[to + tile.column..][..tile.columns];
        store(c, 0, sums[0], tile.adds);
        store(c, 16, sums[1], tile.adds);
    }
}

/// Stores (or adds) what of 16 sums lies inside `c`, from `at` on.
#[inline]
#[target_feature(enable = "avx512f")]
fn store(c: &mut [f32], at: usize, sums: __m512, adds: bool) {
    let Some(place) = c.get_mut(at..).filter(|place| !place.is_empty()) else { return };
    let mask = if place.len() >= 16 { u16::MAX } else { (1 << place.len()) - 1 };
    let sums = if adds {
        // SAFETY: the mask leaves only elements of `place`.
        _mm512_add_ps(sums, unsafe { _mm512_maskz_loadu_ps(mask, place.as_ptr()) })
    } else {
        sums
    };
    // SAFETY: the mask leaves only elements of `place`.
    unsafe { _mm512_mask_storeu_ps(place.as_mut_ptr(), mask, sums) };
}
