//! Products of small f32 matrices by AVX-512, tiles of 6 rows by 64 columns held in 24 registers, and
//! transposition, tiles of 16 by 16.

use std::arch::x86_64::{
    __m512, __mmask16, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd, _mm512_fmadd_ps,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_shuffle_f32x4, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd,
    _mm512_unpacklo_ps,
};

use super::block::{Left, Product, Transposed};

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

/// `to[c, j] = from[j, c]`; columns of `to` past the rows of `from` become 0.
///
/// # Safety
/// The machine has AVX-512 F, and `sizes.check` accepted the slices.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn transpose(from: &[f32], sizes: &Transposed, to: &mut [f32]) {
    let Transposed { rows, cols, stride, padded } = *sizes;
    for (row, col) in (0..padded)
        .step_by(WIDTH)
        .flat_map(|row| (0..cols).step_by(WIDTH).map(move |col| (row, col)))
    {
        let mask = u16::MAX >> (WIDTH - (cols - col).min(WIDTH));
        let mut lines = [_mm512_setzero_ps(); WIDTH];
        for (j, line) in lines.iter_mut().enumerate().take(rows.saturating_sub(row)) {
            let at = from.as_ptr().wrapping_add((row + j) * stride + col);
            // SAFETY: row `row + j` exists, and the mask ends at its last column.
            *line = unsafe { _mm512_maskz_loadu_ps(mask, at) };
        }
        for (c, line) in transpose_tile(&lines).into_iter().enumerate().take(cols - col) {
            let at = to.as_mut_ptr().wrapping_add((col + c) * padded + row);
            // SAFETY: `padded` is a multiple of 16, so the 16 columns from `row` on exist.
            unsafe { _mm512_mask_storeu_ps(at, u16::MAX, line) };
        }
    }
}

/// The transpose of 16 x 16 numbers: pairs of rows, then fours, then the four quarters of registers.
#[target_feature(enable = "avx512f")]
pub(super) fn transpose_tile(rows: &[__m512; WIDTH]) -> [__m512; WIDTH] {
    let mut fours = [_mm512_setzero_ps(); WIDTH];
    for i in (0..WIDTH).step_by(4) {
        let low =
            [0, 2].map(|j| _mm512_castps_pd(_mm512_unpacklo_ps(rows[i + j], rows[i + j + 1])));
        let high =
            [0, 2].map(|j| _mm512_castps_pd(_mm512_unpackhi_ps(rows[i + j], rows[i + j + 1])));
        fours[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(low[0], low[1]));
        fours[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low[0], low[1]));
        fours[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high[0], high[1]));
        fours[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high[0], high[1]));
    }
    // Quarter q of fours[4 i + j] now holds rows 4 i to 4 i + 3 of column 4 q + j.
    let mut columns = [_mm512_setzero_ps(); WIDTH];
    for j in 0..4 {
        let even = [0, 8].map(|i| _mm512_shuffle_f32x4::<EVEN>(fours[i + j], fours[i + 4 + j]));
        let odd = [0, 8].map(|i| _mm512_shuffle_f32x4::<ODD>(fours[i + j], fours[i + 4 + j]));
        columns[j] = _mm512_shuffle_f32x4::<EVEN>(even[0], even[1]);
        columns[4 + j] = _mm512_shuffle_f32x4::<EVEN>(odd[0], odd[1]);
        columns[8 + j] = _mm512_shuffle_f32x4::<ODD>(even[0], even[1]);
        columns[12 + j] = _mm512_shuffle_f32x4::<ODD>(odd[0], odd[1]);
    }
    columns
}

/// Picks quarters 0 and 2 of both operands.
const EVEN: i32 = 0b10_00_10_00;
/// Picks quarters 1 and 3 of both operands.
const ODD: i32 = 0b11_01_11_01;
