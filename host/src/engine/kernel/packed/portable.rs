//! The product on machines without AVX-512: operands unpacked to f32, then the `gemm` crate.

use super::{Left, Panels, element};

/// Makes the rows of `c` from `first` on.
pub(super) fn block(a: &Left<'_>, first: usize, b: &Panels<'_>, c: &mut [f32], accumulate: bool) {
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
    if !accumulate {
        c.fill(0.0);
    }
    if k == 0 {
        return;
    }
    let stride = |columns: usize| columns.cast_signed();
    // SAFETY: `left` is `[rows, k]`, `right` `[k, n]` and `c` `[rows, n]`, all row-major and apart.
    unsafe {
        gemm::gemm(
            rows,
            n,
            k,
            c.as_mut_ptr(),
            1,
            stride(n),
            true,
            left.as_ptr(),
            1,
            stride(k),
            right.as_ptr(),
            1,
            stride(n),
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
