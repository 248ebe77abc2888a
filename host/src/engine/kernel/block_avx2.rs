//! Transposition by AVX2, tiles of 8 by 8.

use std::arch::x86_64::{
    __m256, _mm256_castpd_ps, _mm256_castps_pd, _mm256_loadu_ps, _mm256_permute2f128_ps,
    _mm256_setzero_ps, _mm256_storeu_ps, _mm256_unpackhi_pd, _mm256_unpackhi_ps,
    _mm256_unpacklo_pd, _mm256_unpacklo_ps,
};

use super::block::Transposed;

/// Numbers in a register.
const WIDTH: usize = 8;

/// `to[c, j] = from[j, c]`, and 0 for `j` from the rows on.
///
/// # Panics
/// When a slice is too short.
#[target_feature(enable = "avx2,fma")]
pub(super) fn transpose(from: &[f32], sizes: &Transposed, to: &mut [f32]) {
    let Transposed { rows, cols, stride, padded } = *sizes;
    for row in (0..padded).step_by(WIDTH) {
        let mut lines = [[].as_slice(); WIDTH];
        let there = WIDTH.min(rows.saturating_sub(row));
        for (line, j) in lines.iter_mut().zip(row..row + there) {
            *line = &from[j * stride..][..cols];
        }
        for col in (0..cols).step_by(WIDTH) {
            let tile = transpose_tile(lines.map(|line| load(line, col)));
            for (c, line) in tile.into_iter().enumerate().take(cols - col) {
                let to = &mut to[(col + c) * padded + row..][..WIDTH];
                // SAFETY: the slice has room for a register.
                unsafe { _mm256_storeu_ps(to.as_mut_ptr(), line) };
            }
        }
    }
}

/// Up to 8 numbers of `line` from `at` on, and 0 where there are none.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn load(line: &[f32], at: usize) -> __m256 {
    let rest = line.get(at..).unwrap_or_default();
    if let Some(whole) = rest.first_chunk::<WIDTH>() {
        // SAFETY: the chunk is a register's.
        return unsafe { _mm256_loadu_ps(whole.as_ptr()) };
    }
    if rest.is_empty() {
        return _mm256_setzero_ps();
    }
    let mut room = [0.0; WIDTH];
    room[..rest.len()].copy_from_slice(rest);
    // SAFETY: the room is a register's.
    unsafe { _mm256_loadu_ps(room.as_ptr()) }
}

/// The transpose of 8 x 8 numbers: pairs of rows, then fours, then the halves of registers.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn transpose_tile(rows: [__m256; WIDTH]) -> [__m256; WIDTH] {
    let [a, b, c, d, e, f, g, h] = rows;
    let fours = |a, b, c, d| {
        let pairs = [
            _mm256_unpacklo_ps(a, b),
            _mm256_unpackhi_ps(a, b),
            _mm256_unpacklo_ps(c, d),
            _mm256_unpackhi_ps(c, d),
        ];
        let [low, high, low_after, high_after] = pairs.map(|pair| _mm256_castps_pd(pair));
        let fours = [
            _mm256_unpacklo_pd(low, low_after),
            _mm256_unpackhi_pd(low, low_after),
            _mm256_unpacklo_pd(high, high_after),
            _mm256_unpackhi_pd(high, high_after),
        ];
        fours.map(|four| _mm256_castpd_ps(four))
    };
    let (upper, lower) = (fours(a, b, c, d), fours(e, f, g, h));
    std::array::from_fn(|i| {
        let (upper, lower) = (upper[i % 4], lower[i % 4]);
        if i < 4 {
            _mm256_permute2f128_ps::<0x20>(upper, lower)
        } else {
            _mm256_permute2f128_ps::<0x31>(upper, lower)
        }
    })
}
