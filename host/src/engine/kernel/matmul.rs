//! Matrix products in f32 and f64, with any strides, on all threads.

use gemm::Parallelism;

use super::{Float, threads};

/// A matrix to read: element (i, j) is `data[i row_stride + j col_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// A row-major matrix `[rows, cols]`.
    ///
    /// # Panics
    /// When `data` is shorter.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::strided(data, [rows, cols], [cols, 1])
    }

    /// A matrix `[rows, cols]` with the strides `[row_stride, col_stride]`.
    ///
    /// # Panics
    /// When an element lies outside of `data`.
    pub fn strided(data: &'a [T], [rows, cols]: [usize; 2], strides: [usize; 2]) -> Self {
        let [row_stride, col_stride] = strides;
        assert!(data.len() >= extent([rows, cols], strides), "a matrix outside of its slice");
        Self { data, rows, cols, row_stride, col_stride }
    }

    /// The transposed matrix; nothing moves.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The strides: from row to row, from column to column.
    pub fn strides(&self) -> [usize; 2] {
        [self.row_stride, self.col_stride]
    }

    /// The elements, from the first one of the matrix on.
    pub fn data(&self) -> &'a [T] {
        self.data
    }
}

/// How many elements a matrix spans, from its first to its last.
fn extent([rows, cols]: [usize; 2], [row_stride, col_stride]: [usize; 2]) -> usize {
    if rows == 0 || cols == 0 {
        return 0;
    }
    (rows - 1) * row_stride + (cols - 1) * col_stride + 1
}

/// What happens to what the result held before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// It is replaced.
    Set,
    /// It is added to.
    Add,
}

/// `c = alpha a b` or `c += alpha a b`, where `a` is `[M, K]`, `b` is `[K, N]`, and `c` is `[M, N]`,
/// row-major.
///
/// # Panics
/// When the sizes don't fit together.
pub fn matmul<T: Float>(alpha: T, a: Matrix<'_, T>, b: Matrix<'_, T>, write: Write, c: &mut [T]) {
    let parallelism = match rayon::current_num_threads() {
        1 => Parallelism::None,
        threads => Parallelism::Rayon(threads),
    };
    multiply(alpha, a, b, (write, parallelism), c);
}

/// Like [`matmul`], on the calling thread alone.
///
/// # Panics
/// When the sizes don't fit together.
pub fn matmul_on_one_thread<T: Float>(
    alpha: T,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    write: Write,
    c: &mut [T],
) {
    multiply(alpha, a, b, (write, Parallelism::None), c);
}

fn multiply<T: Float>(
    alpha: T,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    (write, parallelism): (Write, Parallelism),
    c: &mut [T],
) {
    assert_eq!(a.cols, b.rows, "the inner sizes of a matrix product differ");
    let (m, n, k) = (a.rows, b.cols, a.cols);
    let c = &mut c[..m * n];
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if write == Write::Set {
            c.fill(T::ZERO);
        }
        return;
    }
    let stride = |stride: usize| stride as isize;
    // SAFETY: `Matrix` checked that every element of a and b lies in its slice, and the slicing above
    // that c holds [m, n]; c is borrowed mutably, so it overlaps neither.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            stride(n),
            write == Write::Add,
            a.data.as_ptr(),
            stride(a.col_stride),
            stride(a.row_stride),
            b.data.as_ptr(),
            stride(b.col_stride),
            stride(b.row_stride),
            T::ONE,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// A stack of matrices of one shape, `stride` elements apart; 0 repeats the first one.
#[derive(Clone, Copy, Debug)]
pub struct Stack<'a, T> {
    data: &'a [T],
    sizes: [usize; 2],
    strides: [usize; 2],
    stride: usize,
}

impl<'a, T> Stack<'a, T> {
    /// Row-major matrices `[rows, cols]`, one after the other.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::strided(data, [rows, cols], [cols, 1], rows * cols)
    }

    /// Matrices of `sizes` with the given `strides` inside of a matrix, and `stride` between them.
    pub fn strided(data: &'a [T], sizes: [usize; 2], strides: [usize; 2], stride: usize) -> Self {
        Self { data, sizes, strides, stride }
    }

    /// The transposed matrices; nothing moves.
    #[must_use]
    pub fn transposed(self) -> Self {
        let ([rows, cols], [row, col]) = (self.sizes, self.strides);
        Self { sizes: [cols, rows], strides: [col, row], ..self }
    }

    /// The matrix number `index`.
    ///
    /// # Panics
    /// When it lies outside of the slice.
    pub fn matrix(&self, index: usize) -> Matrix<'a, T> {
        Matrix::strided(&self.data[index * self.stride..], self.sizes, self.strides)
    }
}

