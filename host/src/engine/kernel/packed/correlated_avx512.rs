//! The AVX-512 kernel of correlations, in f32 and, with AVX512-BF16, in bf16: the right operand lies in runs.

use std::arch::x86_64::{
    _mm512_castsi512_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_setzero_ps,
};

use super::super::dispatch::{Level, level};
use super::register::{by_rows, each_row, pairs, spread, store_row, words};
use super::{Format, HEIGHT, Left, WIDTH};

/// A panel whose words lie in runs.
struct Runs<'a> {
    words: &'a [u32],
    /// The first word of each.
    starts: &'a [usize],
    /// Groups of `WIDTH` words in each.
    len: usize,
}

/// Adds `left b` to `c` `[rows, 32]`, where the words of `b` are `len` groups of 32 at each of `starts`, one after the
/// other; `false` where the machine has no AVX-512.
///
/// # Panics
/// When `left` is not in tiles, or the shapes don't fit.
pub(super) fn add(
    left: &Left<'_>,
    words: &[u32],
    (starts, len): (&[usize], usize),
    c: &mut [f32],
) -> bool {
    let bf16 = match (left.format, level()) {
        (Format::Bf16, Level::Avx512Bf16) => true,
        (Format::F32 | Format::Rounded, Level::Avx512 | Level::Avx512Bf16) => false,
        _ => return false,
    };
    let depth = starts.len() * len;
    let tiles = left.rows.div_ceil(HEIGHT);
    assert!(left.tiled && left.words.len() >= tiles * depth * HEIGHT);
    assert!(c.len() == left.rows * WIDTH && left.format.words(left.k) == depth);
    assert!(starts.iter().all(|start| start + len * WIDTH <= words.len()));
    let runs = Runs { words, starts, len };
    for (tile, c) in c.chunks_mut(HEIGHT * WIDTH).enumerate() {
        let left = &left.words[tile * depth * HEIGHT..][..depth * HEIGHT];
        if bf16 {
            // SAFETY: `level` found AVX512-BF16, and the assertions above hold what is read inside the operands.
            unsafe { tile_bf16(left, &runs, c) };
        } else {
            // SAFETY: as above, with AVX-512.
            unsafe { tile_f32(left, &runs, c) };
        }
    }
    true
}

/// # Safety
/// All runs lie inside the words, and `left` has 12 words for each group in them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn tile_bf16(left: &[u32], runs: &Runs<'_>, c: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { by_rows!(c.len() / WIDTH, rows_bf16(left, runs, c)) };
}

/// # Safety
/// As for [`tile_bf16`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn tile_f32(left: &[u32], runs: &Runs<'_>, c: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { by_rows!(c.len() / WIDTH, rows_f32(left, runs, c)) };
}

/// # Safety
/// As for [`tile_bf16`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn rows_bf16<const R: usize>(left: &[u32], runs: &Runs<'_>, c: &mut [f32]) {
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    let mut p = 0;
    for start in runs.starts {
        for q in 0..runs.len {
            // SAFETY: the caller holds all words inside the operands, here and below.
            let right = unsafe { words(runs.words, start + q * WIDTH) };
            let right = right.map(|words| pairs(words));
            each_row!(r below R {
                // SAFETY: as above.
                let left = pairs(unsafe { spread(left, p + r) });
                sums[r][0] = _mm512_dpbf16_ps(sums[r][0], left, right[0]);
                sums[r][1] = _mm512_dpbf16_ps(sums[r][1], left, right[1]);
            });
            p += HEIGHT;
        }
    }
    each_row!(r below R {
        store_row(&mut c[r * WIDTH..][..WIDTH], sums[r], true);
    });
}

/// # Safety
/// As for [`tile_bf16`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn rows_f32<const R: usize>(left: &[u32], runs: &Runs<'_>, c: &mut [f32]) {
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    let mut p = 0;
    for start in runs.starts {
        for q in 0..runs.len {
            // SAFETY: the caller holds all words inside the operands, here and below.
            let right = unsafe { words(runs.words, start + q * WIDTH) };
            let right = right.map(|words| _mm512_castsi512_ps(words));
            each_row!(r below R {
                // SAFETY: as above.
                let left = _mm512_castsi512_ps(unsafe { spread(left, p + r) });
                sums[r][0] = _mm512_fmadd_ps(left, right[0], sums[r][0]);
                sums[r][1] = _mm512_fmadd_ps(left, right[1], sums[r][1]);
            });
            p += HEIGHT;
        }
    }
    each_row!(r below R {
        store_row(&mut c[r * WIDTH..][..WIDTH], sums[r], true);
    });
}
