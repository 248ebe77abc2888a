//! Products of bf16 pairs on machines whose processors don't multiply them: unpacked to f32 first. Training there packs
//! [`Format::Rounded`] instead.

use std::mem::MaybeUninit;

use super::{Format, Left, Panels, element, tile};

/// Makes the rows of `c` from `first` on.
///
/// # Safety
/// `c` holds numbers where it accumulates.
pub(super) unsafe fn block(
    a: &Left<'_>,
    first: usize,
    b: &Panels<'_>,
    c: &mut [MaybeUninit<f32>],
    accumulate: bool,
) {
    let (k, n, group) = (a.k, b.n, a.format.group());
    let rows = c.len() / n;
    let mut left = Vec::with_capacity(rows * k);
    for row in first..first + rows {
        left.extend((0..k).map(|at| element(a.format, a.word(row, at / group), at)));
    }
    let mut right = Vec::with_capacity(k * n);
    for at in 0..k {
        right.extend((0..n).map(|column| element(b.format, b.word(at / group, column), at)));
    }
    let left = Left::from_rows(Format::F32, &left, rows, k);
    // SAFETY: the caller's promise.
    unsafe { tile::block(&left, 0, &Panels::from_rows(Format::F32, &right, k, n), c, accumulate) };
}
