//! The AVX-512 kernel, in f32 and, with AVX512-BF16, in bf16.

use std::arch::x86_64::{
    _mm512_castsi512_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_setzero_ps,
};
use std::mem::MaybeUninit;

use super::register::{by_rows, each_row, pairs, put_row, spread, words};
use super::{HEIGHT, Left, Panels, WIDTH};

/// Words along the summed dimension before the kernel goes on to the next tile, so that a piece of a
/// panel (24 KiB) stays in L1.
const DEPTH: usize = 192;

/// What one call of the inner kernel multiplies.
struct Tile<'a> {
    /// Left words: row `r`, word `p` at `r * row_stride + p * word_stride`.
    a: &'a [u32],
    row_stride: usize,
    word_stride: usize,
    /// Right words: `depth` groups of `WIDTH`.
    b: &'a [u32],
    depth: usize,
    /// Columns of the panel that exist.
    columns: usize,
    /// Whether to add to what is there.
    adds: bool,
}

/// Makes the rows of `c` from `first` on.
///
/// # Safety
/// The machine has AVX-512 (F, BW, VL, DQ) and, for `BF16`, AVX512-BF16; `c` holds numbers where it accumulates.
pub(super) unsafe fn block<const BF16: bool>(
    a: &Left<'_>,
    first: usize,
    b: &Panels<'_>,
    c: &mut [MaybeUninit<f32>],
    accumulate: bool,
) {
    let (height, n) = (a.format.words(a.k), b.n);
    let rows = c.len() / n;
    let left = &a.words[first * if a.tiled { height } else { a.stride }..];
    for start in (0..height.max(1)).step_by(DEPTH) {
        let depth = DEPTH.min(height - start);
        for panel in 0..n.div_ceil(WIDTH) {
            let right = &b.words[(panel * height + start) * WIDTH..][..depth * WIDTH];
            for row in (0..rows).step_by(HEIGHT) {
                let (offset, row_stride, word_stride) = if a.tiled {
                    (row * height + start * HEIGHT, 1, HEIGHT)
                } else {
                    (row * a.stride + start, a.stride, 1)
                };
                let tile = Tile {
                    a: &left[offset..],
                    row_stride,
                    word_stride,
                    b: right,
                    depth,
                    columns: WIDTH.min(n - panel * WIDTH),
                    adds: accumulate || start > 0,
                };
                let c = &mut c[row * n + panel * WIDTH..];
                let rows = HEIGHT.min(rows - row);
                if BF16 {
                    // SAFETY: the caller promises AVX512-BF16, and numbers where it accumulates; later passes add to
                    // what earlier ones wrote.
                    unsafe { tile_bf16(rows, &tile, c, n) };
                } else {
                    // SAFETY: as above, with AVX-512.
                    unsafe { tile_f32(rows, &tile, c, n) };
                }
            }
        }
    }
}

/// # Safety
/// `c` holds numbers where the tile adds.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn tile_bf16(rows: usize, tile: &Tile<'_>, c: &mut [MaybeUninit<f32>], stride: usize) {
    // SAFETY: the caller's promise.
    unsafe { by_rows!(rows, rows_bf16(tile, c, stride)) };
}

/// # Safety
/// As for [`tile_bf16`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn tile_f32(rows: usize, tile: &Tile<'_>, c: &mut [MaybeUninit<f32>], stride: usize) {
    // SAFETY: the caller's promise.
    unsafe { by_rows!(rows, rows_f32(tile, c, stride)) };
}

/// # Safety
/// As for [`tile_bf16`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn rows_bf16<const R: usize>(tile: &Tile<'_>, c: &mut [MaybeUninit<f32>], stride: usize) {
    check::<R>(tile);
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    for p in 0..tile.depth {
        // SAFETY: `check` holds all of them inside the operands, here and below.
        let right = unsafe { words(tile.b, p * WIDTH) };
        let right = right.map(|words| pairs(words));
        each_row!(r below R {
            // SAFETY: as above.
            let left = unsafe { spread(tile.a, r * tile.row_stride + p * tile.word_stride) };
            let left = pairs(left);
            sums[r][0] = _mm512_dpbf16_ps(sums[r][0], left, right[0]);
            sums[r][1] = _mm512_dpbf16_ps(sums[r][1], left, right[1]);
        });
    }
    each_row!(r below R {
        // SAFETY: the caller's promise.
        unsafe { put_row(&mut c[r * stride..][..tile.columns], sums[r], tile.adds) };
    });
}

/// # Safety
/// As for [`tile_bf16`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn rows_f32<const R: usize>(tile: &Tile<'_>, c: &mut [MaybeUninit<f32>], stride: usize) {
    check::<R>(tile);
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    for p in 0..tile.depth {
        // SAFETY: `check` holds all of them inside the operands, here and below.
        let right = unsafe { words(tile.b, p * WIDTH) };
        let right = right.map(|words| _mm512_castsi512_ps(words));
        each_row!(r below R {
            // SAFETY: as above.
            let left = unsafe { spread(tile.a, r * tile.row_stride + p * tile.word_stride) };
            let left = _mm512_castsi512_ps(left);
            sums[r][0] = _mm512_fmadd_ps(left, right[0], sums[r][0]);
            sums[r][1] = _mm512_fmadd_ps(left, right[1], sums[r][1]);
        });
    }
    each_row!(r below R {
        // SAFETY: the caller's promise.
        unsafe { put_row(&mut c[r * stride..][..tile.columns], sums[r], tile.adds) };
    });
}

/// Holds every word that the loops read inside the operands.
#[inline]
fn check<const R: usize>(tile: &Tile<'_>) {
    let last = (R - 1) * tile.row_stride + tile.depth.saturating_sub(1) * tile.word_stride;
    assert!(tile.depth == 0 || last < tile.a.len());
    assert!(tile.b.len() >= tile.depth * WIDTH);
}
