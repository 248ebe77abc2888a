//! Products and transposes of small matrices on one thread: what attention is made of.

use super::Float;
use super::dispatch::{Kernel, dispatch};
#[cfg(target_arch = "x86_64")]
use super::dispatch::{Level, level};
use super::packed::tile::{self, Operands, Places, Segment, Target};
#[cfg(target_arch = "x86_64")]
use super::{block_avx2, block_avx512};

/// The left operand: element (i, k) is `data[i row_stride + k inner_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Left<'a, T> {
    /// The elements.
    pub data: &'a [T],
    /// From one row to the next.
    pub row_stride: usize,
    /// From one inner index to the next.
    pub inner_stride: usize,
}

/// The sizes of a product `[rows, inner] x [inner, cols]`; the rows of the right operand and of the
/// result are contiguous.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Rows of the left operand and of the result.
    pub rows: usize,
    /// Columns of the left operand, rows of the right one.
    pub inner: usize,
    /// Columns of the right operand and of the result.
    pub cols: usize,
    /// From one row of the right operand to the next.
    pub b_stride: usize,
    /// From one row of the result to the next.
    pub c_stride: usize,
    /// Whether the product is added to the result, or replaces it.
    pub add: bool,
}

impl Product {
    /// Checks that every element lies inside of its slice.
    pub(super) fn check<T>(&self, a: &Left<'_, T>, b: &[T], c: &[T]) {
        let last = |rows: usize, row_stride, cols: usize, col_stride| {
            if rows == 0 || cols == 0 {
                return 0;
            }
            // Beyond all memory is too long too.
            let [down, along] = [(rows - 1, row_stride), (cols - 1, col_stride)];
            let [down, along] = [down, along].map(|(n, stride)| n.saturating_mul(stride));
            down.saturating_add(along).saturating_add(1)
        };
        let a_len = last(self.rows, a.row_stride, self.inner, a.inner_stride);
        assert!(a.data.len() >= a_len, "the left operand is too short");
        assert!(
            b.len() >= last(self.inner, self.b_stride, self.cols, 1),
            "the right one is too short"
        );
        assert!(c.len() >= last(self.rows, self.c_stride, self.cols, 1), "the result is too short");
    }
}

/// `c = a b` or `c += a b`, whatever the machine.
pub fn product<T: Float>(a: Left<'_, T>, b: &[T], product: &Product, c: &mut [T]) {
    product.check(&a, b, c);
    dispatch(RowByRow { a, b, product, c });
}

/// `c = a b` or `c += a b` in f32, by tiles that stay in registers.
pub fn product_f32(a: Left<'_, f32>, b: &[f32], product: &Product, c: &mut [f32]) {
    product.check(&a, b, c);
    #[cfg(target_arch = "x86_64")]
    if level() >= Level::Avx512 {
        // SAFETY: the level was found, and the check above holds.
        unsafe { block_avx512::product(a, b, product, c) };
        return;
    }
    let Product { rows, inner, cols, b_stride, c_stride, add } = *product;
    if rows == 0 || cols == 0 {
        return;
    }
    let segment = [Segment { left: 0, right: 0, len: inner }];
    let operands = Operands::new((a.data, a.inner_stride), (b, b_stride), &segment);
    let whole = cols / tile::COLUMNS * tile::COLUMNS;
    let place = |row: usize| [row * a.row_stride, row * c_stride];
    Places::of(rows, place, |places| {
        for column in (0..whole).step_by(tile::COLUMNS) {
            let mut target = Target::numbers(&mut c[column..], tile::COLUMNS, add);
            operands.make(places, column, &mut target);
        }
    });
    if whole < cols {
        let product = &Product { cols: cols - whole, ..*product };
        let b = b.get(whole..).unwrap_or_default();
        dispatch(RowByRow { a, b, product, c: &mut c[whole..] });
    }
}

/// The sizes of a transposition: `[rows, cols]` with `stride` numbers from row to row, to
/// `[cols, padded]`.
#[derive(Clone, Copy, Debug)]
pub struct Transposed {
    /// Rows of the source.
    pub rows: usize,
    /// Columns of the source, rows of the result.
    pub cols: usize,
    /// From one row of the source to the next.
    pub stride: usize,
    /// The length of the result's rows: at least `rows`, a multiple of 16.
    pub padded: usize,
}

impl Transposed {
    /// Checks that every element lies inside of its slice.
    fn check<T>(&self, from: &[T], to: &[T]) {
        let Self { rows, cols, stride, padded } = *self;
        assert!(padded >= rows && padded.is_multiple_of(16), "rows are padded to 16");
        assert!(
            rows == 0 || cols == 0 || from.len() >= (rows - 1) * stride + cols,
            "the source is too short"
        );
        assert!(to.len() >= cols * padded, "the result is too short");
    }
}

