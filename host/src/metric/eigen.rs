//! Eigenvalues and eigenvectors of a symmetric matrix in f64: Householder, then implicit QL.
//!
//! Golub and Van Loan, "Matrix computations", sections 8.3.1 and 8.3.3. O(n^3); some tenths of a
//! second for n = 768 without vectors.

use crate::{Error, Result};

/// QL needs about two sweeps per eigenvalue; this many means that something isn't a number.
const MOST_SWEEPS: usize = 60;

/// A symmetric matrix' eigenvalues, largest first, and its eigenvectors.
#[derive(Clone, Debug)]
pub struct Eigen {
    /// The eigenvalues, largest first.
    pub values: Vec<f64>,
    /// The unit eigenvectors, one per row, in the order of the values: `[n, n]`.
    pub vectors: Vec<f64>,
}

/// The eigenvalues of the symmetric `matrix` `[n, n]`, largest first.
///
/// # Errors
/// When the matrix holds a value that isn't finite.
pub fn values(matrix: Vec<f64>, n: usize) -> Result<Vec<f64>> {
    let mut solver = Solver::new(matrix, n)?;
    solver.tridiagonalize();
    solver.diagonalize(&mut [])?;
    solver.diagonal.sort_by(|a, b| b.total_cmp(a));
    Ok(solver.diagonal)
}

/// The eigenvalues and eigenvectors of the symmetric `matrix` `[n, n]`.
///
/// # Errors
/// When the matrix holds a value that isn't finite.
pub fn decompose(matrix: Vec<f64>, n: usize) -> Result<Eigen> {
    let mut solver = Solver::new(matrix, n)?;
    solver.tridiagonalize();
    let mut rows = solver.reflections();
    solver.diagonalize(&mut rows)?;
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| solver.diagonal[*b].total_cmp(&solver.diagonal[*a]));
    Ok(Eigen {
        values: order.iter().map(|i| solver.diagonal[*i]).collect(),
        vectors: order.iter().flat_map(|i| rows[i * n..(i + 1) * n].iter().copied()).collect(),
    })
}

/// The matrix on its way to a diagonal.
struct Solver {
    n: usize,
    /// Full symmetric `[n, n]`; after [`Solver::tridiagonalize`] row `k` holds reflection `k` from
    /// column `k + 1` on.
    matrix: Vec<f64>,
    /// 2 / |v|^2 of each reflection, 0 for none.
    scales: Vec<f64>,
    diagonal: Vec<f64>,
    /// `off[i]` couples `i` and `i + 1`; the last is 0.
    off: Vec<f64>,
}

impl Solver {
    fn new(matrix: Vec<f64>, n: usize) -> Result<Self> {
        if matrix.len() != n * n || matrix.iter().any(|value| !value.is_finite()) {
            return Err(Error::failed(format!("not a finite symmetric matrix of size {n}")));
        }
        let zeros = || vec![0.0; n];
        Ok(Self { n, matrix, scales: zeros(), diagonal: zeros(), off: zeros() })
    }

    /// Reflects row and column `k` onto the first off-diagonal, for each `k` in turn.
    fn tridiagonalize(&mut self) {
        let n = self.n;
        for k in 0..n {
            self.diagonal[k] = self.matrix[k * n + k];
            if k + 1 < n {
                self.reflect(k);
            }
        }
    }

    fn reflect(&mut self, k: usize) {
        let n = self.n;
        let v = &mut self.matrix[k * n + k + 1..(k + 1) * n];
        let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        self.off[k] = if v[0] > 0.0 { -norm } else { norm };
        if v[1..].iter().all(|x| *x == 0.0) {
            self.off[k] = v[0];
            return;
        }
        v[0] -= self.off[k];
        let scale = 2.0 / v.iter().map(|x| x * x).sum::<f64>();
        self.scales[k] = scale;
        let v = v.to_vec();
        let rest = &mut self.matrix[(k + 1) * n..];
        // A <- H A H with H = 1 - scale v v^T, as A - v w^T - w v^T.
        let mut w: Vec<f64> =
            rest.chunks_exact(n).map(|row| scale * dot(&row[k + 1..], &v)).collect();
        let half = 0.5 * scale * dot(&w, &v);
        w.iter_mut().zip(&v).for_each(|(w, v)| *w -= half * v);
        for (i, row) in rest.chunks_exact_mut(n).enumerate() {
            for (a, (vj, wj)) in row[k + 1..].iter_mut().zip(v.iter().zip(&w)) {
                *a -= v[i] * wj + w[i] * vj;
            }
        }
    }

    /// The product of all reflections, transposed: rows are what QL's rotations then mix.
    fn reflections(&self) -> Vec<f64> {
        let n = self.n;
        let mut rows = vec![0.0; n * n];
        (0..n).for_each(|i| rows[i * n + i] = 1.0);
        for k in (0..n.saturating_sub(1)).rev() {
            let v = &self.matrix[k * n + k + 1..(k + 1) * n];
            for row in rows[(k + 1) * n..].chunks_exact_mut(n) {
                let along = self.scales[k] * dot(&row[k + 1..], v);
                row[k + 1..].iter_mut().zip(v).for_each(|(x, v)| *x -= along * v);
            }
        }
        rows
    }

    /// Implicit QL with Wilkinson's shift; each rotation is applied to `rows` (`[n, n]` or empty).
    fn diagonalize(&mut self, rows: &mut [f64]) -> Result<()> {
        let n = self.n;
        for low in 0..n {
            for sweep in 0.. {
                let high = (low..n - 1).find(|i| self.is_split(*i)).unwrap_or(n - 1);
                if high == low {
                    break;
                }
                if sweep == MOST_SWEEPS {
                    return Err(Error::failed("an eigenvalue did not converge"));
                }
                self.sweep(low, high, rows);
            }
        }
        Ok(())
    }

