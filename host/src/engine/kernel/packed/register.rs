//! What the AVX-512 kernels are made of: loads, stores, and rows that constants count, which the AVX2 kernel takes too.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_loadu_si512, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_set1_epi32,
};
use std::mem::MaybeUninit;

use super::super::threads;

/// Calls `$rows::<R>` for the number of rows `$n`, 1 to 12.
macro_rules! by_rows {
    ($n:expr, $rows:ident($($argument:expr),*)) => {
        match $n {
            12 => $rows::<12>($($argument),*),
            11 => $rows::<11>($($argument),*),
            10 => $rows::<10>($($argument),*),
            9 => $rows::<9>($($argument),*),
            8 => $rows::<8>($($argument),*),
            7 => $rows::<7>($($argument),*),
            6 => $rows::<6>($($argument),*),
            5 => $rows::<5>($($argument),*),
            4 => $rows::<4>($($argument),*),
            3 => $rows::<3>($($argument),*),
            2 => $rows::<2>($($argument),*),
            _ => $rows::<1>($($argument),*),
        }
    };
}

/// Runs `$body` with `$r` from 0 to `$count` - 1, at most 12 times. It is written out, since sums stay in
/// registers only where constants count them: a loop is unrolled or not as the compiler sees fit that day, and
/// a kernel whose sums lie in memory takes four times as long.
macro_rules! each_row {
    ($r:ident below $count:ident $body:block) => {
        each_row!(@ $r $count $body 0 1 2 3 4 5 6 7 8 9 10 11)
    };
    (@ $r:ident $count:ident $body:block $($number:literal)*) => {
        $(if $number < $count {
            let $r: usize = $number;
            $body
        })*
    };
}

pub(super) use {by_rows, each_row};

/// The word at `at`, sixteen times.
///
/// # Safety
/// `at` lies inside `from`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn spread(from: &[u32], at: usize) -> __m512i {
    debug_assert!(at < from.len());
    // SAFETY: the caller holds `at` inside `from`.
    let word = unsafe { *from.get_unchecked(at) };
    _mm512_set1_epi32(word.cast_signed())
}

/// The 32 words at `at`: a row of a panel.
///
/// # Safety
/// They lie inside `from`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn words(from: &[u32], at: usize) -> [__m512i; 2] {
    debug_assert!(at + 32 <= from.len());
    // SAFETY: the caller holds the 32 words from `at` on inside `from`.
    let place = unsafe { from.as_ptr().add(at) };
    // SAFETY: the load needs no alignment, and the 16 words are there.
    let low = unsafe { _mm512_loadu_si512(place.cast()) };
    // SAFETY: as above, and 16 more.
    let place = unsafe { place.add(16) };
    // SAFETY: as above.
    [low, unsafe { _mm512_loadu_si512(place.cast()) }]
}

/// The same bits under the type that the dot product takes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn pairs(words: __m512i) -> __m512bh {
    // SAFETY: both types are 512 plain bits.
    unsafe { std::mem::transmute(words) }
}

/// Stores (or adds) what of 2 x 16 sums lies inside `c`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store_row(c: &mut [f32], sums: [__m512; 2], adds: bool) {
    // SAFETY: only numbers are stored.
    let c = unsafe { threads::room(c) };
    // SAFETY: it holds numbers.
    unsafe { put_row(c, sums, adds) };
}

/// As [`store_row`], into room that need not hold numbers yet.
///
/// # Safety
/// It holds numbers where `adds`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn put_row(c: &mut [MaybeUninit<f32>], [low, high]: [__m512; 2], adds: bool) {
    // SAFETY: the caller's promise, here and below.
    unsafe { put(c, 0, low, adds) };
    // SAFETY: as above.
    unsafe { put(c, 16, high, adds) };
}

/// Stores (or adds) what of 16 sums lies inside `c`, from `at` on.
///
/// # Safety
/// `c` holds numbers where `adds`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn put(c: &mut [MaybeUninit<f32>], at: usize, sums: __m512, adds: bool) {
    let Some(place) = c.get_mut(at..).filter(|place| !place.is_empty()) else { return };
    let mask = if place.len() >= 16 { u16::MAX } else { (1 << place.len()) - 1 };
    let place = place.as_mut_ptr().cast::<f32>();
    let sums = if adds {
        // SAFETY: the mask leaves only elements of `c`, which hold numbers.
        _mm512_add_ps(sums, unsafe { _mm512_maskz_loadu_ps(mask, place) })
    } else {
        sums
    };
    // SAFETY: the mask leaves only elements of `c`.
    unsafe { _mm512_mask_storeu_ps(place, mask, sums) };
}
