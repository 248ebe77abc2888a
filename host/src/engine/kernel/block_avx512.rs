//! Products of small f32 matrices by AVX-512: tiles of 6 rows by 64 columns held in 24 registers.

use std::arch::x86_64::{
    __m512, __mmask16, _mm512_add_ps, _mm512_fmadd_ps, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
};

use super::block::{Left, Product};

/// Numbers in a register.
const WIDTH: usize = 16;
/// Registers in a row of a tile.
const PANEL: usize = 4;
/// Rows of a tile.
const ROWS: usize = 6;

/// Where a tile reads and writes.
#[derive(Clone, Copy)]
struct Tile {
    a: *const f32,
    row_stride: usize,
    inner_stride: usize,
    b: *const f32,
    b_stride: usize,
    c: *mut f32,
    c_stride: usize,
    inner: usize,
    /// Which numbers of a tile's last register exist.
    last: __mmask16,
    add: bool,
}

/// `c = a b` or `c += a b`.
///
/// # Safety
/// The machine has AVX-512 F, and `product.check` accepted the operands.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn product(a: Left<'_, f32>, b: &[f32], product: &Product, c: &mut [f32]) {
    let Product { rows, inner, cols, b_stride, c_stride, add } = *product;
    let mut first = 0;
    while first < cols {
        let width = (cols - first).min(PANEL * WIDTH);
        let registers = width.div_ceil(WIDTH);
        let last = u16::MAX >> (registers * WIDTH - width);
        let tile = Tile {
            a: a.data.as_ptr(),
            row_stride: a.row_stride,
            inner_stride: a.inner_stride,
            b: b.as_ptr().wrapping_add(first),
            b_stride,
            c: c.as_mut_ptr().wrapping_add(first),
            c_stride,
            inner,
            last,
            add,
        };
        let panel: unsafe fn(Tile, usize) = match registers {
            1 => panel::<1>,
            2 => panel::<2>,
            3 => panel::<3>,
            _ => panel::<PANEL>,
        };
        // SAFETY: the caller's promise: columns `first` to `first + width` of all rows exist.
        unsafe { panel(tile, rows) };
        first += width;
    }
}

/// All rows of one panel of columns.
///
/// # Safety
/// As [`tile`], for `rows` rows.
#[target_feature(enable = "avx512f")]
unsafe fn panel<const N: usize>(mut at: Tile, rows: usize) {
    let mut left = rows;
    while left > 0 {
        let rows = left.min(ROWS);
        let tile: unsafe fn(Tile) = match rows {
            1 => tile::<1, N>,
            2 => tile::<2, N>,
            3 => tile::<3, N>,
            4 => tile::<4, N>,
            5 => tile::<5, N>,
            _ => tile::<ROWS, N>,
        };
        // SAFETY: `rows` of the rows that the caller promised.
        unsafe { tile(at) };
        at.a = at.a.wrapping_add(rows * at.row_stride);
        at.c = at.c.wrapping_add(rows * at.c_stride);
        left -= rows;
    }
}

/// One tile of `M` rows by `N` registers.
///
/// # Safety
/// `M` rows of `a` and `c`, `inner` rows of `b`, and the columns of `N` registers (the last one up
/// to its mask) lie inside of their slices; the machine has AVX-512 F.
#[target_feature(enable = "avx512f")]
unsafe fn tile<const M: usize, const N: usize>(at: Tile) {
    let mut sums = [[_mm512_setzero_ps(); N]; M];
    let masks: [__mmask16; N] =
        std::array::from_fn(|n| if n + 1 == N { at.last } else { u16::MAX });
    let (mut a, mut b) = (at.a, at.b);
    for _ in 0..at.inner {
        let mut row = [_mm512_setzero_ps(); N];
        for n in 0..N {
            // SAFETY: the caller's promise for row k of `b`; the mask hides what isn't there.
            row[n] = unsafe { _mm512_maskz_loadu_ps(masks[n], b.wrapping_add(n * WIDTH)) };
        }
        for (m, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise for element (m, k) of `a`.
            let factor = _mm512_set1_ps(unsafe { *a.wrapping_add(m * at.row_stride) });
            for n in 0..N {
                sums[n] = _mm512_fmadd_ps(factor, row[n], sums[n]);
            }
        }
        a = a.wrapping_add(at.inner_stride);
        b = b.wrapping_add(at.b_stride);
    }
    for (m, sums) in sums.iter().enumerate() {
        for n in 0..N {
            let c = at.c.wrapping_add(m * at.c_stride + n * WIDTH);
            // SAFETY: the caller's promise for row m of `c`.
            unsafe { store(c, masks[n], sums[n], at.add) };
        }
    }
}

/// Writes a register, or adds it to what is there.
///
/// # Safety
/// The numbers that `mask` names lie inside of a slice, and AVX-512 F is there.
#[target_feature(enable = "avx512f")]
unsafe fn store(to: *mut f32, mask: __mmask16, sum: __m512, add: bool) {
    let sum = if add {
        // SAFETY: the caller's promise.
        _mm512_add_ps(unsafe { _mm512_maskz_loadu_ps(mask, to) }, sum)
    } else {
        sum
    };
    // SAFETY: the caller's promise.
    unsafe { _mm512_mask_storeu_ps(to, mask, sum) };
}