    /// Whether the coupling of `i` and `i + 1` is nothing but rounding.
    fn is_split(&self, i: usize) -> bool {
        let around = self.diagonal[i].abs() + self.diagonal[i + 1].abs();
        self.off[i].abs() <= f64::EPSILON * around
    }

    /// One QL sweep over the block `low..=high`, from its end to its start.
    fn sweep(&mut self, low: usize, high: usize, rows: &mut [f64]) {
        let (n, d, e) = (self.n, &mut self.diagonal, &mut self.off);
        let ratio = (d[low + 1] - d[low]) / (2.0 * e[low]);
        let root = ratio.hypot(1.0).copysign(ratio);
        let mut g = d[high] - d[low] + e[low] / (ratio + root);
        let (mut sin, mut cos, mut shift) = (1.0, 1.0, 0.0);
        for i in (low..high).rev() {
            let (f, b) = (sin * e[i], cos * e[i]);
            let r = f.hypot(g);
            e[i + 1] = r;
            if r == 0.0 {
                // The block fell apart by underflow: the next sweep starts from what is left.
                d[i + 1] -= shift;
                e[high] = 0.0;
                return;
            }
            (sin, cos) = (f / r, g / r);
            g = d[i + 1] - shift;
            let t = (d[i] - g) * sin + 2.0 * cos * b;
            shift = sin * t;
            d[i + 1] = g + shift;
            g = cos * t - b;
            if !rows.is_empty() {
                rotate(&mut rows[i * n..(i + 2) * n], n, sin, cos);
            }
        }
        d[low] -= shift;
        e[low] = g;
        e[high] = 0.0;
    }
}

/// Mixes two neighbouring rows of length `n`.
fn rotate(rows: &mut [f64], n: usize, sin: f64, cos: f64) {
    let (upper, lower) = rows.split_at_mut(n);
    for (x, y) in upper.iter_mut().zip(lower) {
        (*x, *y) = (cos * *x - sin * *y, sin * *x + cos * *y);
    }
}

/// The inner product, in eight sums side by side so that it vectorises.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for (sum, (x, y)) in sums.iter_mut().zip(x.iter().zip(y)) {
            *sum += x * y;
        }
    }
    sums.iter().sum::<f64>() + tail
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn symmetric(n: usize) -> Vec<f64> {
        let mut stream = Stream::new(0, "symmetric", n as u64, 0);
        let mut matrix = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..=i {
                let value = stream.normal();
                (matrix[i * n + j], matrix[j * n + i]) = (value, value);
            }
        }
        matrix
    }

    /// The largest error of `A v = lambda v` and of `v_i v_j = delta_ij`.
    fn worst(matrix: &[f64], n: usize, eigen: &Eigen) -> f64 {
        let vector = |i: usize| &eigen.vectors[i * n..(i + 1) * n];
        let mut worst: f64 = 0.0;
        for i in 0..n {
            for row in 0..n {
                let product = dot(&matrix[row * n..(row + 1) * n], vector(i));
                worst = worst.max((product - eigen.values[i] * vector(i)[row]).abs());
                let identity = f64::from(u8::from(i == row));
                worst = worst.max((dot(vector(i), vector(row)) - identity).abs());
            }
        }
        worst
    }

    #[test]
    fn vectors_are_orthonormal_and_only_scaled_by_the_matrix() {
        for n in [1, 2, 3, 8, 33, 80] {
            let matrix = symmetric(n);
            let eigen = decompose(matrix.clone(), n).unwrap();
            assert!(worst(&matrix, n, &eigen) < 1e-10, "size {n}");
            assert!(eigen.values.is_sorted_by(|a, b| a >= b));
            let alone = values(matrix, n).unwrap();
            assert!(alone.iter().zip(&eigen.values).all(|(a, b)| (a - b).abs() < 1e-10));
        }
    }

    #[test]
    fn a_matrix_worked_by_hand() {
        let eigen = decompose(vec![2.0, 1.0, 1.0, 2.0], 2).unwrap();
        assert!((eigen.values[0] - 3.0).abs() < 1e-14 && (eigen.values[1] - 1.0).abs() < 1e-14);
        assert!((eigen.vectors[0] - eigen.vectors[1]).abs() < 1e-14);
        // The path graph's second differences: 2 - 2 cos(k pi / (n + 1)).
        let n = 10;
        let mut path = vec![0.0; n * n];
        for i in 0..n {
            path[i * n + i] = 2.0;
            if i + 1 < n {
                (path[i * n + i + 1], path[(i + 1) * n + i]) = (-1.0, -1.0);
            }
        }
        for (k, value) in values(path, n).unwrap().iter().rev().enumerate() {
            let angle = (k + 1) as f64 * std::f64::consts::PI / (n + 1) as f64;
            assert!((value - (2.0 - 2.0 * angle.cos())).abs() < 1e-13);
        }
    }

    #[test]
    fn equal_and_zero_eigenvalues_are_found() {
        assert_eq!(values(vec![0.0; 16], 4).unwrap(), [0.0; 4]);
        let ones = values(vec![1.0; 25], 5).unwrap();
        assert!((ones[0] - 5.0).abs() < 1e-12 && ones[1..].iter().all(|v| v.abs() < 1e-12));
        assert!(values(Vec::new(), 0).unwrap().is_empty());
    }

    #[test]
    fn a_matrix_that_is_not_finite_is_refused() {
        assert!(values(vec![f64::NAN], 1).is_err());
    }
}