/// `to[c, j] = from[j, c]`, and 0 for `j` from `rows` on, whatever the machine.
pub fn transpose<T: Float>(from: &[T], sizes: &Transposed, to: &mut [T]) {
    sizes.check(from, to);
    for (c, to) in to.chunks_exact_mut(sizes.padded.max(1)).take(sizes.cols).enumerate() {
        let (lines, rest) = to.split_at_mut(sizes.rows);
        for (j, to) in lines.iter_mut().enumerate() {
            *to = from[j * sizes.stride + c];
        }
        rest.fill(T::ZERO);
    }
}

/// `to[c, j] = from[j, c]` in f32, by AVX-512 or AVX2 where the machine has it.
pub fn transpose_f32(from: &[f32], sizes: &Transposed, to: &mut [f32]) {
    sizes.check(from, to);
    #[cfg(target_arch = "x86_64")]
    match level() {
        Level::Avx512 | Level::Avx512Bf16 => {
            // SAFETY: the level was found, and the check above holds.
            return unsafe { block_avx512::transpose(from, sizes, to) };
        }
        Level::Avx2 => {
            // SAFETY: the level was found.
            return unsafe { block_avx2::transpose(from, sizes, to) };
        }
        Level::Portable => {}
    }
    transpose(from, sizes, to);
}

struct RowByRow<'a, T> {
    a: Left<'a, T>,
    b: &'a [T],
    product: &'a Product,
    c: &'a mut [T],
}

impl<T: Float> Kernel for RowByRow<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Product { rows, inner, cols, b_stride, c_stride, add } = *self.product;
        for i in 0..rows {
            let row = &mut self.c[i * c_stride..][..cols];
            if !add {
                row.fill(T::ZERO);
            }
            for k in 0..inner {
                let factor = self.a.data[i * self.a.row_stride + k * self.a.inner_stride];
                let b = &self.b[k * b_stride..][..cols];
                for (sum, b) in row.iter_mut().zip(b) {
                    *sum = factor.fma::<FMA>(*b, *sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::kernel::testing::{assert_close, numbers, to};

    fn naive(a: Left<'_, f64>, b: &[f64], product: &Product, start: &[f64]) -> Vec<f64> {
        let mut c = start.to_vec();
        for i in 0..product.rows {
            for j in 0..product.cols {
                let left = |k| a.data[i * a.row_stride + k * a.inner_stride];
                let sum: f64 =
                    (0..product.inner).map(|k| left(k) * b[k * product.b_stride + j]).sum();
                let kept = &mut c[i * product.c_stride + j];
                *kept = if product.add { *kept + sum } else { sum };
            }
        }
        c
    }

    fn check(rows: usize, inner: usize, cols: usize, add: bool) {
        let sizes = Product { rows, inner, cols, b_stride: cols + 3, c_stride: cols + 1, add };
        let (a, b) = (numbers(1, rows * inner), numbers(2, inner * sizes.b_stride));
        let start = numbers(3, rows * sizes.c_stride);
        let (a32, b32) = (to::<f32>(&a), to::<f32>(&b));
        for (row_stride, inner_stride) in [(1, rows), (inner, 1)] {
            let left = Left { data: &a, row_stride, inner_stride };
            let want = naive(left, &b, &sizes, &start);
            let mut got = start.clone();
            product(left, &b, &sizes, &mut got);
            assert_close(&got, &want, 1e-12);
            let mut got = to::<f32>(&start);
            product_f32(Left { data: &a32, row_stride, inner_stride }, &b32, &sizes, &mut got);
            assert_close(&got, &want, 1e-5);
        }
    }

    #[test]
    fn products_of_every_edge_size_agree_with_the_sum_of_products() {
        for rows in [0, 1, 2, 5, 6, 7, 13] {
            for inner in [0, 1, 3, 17] {
                for cols in [0, 1, 15, 16, 17, 31, 48, 64, 65, 80, 130] {
                    check(rows, inner, cols, (rows + cols) % 2 == 0);
                }
            }
        }
    }

    #[test]
    fn transposes_of_every_edge_size_hold_the_same_numbers_and_zeros() {
        for rows in [1, 3, 15, 16, 17, 33] {
            for cols in [1, 5, 16, 24, 64] {
                let stride = cols + 2;
                let sizes = Transposed { rows, cols, stride, padded: 48 };
                let from: Vec<f32> = (0..rows * stride).map(|i| i as f32).collect();
                let (mut to, mut plain) = (vec![-1.0; cols * 48], vec![-1.0; cols * 48]);
                transpose_f32(&from, &sizes, &mut to);
                transpose(&from, &sizes, &mut plain);
                assert_eq!(to, plain);
                for (i, to) in to.iter().enumerate() {
                    let (c, j) = (i / 48, i % 48);
                    let want = (j < rows).then(|| from[j * stride + c]);
                    assert_eq!(*to, want.unwrap_or(0.0));
                }
            }
        }
    }
}