/// `c[i] = alpha a[i] b[i]` (or `+=`) for every matrix of `c`, row-major `[batch, M, N]`.
///
/// # Panics
/// When the sizes don't fit together.
pub fn matmul_batched<T: Float>(
    alpha: T,
    a: Stack<'_, T>,
    b: Stack<'_, T>,
    write: Write,
    c: &mut [T],
) {
    let size = a.sizes[0] * b.sizes[1];
    if size == 0 {
        return;
    }
    let batch = c.len() / size;
    // Large matrices keep all threads busy one by one.
    if batch < rayon::current_num_threads() || size * a.sizes[1] > 1 << 24 {
        for (i, c) in c.chunks_exact_mut(size).enumerate() {
            matmul(alpha, a.matrix(i), b.matrix(i), write, c);
        }
        return;
    }
    threads::chunks(c, size, |i, c| {
        matmul_on_one_thread(alpha, a.matrix(i), b.matrix(i), write, c);
    });
}

/// The sizes of a linear layer's product: `rows` inputs of `inputs` numbers, outputs of `outputs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// How many vectors there are, M.
    pub rows: usize,
    /// The length of each, I.
    pub inputs: usize,
    /// The length of each result, O.
    pub outputs: usize,
}

/// `x w^T + b`, `[M, O]`: x `[M, I]`, w `[O, I]`, b `[O]`.
///
/// # Panics
/// When a slice is too short.
pub fn linear<T: Float>(x: &[T], w: &[T], bias: Option<&[T]>, sizes: Linear) -> Vec<T> {
    let Linear { rows, inputs, outputs } = sizes;
    let mut y = threads::zeros(rows * outputs);
    if let Some(bias) = bias {
        repeat_row(bias, &mut y);
    }
    let w = Matrix::new(w, outputs, inputs).transposed();
    matmul(T::ONE, Matrix::new(x, rows, inputs), w, Write::Add, &mut y);
    y
}

/// `dy w`: the gradient of [`linear`] to its input, `[M, I]`.
///
/// # Panics
/// When a slice is too short.
pub fn linear_grad_input<T: Float>(dy: &[T], w: &[T], sizes: Linear) -> Vec<T> {
    let Linear { rows, inputs, outputs } = sizes;
    let mut dx = threads::zeros(rows * inputs);
    let (dy, w) = (Matrix::new(dy, rows, outputs), Matrix::new(w, outputs, inputs));
    matmul(T::ONE, dy, w, Write::Set, &mut dx);
    dx
}

/// `dy^T x`, the gradient of [`linear`] to its weight `[O, I]`, and the sums of dy, that to its bias.
///
/// # Panics
/// When a slice is too short.
pub fn linear_grad_weight<T: Float>(dy: &[T], x: &[T], sizes: Linear) -> (Vec<T>, Vec<T>) {
    let Linear { rows, inputs, outputs } = sizes;
    let mut dw = threads::zeros(outputs * inputs);
    let across = Matrix::new(dy, rows, outputs).transposed();
    matmul(T::ONE, across, Matrix::new(x, rows, inputs), Write::Set, &mut dw);
    let mut db = vec![T::ZERO; outputs];
    column_sums(dy, Write::Set, &mut db);
    (dw, db)
}

/// Fills every row of `out` `[rows, D]` with `row` `[D]`.
pub fn repeat_row<T: Float>(row: &[T], out: &mut [T]) {
    if row.is_empty() {
        return;
    }
    threads::chunks(out, threads::rows_per_task(row.len()) * row.len(), |_, out| {
        for out in out.chunks_exact_mut(row.len()) {
            out.copy_from_slice(row);
        }
    });
}

