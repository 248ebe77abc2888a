//! [`Operands::make`] by AVX2 and FMA.

use std::arch::x86_64::{
    __m256, _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_setzero_ps, _mm256_storeu_ps,
};
use std::mem::MaybeUninit;

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
    // What is written comes while the sums are made.
    each_row!(r below R {
        ahead::to_write(target.row(places[r][1]).0);
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
        store(target.row(places[r][1]), sums[r]);
    });
}

/// Stores (or adds) as many sums as there is room for, as [`Target::row`] has it.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn store((c, adds): (&mut [MaybeUninit<f32>], bool), sums: [__m256; 2]) {
    if c.len() == COLUMNS {
        for (i, mut sums) in sums.into_iter().enumerate() {
            let c = c.as_mut_ptr().wrapping_add(8 * i).cast::<f32>();
            if adds {
                // SAFETY: there are 16, and a target that adds holds numbers.
                sums = _mm256_add_ps(sums, unsafe { _mm256_loadu_ps(c) });
            }
            // SAFETY: there is room for 16.
            unsafe { _mm256_storeu_ps(c, sums) };
        }
        return;
    }
    let mut row = [0.0_f32; COLUMNS];
    // SAFETY: there is room for 8.
    unsafe { _mm256_storeu_ps(row.as_mut_ptr(), sums[0]) };
    // SAFETY: there is room for 8 more.
    unsafe { _mm256_storeu_ps(row[8..].as_mut_ptr(), sums[1]) };
    put((c, adds), &row);
}
