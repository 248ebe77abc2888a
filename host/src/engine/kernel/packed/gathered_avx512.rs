//! The AVX-512 kernel of gathered products, in f32 and, with AVX512-BF16, in bf16.

use std::arch::x86_64::{
    _mm512_castsi512_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_setzero_ps,
};
use std::mem::MaybeUninit;

use super::gathered::Run;
use super::register::{by_rows, each_row, pairs, put_row, spread, words};
use super::tile::Place;
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

/// Makes the columns of `tile` for every pixel of `places`.
///
/// # Safety
/// The machine has AVX-512 (F, BW, VL, DQ) and, for `bf16`, AVX512-BF16. Where the tile adds, the columns of
/// every pixel hold numbers.
pub(super) unsafe fn tiles(
    bf16: bool,
    tile: &Tile<'_>,
    places: &[Place],
    c: &mut [MaybeUninit<f32>],
) {
    check(tile, places, c.len());
    for places in places.chunks(HEIGHT) {
        if bf16 {
            // SAFETY: the caller promises AVX512-BF16, and numbers where the tile adds.
            unsafe { tile_bf16(tile, places, c) };
        } else {
            // SAFETY: the caller promises AVX-512, and numbers where the tile adds.
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

/// # Safety
/// `c` holds numbers where `tile` adds.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn tile_bf16(tile: &Tile<'_>, places: &[Place], c: &mut [MaybeUninit<f32>]) {
    // SAFETY: the caller's promise.
    unsafe { by_rows!(places.len(), rows_bf16(tile, places, c)) };
}

/// # Safety
/// `c` holds numbers where `tile` adds.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn tile_f32(tile: &Tile<'_>, places: &[Place], c: &mut [MaybeUninit<f32>]) {
    // SAFETY: the caller's promise.
    unsafe { by_rows!(places.len(), rows_f32(tile, places, c)) };
}

/// # Safety
/// `c` holds numbers where `tile` adds.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn rows_bf16<const R: usize>(tile: &Tile<'_>, places: &[Place], c: &mut [MaybeUninit<f32>]) {
    let from: [usize; R] = std::array::from_fn(|r| places[r][0]);
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    let mut p = 0;
    for run in tile.runs {
        for q in run.offset..run.offset + run.len {
            // SAFETY: `check` holds all of them inside the operands, here and below.
            let right = unsafe { words(tile.b, p) };
            let right = right.map(|words| pairs(words));
            each_row!(r below R {
                // SAFETY: as above.
                let left = pairs(unsafe { spread(tile.a, from[r] + q) });
                sums[r][0] = _mm512_dpbf16_ps(sums[r][0], left, right[0]);
                sums[r][1] = _mm512_dpbf16_ps(sums[r][1], left, right[1]);
            });
            p += WIDTH;
        }
    }
    each_row!(r below R {
        let c = &mut c[places[r][1] + tile.column..][..tile.columns];
        // SAFETY: the caller promises numbers where the tile adds.
        unsafe { put_row(c, sums[r], tile.adds) };
    });
}

/// # Safety
/// `c` holds numbers where `tile` adds.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn rows_f32<const R: usize>(tile: &Tile<'_>, places: &[Place], c: &mut [MaybeUninit<f32>]) {
    let from: [usize; R] = std::array::from_fn(|r| places[r][0]);
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    let mut p = 0;
    for run in tile.runs {
        for q in run.offset..run.offset + run.len {
            // SAFETY: `check` holds all of them inside the operands, here and below.
            let right = unsafe { words(tile.b, p) };
            let right = right.map(|words| _mm512_castsi512_ps(words));
            each_row!(r below R {
                // SAFETY: as above.
                let left = _mm512_castsi512_ps(unsafe { spread(tile.a, from[r] + q) });
                sums[r][0] = _mm512_fmadd_ps(left, right[0], sums[r][0]);
                sums[r][1] = _mm512_fmadd_ps(left, right[1], sums[r][1]);
            });
            p += WIDTH;
        }
    }
    each_row!(r below R {
        let c = &mut c[places[r][1] + tile.column..][..tile.columns];
        // SAFETY: the caller promises numbers where the tile adds.
        unsafe { put_row(c, sums[r], tile.adds) };
    });
}
