//! [`Operands::make`] by AVX2 and FMA.

use std::arch::x86_64::{
    __m256, _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_setzero_ps, _mm256_storeu_ps,
};

use super::ahead;
use super::register::each_row;
use super::tile::{COLUMNS, Operands, Place, ROWS, Target, put};

/// Makes the sums of as many rows as there are places, six at a time.
///
/// # Safety
/// The machine has AVX2 and FMA; what the places name lies inside of the slices: all that the segments read from them and
/// from `column` on, and the columns of the target.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn make(
    operands: &Operands<'_>,
    places: &[Place],
    column: usize,
    target: &mut Target<'_>,
) {
    let (whole, places) = places.as_chunks::<ROWS>();
    for places in whole {
        // SAFETY: the caller's promise.
        unsafe { rows::<ROWS>(operands, places, column, target) };
    }
    let rows: unsafe fn(&Operands<'_>, &[Place], usize, &mut Target<'_>) = match places.len() {
        0 => return,
        1 => rows::<1>,
        2 => rows::<2>,
        3 => rows::<3>,
        4 => rows::<4>,
        _ => rows::<5>,
    };
    // SAFETY: the caller's promise.
    unsafe { rows(operands, places, column, target) };
}

/// # Safety
/// As for [`make`], with `R` places at least.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn rows<const R: usize>(
    operands: &Operands<'_>,
    places: &[Place],
    column: usize,
    target: &mut Target<'_>,
) {
    let Operands { left, left_step, right, right_step, segments, .. } = *operands;
    let places: [Place; R] = std::array::from_fn(|r| places[r]);
    let (start, columns, adds) = target.parts();
    let results = places.map(|[_, to]| start.wrapping_add(to));
    // What is written comes while the sums are made. A row of a tile lies in no more than two lines.
    each_row!(r below R {
        ahead::line_to_write(results[r]);
        ahead::line_to_write(results[r].wrapping_add(columns.saturating_sub(1)));
    });
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    for segment in segments {
        let from = places.map(|[from, _]| left.as_ptr().wrapping_add(from + segment.left));
        let mut b = right.as_ptr().wrapping_add(segment.right + column);
        let mut at = 0;
        for _ in 0..segment.len {
            // SAFETY: the caller holds 16 columns of every step inside of the right operand, here and below.
            let low = unsafe { _mm256_loadu_ps(b) };
            // SAFETY: as above.
            let high = unsafe { _mm256_loadu_ps(b.wrapping_add(8)) };
            each_row!(r below R {
                // SAFETY: the caller holds every step of a row inside of the left operand.
                let factor = _mm256_broadcast_ss(unsafe { &*from[r].wrapping_add(at) });
                sums[r][0] = _mm256_fmadd_ps(factor, low, sums[r][0]);
                sums[r][1] = _mm256_fmadd_ps(factor, high, sums[r][1]);
            });
            b = b.wrapping_add(right_step);
            at += left_step;
        }
    }
    each_row!(r below R {
        // SAFETY: the caller holds the columns of every row inside of the target, which holds numbers where it adds.
        unsafe { store(results[r], columns, sums[r], adds) };
    });
}

/// Stores (or adds) the first `columns` of 16 sums.
///
/// # Safety
/// There is room for them at `to`, which holds numbers where it `adds`.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn store(to: *mut f32, columns: usize, sums: [__m256; 2], adds: bool) {
    if columns < COLUMNS {
        let mut row = [0.0_f32; COLUMNS];
        // SAFETY: there is room for 8.
        unsafe { _mm256_storeu_ps(row.as_mut_ptr(), sums[0]) };
        // SAFETY: there is room for 8 more.
        unsafe { _mm256_storeu_ps(row[8..].as_mut_ptr(), sums[1]) };
        // SAFETY: the caller's promise.
        let room = unsafe { std::slice::from_raw_parts_mut(to.cast(), columns) };
        put((room, adds), &row);
        return;
    }
    for (i, mut sums) in sums.into_iter().enumerate() {
        let to = to.wrapping_add(8 * i);
        if adds {
            // SAFETY: there are 16, and a target that adds holds numbers.
            sums = _mm256_add_ps(sums, unsafe { _mm256_loadu_ps(to) });
        }
        // SAFETY: there is room for 16.
        unsafe { _mm256_storeu_ps(to, sums) };
    }
}
