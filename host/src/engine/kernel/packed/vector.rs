//! The AVX-512 kernel, in f32 and, with AVX512-BF16, in bf16.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_castsi512_ps, _mm512_dpbf16_ps,
    _mm512_fmadd_ps, _mm512_loadu_si512, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps,
    _mm512_set1_epi32, _mm512_setzero_ps,
};

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

/// Makes the rows of `c` from `first` on. The caller found AVX-512, and AVX512-BF16 for `BF16`.
pub(super) fn block<const BF16: bool>(
    a: &Left<'_>,
    first: usize,
    b: &Panels<'_>,
    c: &mut [f32],
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
                    // SAFETY: the caller found AVX512-BF16.
                    unsafe { tile_bf16(rows, &tile, c, n) };
                } else {
                    // SAFETY: the caller found AVX-512.
                    unsafe { tile_f32(rows, &tile, c, n) };
                }
            }
        }
    }
}

/// Calls `$rows::<R>` for the number of rows `$n`, 1 to 12.
macro_rules! by_rows {
    ($rows:ident, $n:expr, $tile:expr, $c:expr, $stride:expr) => {
        match $n {
            12 => $rows::<12>($tile, $c, $stride),
            11 => $rows::<11>($tile, $c, $stride),
            10 => $rows::<10>($tile, $c, $stride),
            9 => $rows::<9>($tile, $c, $stride),
            8 => $rows::<8>($tile, $c, $stride),
            7 => $rows::<7>($tile, $c, $stride),
            6 => $rows::<6>($tile, $c, $stride),
            5 => $rows::<5>($tile, $c, $stride),
            4 => $rows::<4>($tile, $c, $stride),
            3 => $rows::<3>($tile, $c, $stride),
            2 => $rows::<2>($tile, $c, $stride),
            _ => $rows::<1>($tile, $c, $stride),
        }
    };
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn tile_bf16(rows: usize, tile: &Tile<'_>, c: &mut [f32], stride: usize) {
    by_rows!(rows_bf16, rows, tile, c, stride);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn tile_f32(rows: usize, tile: &Tile<'_>, c: &mut [f32], stride: usize) {
    by_rows!(rows_f32, rows, tile, c, stride);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
#[expect(
    clippy::needless_range_loop,
    reason = "sums stay in registers only where a constant counts them"
)]
fn rows_bf16<const R: usize>(tile: &Tile<'_>, c: &mut [f32], stride: usize) {
    check::<R>(tile);
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    for p in 0..tile.depth {
        let right = [pairs(words(tile.b, p * WIDTH)), pairs(words(tile.b, p * WIDTH + 16))];
        for r in 0..R {
            let left = pairs(spread(tile.a, r * tile.row_stride + p * tile.word_stride));
            sums[r][0] = _mm512_dpbf16_ps(sums[r][0], left, right[0]);
            sums[r][1] = _mm512_dpbf16_ps(sums[r][1], left, right[1]);
        }
    }
    store_rows(sums, tile, c, stride);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[expect(
    clippy::needless_range_loop,
    reason = "sums stay in registers only where a constant counts them"
)]
fn rows_f32<const R: usize>(tile: &Tile<'_>, c: &mut [f32], stride: usize) {
    check::<R>(tile);
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    for p in 0..tile.depth {
        let right = [words(tile.b, p * WIDTH), words(tile.b, p * WIDTH + 16)];
        let right = [_mm512_castsi512_ps(right[0]), _mm512_castsi512_ps(right[1])];
        for r in 0..R {
            let left = spread(tile.a, r * tile.row_stride + p * tile.word_stride);
            let left = _mm512_castsi512_ps(left);
            sums[r][0] = _mm512_fmadd_ps(left, right[0], sums[r][0]);
            sums[r][1] = _mm512_fmadd_ps(left, right[1], sums[r][1]);
        }
    }
    store_rows(sums, tile, c, stride);
}

/// Holds every word that the loops read inside the operands.
fn check<const R: usize>(tile: &Tile<'_>) {
    let last = (R - 1) * tile.row_stride + tile.depth.saturating_sub(1) * tile.word_stride;
    assert!(tile.depth == 0 || last < tile.a.len());
    assert!(tile.b.len() >= tile.depth * WIDTH);
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
    c: &mut [f32],
    stride: usize,
) {
    for (r, sums) in sums.into_iter().enumerate() {
        let c = &mut c[r * stride..][..tile.columns];
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