/// `sums[j] = sum_i x[i, j]` (or `+=`) of x `[rows, D]`: a bias' gradient, `[D]`.
pub fn column_sums<T: Float>(x: &[T], write: Write, sums: &mut [T]) {
    let width = sums.len();
    if write == Write::Set {
        sums.fill(T::ZERO);
    }
    if width == 0 {
        return;
    }
    let rows = threads::rows_per_partial_sum(x.len() / width, width);
    let mut partials = vec![T::ZERO; x.len().div_ceil(rows * width) * width];
    threads::chunks(&mut partials, width, |i, partial| {
        let start = i * rows * width;
        for row in x[start..x.len().min(start + rows * width)].chunks_exact(width) {
            for (sum, value) in partial.iter_mut().zip(row) {
                *sum += *value;
            }
        }
    });
    threads::add_partial_sums(&partials, sums);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::kernel::testing::{assert_close, numbers, to};

    fn naive(a: &Matrix<'_, f64>, b: &Matrix<'_, f64>) -> Vec<f64> {
        let at = |m: &Matrix<'_, f64>, i, j| m.data[i * m.row_stride + j * m.col_stride];
        let mut c = Vec::new();
        for i in 0..a.rows {
            for j in 0..b.cols {
                c.push((0..a.cols).map(|k| at(a, i, k) * at(b, k, j)).sum());
            }
        }
        c
    }

    fn check<T: Float>(sizes: [usize; 3], tolerance: f64) {
        let [m, k, n] = sizes;
        let (a, b) = (numbers(1, m * k), numbers(2, k * n));
        let (at, bt) = (to::<T>(&a), to::<T>(&b));
        for (a_flip, b_flip) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut c = to::<T>(&vec![9.0; m * n]);
            let (a, b) = (flip(&a, m, k, a_flip), flip(&b, k, n, b_flip));
            let (at, bt) = (flip(&at, m, k, a_flip), flip(&bt, k, n, b_flip));
            matmul(T::ONE, at, bt, Write::Set, &mut c);
            matmul(T::HALF, at, bt, Write::Add, &mut c);
            let want: Vec<f64> = naive(&a, &b).iter().map(|c| c * 1.5).collect();
            assert_close(&c, &want, tolerance);
        }
    }

    fn flip<T>(data: &[T], rows: usize, cols: usize, flipped: bool) -> Matrix<'_, T> {
        if flipped {
            Matrix::new(data, cols, rows).transposed()
        } else {
            Matrix::new(data, rows, cols)
        }
    }

    #[test]
    fn products_agree_with_the_sum_of_products_in_all_orientations() {
        for sizes in [[1, 1, 1], [1, 7, 5], [3, 1, 2], [17, 33, 65], [64, 5, 1], [40, 130, 24]] {
            check::<f32>(sizes, 2e-5);
            check::<f64>(sizes, 1e-12);
        }
    }

    #[test]
    fn an_empty_inner_size_gives_zeros_and_empty_results_are_allowed() {
        let mut c = vec![1.0_f32; 4];
        matmul(1.0, Matrix::new(&[], 2, 0), Matrix::new(&[], 0, 2), Write::Set, &mut c);
        assert_eq!(c, [0.0; 4]);
        matmul(1.0, Matrix::new(&[], 0, 2), Matrix::new(&c, 2, 2), Write::Set, &mut []);
    }

    #[test]
    fn a_batch_is_the_product_of_each_pair() {
        let (a, b) = (numbers(3, 5 * 3 * 4), numbers(4, 4 * 2));
        let mut c = vec![0.0; 5 * 3 * 2];
        let shared = Stack::strided(&b, [4, 2], [2, 1], 0);
        matmul_batched(1.0, Stack::new(&a, 3, 4), shared, Write::Set, &mut c);
        let want = naive(&Matrix::new(&a, 15, 4), &Matrix::new(&b, 4, 2));
        assert_close(&c, &want, 1e-12);
        let mut c = vec![0.0; 5 * 3 * 3];
        let stack = Stack::new(&a, 3, 4);
        matmul_batched(1.0, stack, stack.transposed(), Write::Set, &mut c);
        let last = Matrix::new(&a[48..], 3, 4);
        assert_close(&c[36..], &naive(&last, &last.transposed()), 1e-12);
    }

    #[test]
    fn a_linear_layer_and_its_gradients_agree_with_their_formulas() {
        let sizes = Linear { rows: 70, inputs: 5, outputs: 3 };
        let (x, w, b) = (numbers(5, 70 * 5), numbers(6, 15), numbers(7, 3));
        let dy = numbers(8, 70 * 3);
        let y = linear(&x, &w, Some(&b), sizes);
        let (xm, wm) = (Matrix::new(&x, 70, 5), Matrix::new(&w, 3, 5));
        let want: Vec<f64> =
            naive(&xm, &wm.transposed()).iter().enumerate().map(|(i, v)| v + b[i % 3]).collect();
        assert_close(&y, &want, 1e-12);
        let (dym, mut db) = (Matrix::new(&dy, 70, 3), vec![0.0; 3]);
        assert_close(&linear_grad_input(&dy, &w, sizes), &naive(&dym, &wm), 1e-12);
        let (dw, sums) = linear_grad_weight(&dy, &x, sizes);
        assert_close(&dw, &naive(&dym.transposed(), &xm), 1e-12);
        column_sums(&dy, Write::Set, &mut db);
        let want: Vec<f64> = (0..3).map(|j| (0..70).map(|i| dy[i * 3 + j]).sum()).collect();
        assert_close(&db, &want, 1e-12);
        assert_eq!(db, sums);
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let (a, b) = (to::<f32>(&numbers(1, 300 * 777)), to::<f32>(&numbers(2, 777 * 130)));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut c = vec![0.0_f32; 300 * 130];
            let mut sums = vec![0.0_f32; 777];
            pool.install(|| {
                let (a, b) = (Matrix::new(&a, 300, 777), Matrix::new(&b, 777, 130));
                matmul(1.0, a, b, Write::Set, &mut c);
                column_sums(a.data(), Write::Set, &mut sums);
            });
            c.extend(sums);
            c.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let one = run(1);
        assert_eq!(one, run(2));
        assert_eq!(one, run(3));
    }
}
